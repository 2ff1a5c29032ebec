"""Slurm's commands for worker jobs: run here, or by `raycluster scale JOB --serve` on another host.

Where sbatch is missing on the head's node, or Slurm refuses jobs from it, a server on a login node does it:
the command goes into the record as a file, and the answer comes back as one (:mod:`..state.worker_jobs`).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from ..model.errors import RayclusterError
from ..model.value import Value
from ..model.worker_job import LaunchRequest
from ..rayproc.client import PRIVATE
from ..slurm.answer import Run
from ..slurm.queue import outside_job
from ..slurm.sbatch_variables import DROPPED
from ..slurm.worker_command import COMMAND_TIMEOUT_S, run_for_workers
from ..state.worker_jobs import WorkerJobFiles
from ..system.programs import find_program

#: A server that has not reported for this long is gone (it reports every 5 s).
SERVER_STALE_S = 20.0

#: How long the answer to a request may take: the server looks once a second, and the command has a deadline.
REPLY_TIMEOUT_S = COMMAND_TIMEOUT_S + SERVER_STALE_S
REPLY_INTERVAL_S = 0.2

#: Variables of one cluster and one job, which the next job must not have.
_OF_A_CLUSTER = (
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_ID"),
    *("RAY_NAMESPACE", "RAY_NODE_TYPE_NAME", "RAY_CLOUD_INSTANCE_ID", "ip_head"),
    *("RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"),
)

_NODE_TMPDIR = re.compile(r"/rc-\d+-[0-9a-f]{8}(/|\Z)")


class Answer(Value):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    by: str = ""
    """The host of the server that ran it; empty: it ran here."""


class MissingCommandError(RayclusterError):
    """The command is not here, and no server is there to run it."""


class SlowCommandError(RayclusterError):
    """The command did not answer in time: what it was to do may have happened or not."""


def job_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of worker jobs: that of the head's job, without what is the job's or the cluster's own.

    >>> job_environment({"PATH": "/bin", "SLURM_JOB_ID": "7", "RAY_ADDRESS": "n1:6379", "SBATCH_GPUS": "8"})
    {'PATH': '/bin'}
    """
    dropped = {*PRIVATE, *_OF_A_CLUSTER, *DROPPED}
    if _NODE_TMPDIR.search(env.get("TMPDIR", "")):
        dropped.add("TMPDIR")
    return {name: value for name, value in outside_job(env).items() if name not in dropped}


class Commands:
    """Runs sbatch, squeue and scancel of one cluster."""

    def __init__(
        self,
        files: WorkerJobFiles,
        env: Mapping[str, str],
        *,
        run: Run = subprocess.run,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = files
        self._env = job_environment(env)
        self._run = run
        self._clock = clock
        self._sleep = sleep
        self._number = 0
        self._stamp: int | None = None
        self._stamp_seen = 0.0

    def call(self, program: str, arguments: Sequence[str]) -> Answer:
        """Run a command, here or by the server.

        While there is a server it does the submitting; squeue and scancel run here if they are here.  Raises
        MissingCommandError and SlowCommandError.
        """
        here = find_program(program, self._env)
        if (program == "sbatch" or here is None) and self.is_served():
            return self._by_server(program, arguments)
        if here is None:
            raise MissingCommandError(
                f"{program} was not found on this node.",
                "Run `raycluster scale JOB --serve` on a login node: it submits the cluster's worker jobs.",
            )
        try:
            done = run_for_workers(program, here, arguments, self._env, self._run)
        except subprocess.TimeoutExpired as error:
            raise SlowCommandError(f"{program} did not answer within {COMMAND_TIMEOUT_S:g} s.") from error
        except OSError as error:
            raise MissingCommandError(f"{here} cannot be started: {error.strerror}.") from error
        return Answer(done.returncode, done.stdout, done.stderr)

    def is_served(self) -> bool:
        """Whether a server reported in the last 20 s, by this host's clock or by what was seen here."""
        stamp = self._files.launches.serving_stamp()
        now = self._clock()
        if stamp != self._stamp:
            self._stamp_seen = now if self._stamp is not None else 0.0
            self._stamp = stamp
        return stamp is not None and (
            abs(now - stamp / 1e9) < SERVER_STALE_S or now - self._stamp_seen < SERVER_STALE_S
        )

    def _by_server(self, program: str, arguments: Sequence[str]) -> Answer:
        # Numbers go on after Ray's autoscaler was started again: no late answer is taken for another's.
        self._number = number = max(self._number + 1, int(self._clock()))
        self._files.launches.write_request(
            LaunchRequest(number, program, tuple(arguments), self._clock(), dict(self._env))
        )
        begun = self._clock()
        try:
            while (waited_s := self._clock() - begun) < REPLY_TIMEOUT_S:
                reply = self._files.launches.read_reply(number)
                if reply is not None:
                    return Answer(reply.code, reply.stdout, reply.stderr, reply.by or "the server")
                if (
                    waited_s > SERVER_STALE_S
                    and not self.is_served()
                    and self._files.launches.withdraw_request(number)
                ):
                    raise MissingCommandError(
                        "`raycluster scale JOB --serve`, which submitted the worker jobs, has ended.",
                        "Run it again on a login node.",
                    )
                self._sleep(REPLY_INTERVAL_S)
            if self._files.launches.withdraw_request(number):
                raise MissingCommandError(
                    f"`raycluster scale JOB --serve` did not take the request for {program} within "
                    f"{REPLY_TIMEOUT_S:g} s."
                )
            raise SlowCommandError(
                f"`raycluster scale JOB --serve` did not answer the request for {program} within "
                f"{REPLY_TIMEOUT_S:g} s."
            )
        finally:
            self._files.launches.forget_request(number)
