"""Jobs on a bed: submit, wait, look."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Mapping

from tests.bed.bed import NOTHING, Bed
from tests.bed.spec import LOGIN
from tests.waiting import wait_until

UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "STOPPED"}
JOB_DEADLINE_S = 120.0


@dataclasses.dataclass(frozen=True)
class JobEnd:
    """How a job ended, in Slurm's words."""

    state: str
    """COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, PREEMPTED …"""
    exit_code: int
    signal: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that was submitted on ``bed``."""

    bed: Bed
    id: str
    user: str

    def show(self) -> list[dict[str, str]]:
        """The fields of `scontrol show job`: once, or for each component of a heterogeneous job or array."""
        text = self.bed.run(LOGIN, ["scontrol", "-o", "show", "job", self.id], check=True).stdout
        lines = [line.split() for line in text.splitlines() if line]
        return [dict(word.split("=", 1) for word in words if "=" in word) for words in lines]

    def state(self) -> str:
        """The state of the first component, in Slurm's words."""
        return self.show()[0]["JobState"]

    def output(self) -> str:
        """What the batch script and its steps have written so far; errors too, unless --error was given."""
        path = self.bed.path(LOGIN, self.show()[0]["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, timeout_s: float = JOB_DEADLINE_S) -> JobEnd:
        """Waits until the job has ended and its nodes are free; AssertionError with its output if not.

        Of several components it gives the first that failed.
        """

        def ended() -> list[dict[str, str]] | None:
            parts = self.show()
            return parts if all(fields["JobState"] not in UNFINISHED for fields in parts) else None

        try:
            parts = wait_until(ended, timeout_s=timeout_s, what=f"the end of job {self.id}", interval_s=0.2)
        except AssertionError as error:
            fields = self.show()[0]
            where = f"{fields['JobState']}, reason {fields['Reason']}"
            raise AssertionError(f"{error}; it is {where}; its output:\n{self.output()}") from None
        ends = [JobEnd(fields["JobState"], *map(int, fields["ExitCode"].split(":"))) for fields in parts]
        return next((end for end in ends if end.state != "COMPLETED"), ends[0])

    def wait_for(self, text: str, timeout_s: float = JOB_DEADLINE_S) -> str:
        """Waits until the output holds ``text``, and gives it all; fails early when the job ends without."""

        def said() -> str | None:
            over = self.state() not in UNFINISHED  # Asked first, so that the last words are not missed.
            output = self.output()
            assert text in output or not over, f"job {self.id} ended without {text!r}:\n{output}"
            return output if text in output else None

        return wait_until(said, timeout_s=timeout_s, what=f"{text!r} from job {self.id}")

    def cancel(self, *options: str) -> None:
        """scancel with ``options``, such as --signal=USR1."""
        self.bed.run(LOGIN, ["scancel", *options, self.id], check=True)


class Slurm:
    """What a test does with a bed; the jobs that it submits are cancelled after it."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.run = bed.run
        self.jobs: list[Job] = []

    def sbatch(
        self,
        script: str,
        *options: str,
        user: str = "root",
        env: Mapping[str, str] = NOTHING,
        wd: str = "",
    ) -> Job:
        """Submits a script, given as text, from the login host; output goes to the user's home."""
        if not script.startswith("#!"):
            script = f"#!/bin/bash\n{script}"
        command = ["sbatch", "--parsable", *options]
        done = self.bed.run(LOGIN, command, user=user, env=env, wd=wd, stdin=script, check=True)
        job = Job(self.bed, done.stdout.strip().partition(";")[0], user)
        self.jobs.append(job)
        return job

    def srun(
        self,
        *words: str,
        user: str = "root",
        env: Mapping[str, str] = NOTHING,
        wd: str = "",
        timeout_s: float = JOB_DEADLINE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `srun WORDS` on the login host, in an allocation of its own."""
        return self.bed.run(LOGIN, ["srun", *words], user=user, env=env, wd=wd, timeout_s=timeout_s)

    def leftovers(self) -> dict[str, list[str]]:
        """What each host has that it had not when the bed was new; hosts with nothing are left out."""
        found = {host: self.bed.leftovers(host) for host in self.bed.spec.names}
        return {host: lines for host, lines in found.items() if lines}

    def assert_nothing_left(self, timeout_s: float = 15) -> None:
        """Waits until no host has a process, file or socket that it had not when the bed was new."""
        try:
            wait_until(lambda: not self.leftovers(), timeout_s=timeout_s, what="hosts without leftovers")
        except AssertionError:
            lines = [f"{host}: {line}" for host, lines in self.leftovers().items() for line in lines]
            raise AssertionError("\n".join(["left behind:", *lines[:50]])) from None

    def restore(self) -> None:
        """Cancels this test's jobs and brings the hosts back, so that the next test finds the bed as new.

        A host on which something was left behind is powered off and on again.
        """
        for job in self.jobs:
            self.bed.run(LOGIN, ["scancel", "--quiet", job.id])
        for host in self.bed.spec.names:
            if not self.bed.is_on(host):
                self.bed.power_on(host)
            self.bed.cable(host, up=True)
        # Of use where Slurm has drained a node, and refused where it has not.
        self.bed.run(
            LOGIN, ["scontrol", "update", f"NodeName={','.join(self.bed.spec.nodes)}", "State=RESUME"]
        )
        self._await_idle()
        with contextlib.suppress(AssertionError):
            self.assert_nothing_left(timeout_s=1)
        for host in self.leftovers():
            if host == LOGIN:
                self._stop_controller()
            self.bed.power_off(host)
            self.bed.power_on(host)
        self._await_idle()

    def _stop_controller(self) -> None:
        """Lets slurmctld save its state, which it else does some seconds late: job ids would come twice."""
        wait = 'while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done'
        self.bed.run(
            LOGIN, ["sh", "-c", f'pid=$(cat /run/slurmctld.pid) && kill "$pid" && {wait}'], timeout_s=60
        )

    def _await_idle(self) -> None:
        # slurmctld asks a host that was away again after a third of SlurmdTimeout, and of its job even later.
        wait_until(self.bed.idle, timeout_s=240, what="idle nodes after the test")
