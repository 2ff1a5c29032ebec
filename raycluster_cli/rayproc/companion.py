"""The companion: a child of the supervisor in which Ray is imported.

It reads commands as JSON lines on stdin and writes events as JSON lines on its first stdout; the end of
stdin ends it.  It never has threads or a connection to a GCS of its own, because it forks for each piece
of work (a fork of a warm Python: 5 ms instead of 0.5 s of imports): a *start* whose process ends when the
node is up, so that Ray's daemons go to the supervisor, the nearest subreaper; and one *watcher* that keeps
a connection to the GCS.  When a GCS client gives up it ends its process: that is the watcher's then, never
the companion's.

Commands, with an optional "id" that comes back in their events:

    start        {"plan": NodePlan}                       -> starting, spawned …, then started | failed
    start_extra  {"what": "log_monitor" | "dashboard", "plan": …, "started": …} -> spawned, extra | failed
    identity     {"address", "expect": {"identity": …}}   -> identity {ok, kind, message, found}
    watch        {"address", "expected"}                  -> nodes {changed, total} now and at every change
    usage | drain | put_identity                          -> usage | drained | identity_put | failed
    log          {"path"}                                 what it prints goes to that file from now on
    quit
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .boot import companion_command
from .lazy_modules import UNUSED_BY_A_START, import_later
from .plan import NodePlan, StartFailure

Event = dict[str, Any]
Emit = Callable[[Event], None]

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PUBLIC_WATCH = "RAYCLUSTER_PUBLIC_WATCH"
_WATCHED = ("watch", "usage", "drain", "put_identity")

#: Seconds between looks at the list of nodes while it is expected to change, and when it is complete.
BUSY_S, CALM_S = 0.05, 0.5

#: How long the answers of nodes that are told to leave are waited for, and how many are told at once.
#: An answer takes 2 ms; one whose raylet has just died gives none before the GCS has noticed.
DRAIN_ANSWER_S, DRAINED_AT_ONCE = 0.2, 32

#: What a start imports besides: a worker has the time before its head is found, and not after.
_WANTED_SOON = ("encodings.idna", "ray._common.usage.usage_lib")


class Lines:
    """Bytes in, complete JSON lines out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]


class Writer:
    """Writes events to a descriptor, a line each."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self, event: Event) -> None:
        data = memoryview(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        while data:
            data = data[os.write(self.fd, data) :]


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


class Companion:
    """The loop that reads commands and relays events; forks, never threads."""

    def __init__(self, stdin: int, emit: Emit) -> None:
        self._stdin = stdin
        self._emit = emit
        self._lines = Lines()
        self._branches: dict[int, Branch] = {}
        self._watcher: Branch | None = None

    def run(self) -> None:
        """Until stdin ends or `quit` comes."""
        poller = select.poll()
        poller.register(self._stdin, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                data = os.read(fd, 65536)
                if fd == self._stdin:
                    if not data:
                        return
                    for command in self._lines.feed(data):
                        if command.get("do") == "quit":
                            return
                        if branch := self._obey(command):
                            poller.register(branch.events, select.POLLIN)
                            self._branches[branch.events] = branch
                elif data:
                    self._relay(self._branches[fd], data)
                else:
                    poller.unregister(fd)
                    self._end(self._branches.pop(fd))

    def close(self) -> None:
        """End the branches that still work."""
        for branch in self._branches.values():
            with contextlib.suppress(OSError):
                os.kill(branch.pid, signal.SIGKILL)

    def _obey(self, command: Event) -> Branch | None:
        do = command.get("do")
        if do in _WATCHED:
            new = None
            if self._watcher is None:
                new = self._watcher = self._fork(command, watcher, takes_commands=True)
            assert self._watcher.commands is not None
            with contextlib.suppress(BrokenPipeError):
                Writer(self._watcher.commands)(command)
            return new
        if do == "log":
            _move_output(command["path"])
            return None
        if do in ("start", "start_extra", "identity"):
            return self._fork(command, _WORK[do])
        self._emit(_answer(command, {"event": "failed", "kind": "ray", "message": f"unknown command {do!r}"}))
        return None

    def _fork(
        self, request: Event, work: Callable[[Event, Emit, int], None], takes_commands: bool = False
    ) -> Branch:
        events_in, events_out = os.pipe()
        commands_in, commands_out = os.pipe() if takes_commands else (None, None)
        pid = os.fork()
        if pid == 0:
            # The descriptors of other branches: close-on-exec keeps them from Ray's daemons, and this
            # process is short-lived or, as the watcher, spawns nothing.
            _in_branch(request, work, Writer(events_out), commands_in if commands_in is not None else -1)
        os.close(events_out)
        if commands_in is not None:
            os.close(commands_in)
        return Branch(pid, events_in, commands_out, request, Lines())

    def _relay(self, branch: Branch, data: bytes) -> None:
        for event in branch.lines.feed(data):
            branch.answered = branch.answered or event["event"] not in ("starting", "spawned")
            self._emit(event)

    def _end(self, branch: Branch) -> None:
        os.close(branch.events)
        _, status = os.waitpid(branch.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if branch.commands is not None:
            os.close(branch.commands)
            self._watcher = None
            self._emit({"event": "watcher_ended", "code": code})
        elif not branch.answered:
            message = f"The process for {branch.request['do']!r} ended with {code}, without a word."
            self._emit(_answer(branch.request, {"event": "failed", "kind": "ray", "message": message}))


def _answer(request: Mapping[str, Any], event: Event) -> Event:
    return event | {"id": request["id"]} if "id" in request else event


def _in_branch(
    request: Event, work: Callable[[Event, Emit, int], None], emit: Emit, commands: int
) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)  # so that the supervisor can end a start, and all it began, at once
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A watcher's events belong to the commands that it reads, not to the one that it was forked for.
        work(request, emit if commands >= 0 else lambda event: emit(_answer(request, event)), commands)
        code = 0
    except StartFailure as e:
        emit(
            _answer(request, {"event": "failed", "kind": e.kind, "message": e.message, "log": e.log}),
        )
    except BaseException as e:  # whatever it is, the supervisor hears of it
        traceback.print_exc()
        emit(_answer(request, {"event": "failed", "kind": "ray", "message": f"{type(e).__name__}: {e}"}))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no exit handlers: they are Ray's and would end what was started


# ---------------------------------------------------------------- work, each in a process of its own


def _move_output(path: str) -> None:
    """Print to a file from now on, after what has been printed (to memory: warm.py) so far."""
    sys.stdout.flush()
    sys.stderr.flush()
    said = b""
    with contextlib.suppress(OSError):
        said = os.pread(2, 1 << 20, 0)
    _redirect(path)
    os.write(2, said)


def _redirect(path: str) -> None:
    """Send what this process and its children print to a file."""
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _start(request: Event, emit: Emit, _: int) -> None:
    from . import private

    plan = NodePlan.from_json(request["plan"])
    _redirect(plan.log_path)
    emit({"event": "starting", "pid": os.getpid()})
    emit({"event": "started", **private.start(plan, lambda event: emit(dict(event)))})


def _start_extra(request: Event, emit: Emit, _: int) -> None:
    from . import private

    plan = NodePlan.from_json(request["plan"])
    _redirect(plan.log_path)
    emit({"event": "starting", "pid": os.getpid()})
    done = private.start_extra(request["what"], plan, request["started"], lambda event: emit(dict(event)))
    emit({"event": "extra", **done})


def _identity(request: Event, emit: Emit, _: int) -> None:
    from . import private

    found: dict[str, str] = {}
    try:
        private.apply_settings(request.get("env") or os.environ)
        cluster = private.Cluster(request["address"])
        found = cluster.found()
        cluster.check(request.get("expect", {}).get("identity", ""))
        emit({"event": "identity", "ok": True, "kind": "", "message": "", "found": found})
    except StartFailure as e:
        emit({"event": "identity", "ok": False, "kind": e.kind, "message": e.message, "found": found})


def watcher(_: Event, emit: Emit, commands: int) -> None:
    """Keep a connection to the GCS: tell of changes among the nodes, answer questions."""
    assert isinstance(emit, Writer)
    Watcher(emit, commands).run()


class Watcher:
    """The loop of the watcher."""

    def __init__(
        self,
        emit: Writer,
        commands: int,
        *,
        public: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit_line = emit
        self._commands = commands
        self._public = public
        self._clock = clock
        self._cluster: Any = None
        self._known: dict[str, Event] = {}
        self._watch: Event | None = None
        self._next = 0.0
        self._unreachable = False
        self._tellers = ThreadPoolExecutor(DRAINED_AT_ONCE)

    def run(self, first: Event | None = None) -> None:
        """Until the companion closes the pipe; ``first``: a command that has been read already."""
        lines = Lines()
        if first is not None:
            self._obey(first)
        poller = select.poll()
        poller.register(self._commands, select.POLLIN)
        while True:
            wait_s = max(0.0, self._next - self._clock()) if self._watch else None
            if poller.poll(None if wait_s is None else wait_s * 1000 + 1):
                data = os.read(self._commands, 65536)
                if not data:
                    return
                for command in lines.feed(data):
                    self._obey(command)
            if self._watch and self._clock() >= self._next:
                self._look()

    def _emit(self, request: Event, event: Event) -> None:
        self._emit_line(_answer(request, event))

    def _obey(self, command: Event) -> None:
        try:
            self._connect(command)
            do = command["do"]
            if do == "watch":
                self._watch, self._known, self._next = command, {}, 0.0
            elif do == "usage":
                self._emit(command, {"event": "usage", **self._cluster.usage()})
            elif do == "put_identity":
                self._cluster.put_identity(command["value"])
                self._emit(command, {"event": "identity_put"})
            elif do == "drain":
                self._drain(command)
        except StartFailure as e:
            self._emit(command, {"event": "failed", "kind": e.kind, "message": e.message})
        except Exception as e:
            traceback.print_exc()
            self._emit(command, {"event": "failed", "kind": "ray", "message": f"{type(e).__name__}: {e}"})

    def _connect(self, command: Event) -> None:
        address = command.get("address")
        if self._cluster is None or (address and address != self._cluster.address):
            from . import private

            if address is None:
                raise StartFailure("ray", "No address yet: `watch` comes first.")
            env = command.get("env") or {}
            try:
                if self._public:
                    self._cluster = private.PublicCluster(address)
                else:
                    private.apply_settings(env or os.environ)
                    self._cluster = private.Cluster(address)
            except private.NOT_AS_KNOWN as e:
                if self._public:
                    raise
                print(f"raycluster: Ray's GCS client is not as known: {e!r}; now ray.init", flush=True)
                self._go_public(command, env)

    def _go_public(self, command: Event, env: Mapping[str, str]) -> NoReturn:
        """Begin again in a fresh Python, whose Ray reads the right environment at its import."""
        for fd in (self._commands, self._emit_line.fd):
            os.set_inheritable(fd, True)
        again = {"commands": self._commands, "events": self._emit_line.fd, "command": command}
        argv = companion_command(sys.executable)
        os.execve(argv[0], argv, {**os.environ, **env, _PUBLIC_WATCH: json.dumps(again)})

    def _drain(self, command: Event) -> None:
        """Tell all nodes at once; a node that does not answer must not keep the next from being told."""
        answers = {
            node_id: self._tellers.submit(
                self._cluster.drain,
                node_id,
                command.get("reason", "idle"),
                command.get("message", ""),
                float(command.get("deadline_s", 0)),
            )
            for node_id in command["nodes"]
        }
        wait(answers.values(), DRAIN_ANSWER_S)
        results = {node_id: _told(future) for node_id, future in answers.items()}
        self._emit(command, {"event": "drained", "results": results})

    def _look(self) -> None:
        assert self._watch is not None
        began = self._clock()
        try:
            nodes = self._cluster.nodes()
            self._unreachable = False
        except Exception as e:
            if not self._unreachable:
                self._unreachable = True
                self._emit(self._watch, {"event": "unreachable", "message": f"{type(e).__name__}: {e}"})
            self._next = self._clock() + CALM_S
            return
        changed = [node for node in nodes if self._known.get(node["node_id"]) != node]
        if changed or not self._known:
            self._known = {node["node_id"]: node for node in nodes}
            self._emit(self._watch, {"event": "nodes", "changed": changed, "total": len(nodes)})
        alive = sum(1 for node in nodes if node["alive"])
        busy = alive < int(self._watch.get("expected") or 0)
        cost = self._clock() - began
        # Asking costs the GCS too: in a large cluster it is asked less often.
        self._next = self._clock() + (max(BUSY_S, 3 * cost) if busy else max(CALM_S, 30 * cost))


def _told(future: Future[tuple[bool, str]]) -> dict[str, Any]:
    """What a node answered when it was told to leave."""
    if not future.done():
        return {"accepted": False, "refusal": f"no answer within {DRAIN_ANSWER_S:g} s"}
    if error := future.exception():
        return {"accepted": False, "refusal": f"{type(error).__name__}: {error}"}
    accepted, refusal = future.result()
    return {"accepted": accepted, "refusal": refusal}


_WORK: dict[str, Callable[[Event, Emit, int], None]] = {
    "start": _start,
    "start_extra": _start_extra,
    "identity": _identity,
}


def main() -> int:
    """Import Ray, say so, obey until the end of stdin."""
    if again := os.environ.pop(_PUBLIC_WATCH, ""):
        watch = json.loads(again)
        Watcher(Writer(watch["events"]), watch["commands"], public=True).run(watch["command"])
        return 0
    began = time.time()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        # `--signal=USR1@300` reaches every process of a step and would end Ray's daemons; they inherit this.
        signal.signal(number, signal.SIG_IGN)
    stdin, stdout = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what Ray prints is not for the protocol
    emit = Writer(stdout)
    import_later(UNUSED_BY_A_START)
    gc.disable()  # it would look again and again at what is here to stay
    try:
        from . import private
    except Exception as e:
        traceback.print_exc()
        message = f"Ray cannot be imported: {type(e).__name__}: {e}"
        emit({"event": "failed", "kind": "ray", "message": message})
        return 1
    for name in _WANTED_SOON:
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
