"""The supervisor of a node gives way to one that runs from the copy: it executes the copy's Python.

Its process id, its keeper and its signals stay.  The copy is made by a child, so that this process stays
small; the lock that keeps the copy is handed on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..rayproc.boot import raycluster_command
from ..system.keeper_link import HANDED_OVER, RELAYED, Handover, Keeper, KeeperNotes
from ..system.report import Report
from .relocation import moved, moved_environment
from .sources import this_interpreter
from .stage import NotStaged, Request, stage

#: Signals that end a node that is still copying.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

POLL_S = 0.2


def hand_over(
    request: Request, arguments: Sequence[str], driver: Sequence[str], keeper: Keeper, report: Report
) -> None:
    """Execute the same command with the copy's Python.  Returns where there is no copy; the reason is said.

    ``arguments``: of this command; ``driver``: the last of them, a driver's.
    """
    done = _in_child(request, keeper)
    if "why" in done:
        if done["why"]:
            report.warn(f"{request.host}: the shared environment is used: {done['why']}")
        return
    if request.is_head:
        report.say(done["text"])
    else:
        report.note(done["text"])
    os.set_inheritable(done["lock"], True)
    _execute(done, request.env, arguments, driver, keeper)


def _in_child(request: Request, keeper: Keeper) -> dict[str, Any]:
    """{path, pairs, text, lock} of the copy, or {why}."""
    from_read, from_write = os.pipe()
    to_read, to_write = os.pipe()
    python = this_interpreter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(from_read)
            os.close(to_write)
            os.umask(0o022)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
            _raise_files_limit()

            def tell(**facts: Any) -> None:
                os.write(from_write, json.dumps(facts).encode() + b"\n")

            try:
                staged = stage(request, python, lambda path: tell(making=str(path)))
                tell(path=str(staged.path), pairs=staged.pairs, text=staged.text, keep=staged.keep)
            except NotStaged as error:
                tell(why=str(error))
            os.read(to_read, 1)  # until the parent has the lock
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(from_write)
    os.close(to_read)
    if request.note and request.is_head:
        keeper.note(KeeperNotes(stage_note=str(request.note)))
    try:
        return _answer(child, from_read, keeper)
    finally:
        os.close(from_read)
        os.close(to_write)
        os.waitpid(child, 0)


def _answer(child: int, answers: int, keeper: Keeper) -> dict[str, Any]:
    text = b""
    while True:
        ready, _, _ = select.select([answers, keeper.relay_fd], [], [], POLL_S)
        if keeper.relay_fd in ready:
            _heed(os.read(keeper.relay_fd, 64), child)
        if pending := signal.sigpending() & set(_ENDING):
            _end(child, min(pending))
        if answers not in ready:
            continue
        chunk = os.read(answers, 1 << 20)
        if not chunk:
            return {"why": "the process that makes the copy has ended unexpectedly"}
        text += chunk
        *lines, text = text.split(b"\n")
        for line in lines:
            facts = json.loads(line)
            if "making" in facts:
                keeper.note(KeeperNotes(staged=facts["making"]))
            elif "why" in facts:
                return dict(facts)
            else:
                keeper.note(KeeperNotes(staged=facts["path"], keep_env=facts["keep"]))
                return {**facts, "lock": _lock(facts["path"])}


def _lock(path: str) -> int:
    from pathlib import Path

    from ..node.staged_copy import open_copy

    lock = open_copy(Path(path))
    assert lock is not None, "the child still holds it"
    return lock


def _heed(relayed: bytes, child: int) -> None:
    """Signals of the keeper; its end, too, ends this node."""
    if not relayed:
        _end(child, signal.SIGTERM)
    for number in relayed:
        if number in _ENDING:
            _end(child, number)
        os.kill(os.getpid(), number)  # stays pending for the supervisor that runs from the copy


def _end(child: int, number: int) -> NoReturn:
    os.kill(child, signal.SIGKILL)
    raise SystemExit(128 + number)


def _raise_files_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _execute(
    done: Mapping[str, Any],
    env: Mapping[str, str],
    arguments: Sequence[str],
    driver: Sequence[str],
    keeper: Keeper,
) -> NoReturn:
    pairs = [(before, after) for before, after in done["pairs"]]
    python = moved(sys.executable, pairs)
    words = [*arguments[: len(arguments) - len(driver)]]
    if driver:
        words += [moved(driver[0], pairs), *driver[1:]]
    argv = raycluster_command(*words, python=python)
    if argv[0] == python:  # `python -c`: the package's place is an argument
        argv[3] = moved(argv[3], pairs)
    handover = Handover(os.getpid(), keeper.relay_fd, keeper.notes_fd, done["lock"], done["path"])
    changed = moved_environment(env, pairs, done["path"])
    for fd in (keeper.relay_fd, keeper.notes_fd):
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, {**changed, HANDED_OVER: handover.as_text()})
