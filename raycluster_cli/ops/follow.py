"""A job from outside: its state, where its output goes, and following both to its end.

The state is polled with `scontrol show job`, at intervals that grow: the controller is shared.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..model.errors import RayclusterError
from ..slurm.queue import ENDED, WAITING
from ..system.report import duration, say

SCONTROL_TIMEOUT_S = 15.0

#: How often the job's output and its state are polled; the state first quickly, then less often.
OUTPUT_POLL_S = 0.2
STATE_POLL_S = (0.5, 5.0)

#: How long output may arrive after behind the job's end on a network file system.
OUTPUT_LAG_S = 2.0


#: Slurm's reasons for which a job waits for something else than resources, and what to do (squeue(1)).
_REASONS = (
    (
        r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit",
        "the job asks for more nodes or time than its partition allows and will never start; "
        "`sinfo -o '%P %l %D'` shows the limits: cancel the job, and ask for less or use another --partition",
    ),
    (r"PartitionDown|PartitionInactive", "its partition accepts no jobs now; `sinfo -s` shows the others"),
    (r"JobHeldUser", "the job is held; `scontrol release JOB` releases it"),
    (r"JobHeldAdmin", "the job is held by an administrator: ask the site's support"),
    (r"BadConstraints", "no node satisfies its --constraint or --gres: cancel the job and ask for others"),
    (r"DependencyNeverSatisfied", "the job it depends on has failed, so it will never start: cancel it"),
    (
        r"InvalidAccount|InvalidQOS",
        "its account or QOS is not valid (or no longer): cancel the job and use another",
    ),
    (
        r"(Assoc|QOS).*(Limit|Time|Mins)",
        "a limit of your account or QOS is reached; it starts when others end",
    ),
    (
        r"ReqNodeNotAvail|Reserved for maintenance",
        "nodes it needs are down or reserved; `sinfo -R` says why",
    ),
    (
        r"launch failed requeued held",
        "its start failed and it is held; `scontrol release JOB` releases it",
    ),
)


def explain_reason(reason: str) -> str:
    """What a reason for waiting means, where waiting alone does not help; else empty.

    >>> explain_reason("Resources")
    ''
    """
    return next((meaning for pattern, meaning in _REASONS if re.search(pattern, reason)), "")


@dataclass(frozen=True)
class JobState:
    """A job as `scontrol show job` tells it."""

    state: str
    reason: str = ""
    exit_code: int = 0
    signal: int = 0
    output: str = ""
    """Path of the batch script's output, with its patterns filled in."""
    nodes: str = ""
    restarts: int = 0
    user: str = ""
    """As Slurm writes it: ada(1001)."""
    errors: str = ""
    """Path of the batch script's errors; the same as ``output`` unless sbatch was given -e."""

    @property
    def is_mine(self) -> bool:
        """Whether the job belongs to this user, as far as Slurm says whose it is."""
        _, _, uid = self.user.rstrip(")").rpartition("(")
        return not uid or uid == str(os.getuid())

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def shell_code(self) -> int:
        """The job's end as a shell shows it; a job ended by Slurm (time limit, cancelled) is never 0."""
        if self.signal:
            return 128 + self.signal
        if self.exit_code == 0 and self.state not in ("COMPLETED", "RUNNING", "COMPLETING"):
            return 143 if self.state in ("CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE") else 1
        return self.exit_code


def parse_job(text: str) -> JobState:
    """Read `scontrol --oneliner show job`.

    >>> parse_job("JobId=7 JobState=FAILED Reason=None ExitCode=7:0 StdOut=/a b/x.out Power=").output
    '/a b/x.out'
    """
    values: dict[str, str] = {}
    name = ""
    for word in text.split(" "):
        key, equals, value = word.partition("=")
        if equals and key.replace("/", "").replace(":", "").isalnum() and key[:1].isupper():
            name = key
            values.setdefault(name, value)
        elif name:
            values[name] += f" {word}"  # a value with a space in it: a path
    code, _, number = values.get("ExitCode", "0:0").partition(":")
    reason = values.get("Reason", "")
    return JobState(
        state=values.get("JobState", "").split(" ")[0],
        reason="" if reason == "None" else reason,
        exit_code=int(code or 0),
        signal=int(number or 0),
        output=values.get("StdOut", "").strip(),
        nodes=values.get("NodeList", "").replace("(null)", ""),
        restarts=int(values.get("Restarts", "0") or 0),
        user=values.get("UserId", "").strip(),
        errors=values.get("StdErr", "").strip(),
    )


def job_state(job_id: str, env: Mapping[str, str]) -> JobState | None:
    """Ask Slurm for a job; None when Slurm does not know it (any more) or does not answer."""
    program = shutil.which("scontrol", path=env.get("PATH"))
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--oneliner", "show", "job", job_id],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCONTROL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return parse_job(lines[0]) if done.returncode == 0 and lines else None


class Tail:
    """The growing end of a file that may not be there yet, or be replaced (a requeued job)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def read(self) -> bytes:
        """What was written since the last call."""
        try:
            found = os.stat(self.path)
        except OSError:
            return b""
        if self._file is not None:
            here = os.fstat(self._file.fileno())
            if (here.st_ino, here.st_dev) != (
                found.st_ino,
                found.st_dev,
            ) or found.st_size < self._file.tell():
                self.close()
        if self._file is None:
            with contextlib.suppress(OSError):
                self._file = open(self.path, "rb")  # noqa: SIM115  # kept from call to call
        return self._file.read() if self._file is not None else b""

    def skip(self, size: int) -> None:
        """Start after this many bytes."""
        with contextlib.suppress(OSError):
            self._file = open(self.path, "rb")  # noqa: SIM115
            self._file.seek(size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def follow(
    job_id: str,
    env: Mapping[str, str],
    *,
    output: bool = True,
    ask: Callable[[str, Mapping[str, str]], JobState | None] = job_state,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Stream a job's output to stdout and its states to stderr, until it ends; returns its exit code.

    Raises RayclusterError when Slurm no longer knows the job before its end was seen.
    """
    began = clock()
    tail: Tail | None = None
    told = ""
    explained: set[str] = set()
    poll_s, unknown_since = STATE_POLL_S[0], None
    next_look = began
    while True:
        state = None
        if clock() >= next_look:
            state = ask(job_id, env)
            poll_s = min(poll_s * 1.3, STATE_POLL_S[1])
            next_look = clock() + poll_s
            if state is None:
                unknown_since = unknown_since if unknown_since is not None else clock()
                if clock() - unknown_since > 60.0:
                    raise RayclusterError(
                        f"Slurm has not answered about job {job_id} for a minute.",
                        f"Its record may say how it ended: raycluster status {job_id}.",
                    )
            else:
                unknown_since = None
                now = describe(state)
                if now != told:
                    told = now
                    poll_s = STATE_POLL_S[0]
                    say(f"job {job_id} {now} ({duration(clock() - began)})")
                    if (
                        state.state in WAITING
                        and (why := explain_reason(state.reason))
                        and why not in explained
                    ):
                        explained.add(why)
                        say(why)
                if output and tail is None and state.output and state.state not in WAITING:
                    tail = Tail(Path(state.output))
        _copy(tail)
        if state is not None and state.has_ended:
            deadline = clock() + OUTPUT_LAG_S
            while _copy(tail) or (clock() < deadline and tail is not None and not tail.path.exists()):
                sleep(OUTPUT_POLL_S)
            return state.shell_code
        sleep(OUTPUT_POLL_S)


def _copy(tail: Tail | None) -> bool:
    """Copy what is new to stdout; returns whether there was anything."""
    data = tail.read() if tail is not None else b""
    if data:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return bool(data)


def describe(state: JobState) -> str:
    """A job's state for people.

    >>> describe(JobState("PENDING", "Resources"))
    'waits in the queue (Resources)'
    """
    where = f" on {state.nodes}" if state.nodes else ""
    if state.state in WAITING:
        return f"waits in the queue ({state.reason or state.state})"
    if state.state == "RUNNING":
        return f"runs{where}"
    if state.state == "COMPLETING":
        return "is ending"
    if state.state == "COMPLETED":
        return "completed"
    return f"ended: {state.state.lower().replace('_', ' ')}, exit code {state.shell_code}"
