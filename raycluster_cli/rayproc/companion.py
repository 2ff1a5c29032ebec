"""The companion: a child of the supervisor in which Ray is imported.

It reads commands as JSON lines on stdin and writes events as JSON lines on its first stdout (protocol.py);
when stdin ends, it ends.  It never has threads or a connection to a GCS of its own, because it forks for each
piece of work (branch.py); one of the forks, the watcher, keeps a connection to the GCS (watcher.py).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..system.keeper_link import IGNORED_BY_RAY
from ..system.proctree import identify, is_running
from .branch import Branch, Work, clear, move_output, serve, start, start_extra, template
from .lazy_modules import UNUSED_BY_A_START, import_later
from .protocol import ONGOING, Emit, Event, Lines, Writer, answer, failure
from .watcher import COMMANDS, PUBLIC_WATCH, watch_with_public_api, watcher

_WORK: dict[str, Work] = {
    "start": start,
    "start_extra": start_extra,
    "template": template,
    "clear": clear,
    "serve": serve,
}


class Companion:
    """The loop that reads commands and passes events on; it forks and has no threads."""

    def __init__(self, stdin: int, emit: Emit) -> None:
        self._stdin = stdin
        self._emit = emit
        self._lines = Lines()
        self._branches: dict[int, Branch] = {}
        self._watcher: Branch | None = None

    def run(self) -> None:
        """Until stdin ends."""
        poller = select.poll()
        poller.register(self._stdin, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                data = os.read(fd, 65536)
                if fd == self._stdin:
                    if not data:
                        return
                    for command in self._lines.feed(data):
                        if branch := self._obey(command):
                            poller.register(branch.events, select.POLLIN)
                            self._branches[branch.events] = branch
                elif data:
                    self._relay(self._branches[fd], data)
                else:
                    poller.unregister(fd)
                    self._end(self._branches.pop(fd))

    def close(self) -> None:
        """End the branches that still work, and what an unfinished start has spawned.

        If supervisor and keeper were killed, nobody else would end a GCS whose raylet does not run yet.
        """
        for branch in self._branches.values():
            with contextlib.suppress(OSError):
                os.kill(branch.pid, signal.SIGKILL)
            if branch.request["do"] == "start" and not branch.answered:
                os.set_blocking(branch.events, False)
                with contextlib.suppress(OSError):
                    while data := os.read(branch.events, 65536):
                        self._note_spawned(branch, branch.lines.feed(data))
                for daemon in filter(is_running, branch.spawned):
                    with contextlib.suppress(OSError):
                        os.kill(daemon.pid, signal.SIGKILL)

    def _note_spawned(self, branch: Branch, events: Iterable[Event]) -> None:
        found = [identify(event["pid"]) for event in events if event["event"] == "spawned"]
        branch.spawned += filter(None, found)

    def _kill(self, request: int) -> None:
        """End the branch of a request; it is reported when its events end."""
        for branch in self._branches.values():
            if branch.request.get("id") == request and branch is not self._watcher:
                with contextlib.suppress(OSError):
                    os.kill(branch.pid, signal.SIGKILL)

    def _obey(self, command: Event) -> Branch | None:
        do = command.get("do")
        if do in COMMANDS:
            new = None
            if self._watcher is None:
                new = self._watcher = Branch.fork(command, watcher, takes_commands=True)
            assert self._watcher.commands is not None
            with contextlib.suppress(BrokenPipeError):  # its end is reported when its events end
                Writer(self._watcher.commands)(command)
            return new
        if do == "log":
            move_output(command["path"])
            return None
        if do == "end":
            self._kill(command["which"])
            return None
        if do in _WORK:
            return Branch.fork(command, _WORK[do])
        self._emit(failure(command, f"unknown command {do!r}"))
        return None

    def _relay(self, branch: Branch, data: bytes) -> None:
        events = list(branch.lines.feed(data))
        self._note_spawned(branch, events)
        for event in events:
            branch.answered = branch.answered or event["event"] not in ONGOING
            self._emit(event)

    def _end(self, branch: Branch) -> None:
        code = branch.close()
        if branch is self._watcher:
            self._watcher = None
            self._emit({"event": "watcher_ended", "code": code})
        elif not branch.answered and branch.request["do"] == "serve":
            self._emit(answer(branch.request, {"event": "served", "code": code}))
        elif not branch.answered:
            what = branch.request["do"]
            self._emit(failure(branch.request, f"The process for {what!r} ended with {code} and no answer."))


def main() -> int:
    """Import Ray, report that, obey until stdin ends."""
    if again := os.environ.pop(PUBLIC_WATCH, ""):
        watch_with_public_api(again)
        return 0
    began = time.time()
    for number in IGNORED_BY_RAY:
        # `--signal=USR1@300` reaches every process of a step and would end Ray's daemons; they inherit this.
        signal.signal(number, signal.SIG_IGN)
    stdin, stdout = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what Ray prints is not for the protocol
    emit = Writer(stdout)
    import_later(UNUSED_BY_A_START)
    gc.disable()  # nothing of what is imported becomes garbage
    try:
        from . import private
    except Exception as e:
        traceback.print_exc()
        message = f"Ray cannot be imported: {type(e).__name__}: {e}"
        emit({"event": "failed", "kind": "ray", "message": message})
        return 1
    # A worker has the time before its head is found, and not after.
    for name in private.IMPORTED_BY_A_START:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.enable()
    gc.freeze()  # what is imported stays: forks share it instead of copying it
    emit(
        {
            "event": "ready",
            "ray_version": private.RAY_VERSION,
            "python_version": private.PYTHON_VERSION,
            "import_s": round(time.time() - began, 3),
            "imported": time.time(),
            "pid": os.getpid(),
        }
    )
    companion = Companion(stdin, emit)
    try:
        companion.run()
    except BrokenPipeError:
        pass  # the supervisor is gone
    finally:
        companion.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
