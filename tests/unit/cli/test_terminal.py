"""The monitor and the keyboard on a terminal, which is a pseudo-terminal of the test's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from raycluster_cli.cli import feed, terminal
from raycluster_cli.cli.monitor import Options, monitor
from raycluster_cli.cli.terminal import pressed_keys
from raycluster_cli.model.record import EndReport, NodeReport
from tests.unit.records_by_hand import write_record
from tests.waiting import wait_until


class Screen:
    """What a person sees and types."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.text = ""
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.text += data.decode("utf-8", "replace")

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def shows(self, text: str) -> None:
        wait_until(lambda: text in self.text, timeout_s=30, what=f"{text!r} on the screen", interval_s=0.005)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """stdin and stdout are this screen; within a test, since pytest sets both before it."""
        with (
            open(os.dup(self.slave)) as stdin,
            open(os.dup(self.slave), "w") as stdout,
            mock.patch.object(sys, "stdin", stdin),
            mock.patch.object(sys, "stdout", stdout),
        ):
            yield

    def close(self) -> None:
        os.close(self.slave)
        self._reader.join(10)
        os.close(self.master)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setattr(feed, "READ_S", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    one = Screen()
    yield one
    one.close()


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


FULL, USUAL = "\x1b[?1049h", "\x1b[?1049l"


@pytest.mark.parametrize("key", ["q", "Q", "\x1b"])
def test_a_person_looks_and_leaves(screen: Screen, tmp_path: Path, key: str) -> None:
    before = termios.tcgetattr(screen.slave)
    record = write_record(tmp_path, 60, usage=False)

    def act() -> None:
        try:
            screen.shows("n001")
            screen.type("\x1b[F")
            screen.shows("n060")
        finally:
            screen.type(key)

    person = meanwhile(act)
    with screen.attached():
        status = monitor(record, lambda: None, Options(prometheus=tmp_path / "out.prom"), {"TERM": "xterm"})
    person.join(30)
    assert not status.is_over
    screen.shows(USUAL)
    assert screen.text.index(FULL) < screen.text.index(USUAL)
    assert screen.text.partition(USUAL)[2].count("n001") == 0  # the shell's screen is as it was
    assert termios.tcgetattr(screen.slave) == before
    assert "raycluster_" in (tmp_path / "out.prom").read_text()


def test_a_cluster_that_ends_leaves_its_report(screen: Screen, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)

    def act() -> None:
        with contextlib.suppress(AssertionError):
            screen.shows("n001")
        now = time.time()
        record.write_end(EndReport(now, 7, "driver", "", "the driver ended with code 7"))
        for host in ("n001", "n002"):
            record.write_node(NodeReport(host, "head", "gone", {"gone": now}, updated=now))

    meanwhile(act)
    with screen.attached():
        status = monitor(record, lambda: None, Options(), {"TERM": "xterm"})
    assert (status.is_over, status.exit_code) == (True, 7)
    wait_until(
        lambda: "The driver ended with code 7" in screen.text.partition(USUAL)[2],
        timeout_s=30,
        what="the report on the shell's screen",
        interval_s=0.005,
    )


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (["j"], ["j"]),
        (["gq"], ["g", "q"]),
        (["\x1b[A"], ["\x1b[A"]),
        (["\x1b", "[A"], ["\x1b[A"]),  # over a slow network
        (["\x1b[", "6", "~"], ["\x1b[6~"]),
        (["\x1b", "OB"], ["\x1b[B"]),
        (["j\x1b", "[Bq"], ["j", "\x1b[B", "q"]),
    ],
)
def test_keys_as_they_are_pressed(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, typed: list[str], keys: list[str]
) -> None:
    monkeypatch.setattr(terminal, "ESCAPE_S", 20.0)
    read, first = os.read, iter(typed[1:])

    def piecewise(fd: int, size: int) -> bytes:
        data = read(fd, size)
        for more in first:
            screen.type(more)
            break
        return data

    with screen.attached(), pressed_keys() as read_keys:
        assert read_keys(0.0) == []
        monkeypatch.setattr(os, "read", lambda fd, size: (piecewise if size == 256 else read)(fd, size))
        screen.type(typed[0])
        assert read_keys(30.0) == keys


def test_escape_alone_is_a_key(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "ESCAPE_S", 0.01)
    with screen.attached(), pressed_keys() as read_keys:
        screen.type("\x1b")
        assert read_keys(30.0) == ["\x1b"]


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error")])
def test_a_terminal_that_is_gone_ends_it(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    def gone(fd: int, size: int) -> bytes:
        if error is not None:
            raise error
        return b""

    with screen.attached(), pressed_keys() as read_keys:
        screen.type("x")
        read = os.read
        monkeypatch.setattr(os, "read", lambda fd, size: (gone if size == 256 else read)(fd, size))
        with pytest.raises(KeyboardInterrupt):
            read_keys(30.0)
