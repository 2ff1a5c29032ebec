"""A branch: a process that the companion forks for one piece of work, and what that can be.

A fork of a warm Python takes 5 ms instead of 0.5 s of imports.  The process of a *start* ends when the node
is up, so that Ray's daemons become children of the supervisor, the nearest subreaper.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import NoReturn

from ..model.dataclass import dataclass
from ..system.proctree import ProcessRef
from .failure import StartFailure
from .plan import NodePlan
from .protocol import Emit, Event, Lines, Writer, answer, failure

Work = Callable[[Event, Emit, int], None]
"""work(request, emit, descriptor of more commands or -1)"""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass
class Branch:
    """A forked process that does a piece of work."""

    pid: int
    events: int
    """Descriptor to read its events from."""
    commands: int | None
    """Descriptor to write commands to; None when it takes none."""
    request: Event
    lines: Lines
    answered: bool = False
    spawned: list[ProcessRef] = field(default_factory=list)
    """Ray's daemons that a start has spawned so far."""

    @classmethod
    def fork(cls, request: Event, work: Work, *, takes_commands: bool = False) -> Branch:
        """Do the work in a fork of this process, which must have no threads."""
        events_in, events_out = os.pipe()
        commands_in, commands_out = os.pipe() if takes_commands else (None, None)
        pid = os.fork()
        if pid == 0:
            # The descriptors of other branches: close-on-exec keeps them from Ray's daemons, and this
            # process is short-lived or, as the watcher, spawns nothing.
            _run(request, work, Writer(events_out), commands_in if commands_in is not None else -1)
        os.close(events_out)
        if commands_in is not None:
            os.close(commands_in)
        return cls(pid, events_in, commands_out, request, Lines())

    def close(self) -> int:
        """Reap it after its end and close its descriptors; returns its exit code."""
        os.close(self.events)
        if self.commands is not None:
            os.close(self.commands)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def _run(request: Event, work: Work, emit: Emit, commands: int) -> NoReturn:
    code = 1
    try:
        # A session, and with it a process group, of its own: the supervisor can end a start, and all it
        # began, at once.  A group in the companion's session would lose its tie to it when this process ends,
        # and the kernel then sends SIGHUP to the raylet if just then one process of the group is stopped.
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A watcher's events belong to the commands that it reads, not to the one that it was forked for.
        work(request, emit if commands >= 0 else lambda event: emit(answer(request, event)), commands)
        code = 0
    except StartFailure as e:
        emit(failure(request, e.message, e.kind, e.log))
    except BaseException as e:  # whatever it is: the supervisor must be told
        traceback.print_exc()
        emit(failure(request, f"{type(e).__name__}: {e}"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no exit handlers: they are Ray's and would end what was started


def move_output(path: str) -> None:
    """Print to a file from now on, after what was printed so far (to memory: warm.py)."""
    sys.stdout.flush()
    sys.stderr.flush()
    printed = b""
    with contextlib.suppress(OSError):  # a pipe or a terminal, when started by hand
        printed = os.pread(2, 1 << 20, 0)
    redirect(path)
    os.write(2, printed)


def redirect(path: str) -> None:
    """Send what this process and its children print to a file."""
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def start(request: Event, emit: Emit, _: int) -> None:
    from . import private

    plan = NodePlan.from_json(request["plan"])
    redirect(plan.log_path)
    emit({"event": "starting", "pid": os.getpid()})
    emit({"event": "started", **private.start(plan, lambda event: emit(dict(event)))})


def start_extra(request: Event, emit: Emit, _: int) -> None:
    from . import private

    plan = NodePlan.from_json(request["plan"])
    redirect(plan.log_path)
    emit({"event": "starting", "pid": os.getpid()})
    done = private.start_extra(request["what"], plan, request["started"], lambda event: emit(dict(event)))
    emit({"event": "extra", **done})


def serve(request: Event, emit: Emit, _: int) -> None:
    """Run ``main(request, emit)`` of the module that is named, for as long as it takes."""
    redirect(request["log"])
    importlib.import_module(request["module"]).main(request, emit)


def template(request: Event, emit: Emit, _: int) -> None:
    from .private.template import worker_template  # only a head with workers needs it

    plan = NodePlan.from_json(request["plan"])
    emit({"event": "template", **worker_template(plan, early=request["early"])})


def clear(request: Event, emit: Emit, _: int) -> None:
    from . import private
    from .private.leftovers import clear as clear_leftovers  # only a restart of a server needs it

    private.apply_settings(request["env"])
    left = clear_leftovers(request["address"], float(request["deadline_s"]))
    emit({"event": "cleared", "left": left.texts()})
