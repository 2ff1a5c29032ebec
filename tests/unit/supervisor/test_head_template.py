"""When a head leaves the template for its workers, and what it says where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.supervisor.head_template import HeadTemplate

FAILED = StartFailure("ray", "Ray is not as known")


class Run:
    """A head whose templates are made, or not, as a test says."""

    def __init__(self, *, early: Any, late: Any) -> None:
        self.written: list[str] = []
        self.notes: list[str] = []
        self.made: list[str] = []
        self.tasks = self
        info = SimpleNamespace(installation="this one")
        self.entry = SimpleNamespace(info=info, update=lambda **new: vars(info).update(new))
        self.reports = SimpleNamespace(record=self, quietly=self.quietly)
        make = lambda how, what: lambda *_: self._make(how, what)  # noqa: E731
        templates = SimpleNamespace(make_early=make("early", early), make=make("late", late))
        self.node = SimpleNamespace(plan="plan", templates=templates)
        self.report = SimpleNamespace(note=self.notes.append)

    async def start_ray(self, template: HeadTemplate) -> None:
        template.begin(self.node)  # type: ignore[arg-type]
        await template.publish(self.node)  # type: ignore[arg-type]

    async def _make(self, how: str, what: Any) -> dict[str, str]:
        self.made.append(how)
        await asyncio.sleep(0)
        if isinstance(what, Exception):
            raise what
        return {"launch": how}

    def start(self, _: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.ensure_future(work)

    def write_template(self, _: Any) -> None:
        raise AssertionError("only by quietly")

    def quietly(self, _: Any, template: dict[str, str]) -> None:
        assert template["installation"] == "this one"
        self.written.append(template["launch"])


def template_of(run: Any) -> HeadTemplate:
    return HeadTemplate(run, run.entry, "cluster")


@pytest.mark.parametrize(
    ("early", "late", "made", "written", "installation"),
    [
        ("", "", ["early"], ["early"], "this one"),
        (FAILED, "", ["early", "late"], ["late"], "this one"),
        (FAILED, FAILED, ["early", "late"], [], ""),  # the workers, which wait for it, see that
    ],
)
def test_the_template_is_written_once(
    early: Any, late: Any, made: list[str], written: list[str], installation: str
) -> None:
    async def test() -> None:
        run = Run(early=early, late=late)
        await run.start_ray(template_of(run))
        assert (run.made, run.written, run.entry.info.installation) == (made, written, installation)
        assert len(run.notes) == len(made) - len(written)

    asyncio.run(test())


def test_a_head_that_promises_none_makes_none() -> None:
    async def test() -> None:
        run = Run(early="", late="")
        run.entry.info.installation = ""
        await run.start_ray(template_of(run))
        assert run.made == []

    asyncio.run(test())


def test_a_head_that_is_started_again_leaves_a_new_one() -> None:
    async def test() -> None:
        run = Run(early="", late="")
        template = template_of(run)
        for _ in range(2):
            await run.start_ray(template)
        assert run.written == ["early", "early"]

    asyncio.run(test())
