"""The companion that a command starts before anything else, as a process."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from raycluster_cli.rayproc import warm

STAND_IN = """
import os, signal, sys
print("words", file=sys.stderr, flush=True)
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
print(os.getsid(0) == os.getpid(), len(blocked), os.environ["MARK"], flush=True)
sys.exit(len(sys.stdin.read()))
"""


def test_it_runs_apart_with_pipes_and_ends_with_its_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "companion_command", lambda: [sys.executable, "-c", STAND_IN])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        companion = warm.begin({**os.environ, "MARK": "here"})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert companion is not None
    assert not os.get_inheritable(companion.stdin)
    with open(companion.stdout, encoding="ascii") as events:
        assert events.readline() == "True 0 here\n"
        os.write(companion.stdin, b"seven  ")
        os.close(companion.stdin)
        assert os.waitstatus_to_exitcode(os.waitpid(companion.pid, 0)[1]) == 7
    assert os.pread(companion.log, 100, 0) == b"words\n"
    os.close(companion.log)


def test_where_it_cannot_be_started_the_usual_way_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "companion_command", lambda: ["/nowhere/python"])
    before = set(os.listdir("/proc/self/fd"))
    assert warm.begin(dict(os.environ)) is None
    assert set(os.listdir("/proc/self/fd")) == before
