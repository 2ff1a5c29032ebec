"""Whether the tasks on silent nodes are still there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from raycluster_cli.slurm.job_calls import TaskProbe


def test_a_task_probe_needs_two_answers_that_agree() -> None:
    async def main() -> None:
        asked: list[Sequence[str]] = []

        async def ask(hosts: Sequence[str]) -> list[str]:
            asked.append(hosts)
            return [["n2", "n3"], ["n3"], []][len(asked) - 1]

        task_probe = TaskProbe(ask, first_s=0.0, confirm_s=0.0)
        answers = []
        for _ in range(4):
            answers.append(task_probe.ended(["n2", "n3"]))
            await asyncio.sleep(0.01)
        assert answers == [[], [], [], ["n3"]]
        assert asked == [("n2", "n3")] * 2

    asyncio.run(main())
