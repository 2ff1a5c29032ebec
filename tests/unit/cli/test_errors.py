"""How commands end: errors that users can cause become one line and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from raycluster_cli.cli.errors import ReaderGone, tell_errors
from raycluster_cli.model.errors import HeadStartError, UsageError


def raises(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("call", "code", "said", "closed"),
    [
        (lambda: None, 0, "", False),
        (lambda: 5, 0, "", False),
        (raises(SystemExit(0)), 0, "", False),
        (raises(SystemExit(None)), 0, "", False),
        (raises(SystemExit(7)), 7, "", False),
        (raises(UsageError("no such job.", "Look.")), 2, "error: no such job. Look.", False),
        (raises(HeadStartError("no Ray.")), 3, "error: no Ray.", False),
        (raises(KeyboardInterrupt()), 130, "", False),
        (raises(BrokenPipeError()), 0, "", True),
        (raises(ReaderGone()), 0, "", True),
        (
            raises(OSError(errno.ENOSPC, FULL, "/a/b")),
            *(1, f"error: cannot write /a/b: {FULL}. Free some space there, or write elsewhere.", False),
        ),
        (
            raises(OSError(errno.EDQUOT, "Disk quota exceeded")),
            1,
            "error: cannot write the output: Disk quota exceeded. Free some space there, or write elsewhere.",
            True,
        ),
    ],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: Callable[[], object],
    code: int,
    said: str,
    closed: bool,
) -> None:
    """``closed``: what stdout still holds goes nowhere, since the interpreter would write it at its end."""
    changed: list[tuple[str, int]] = []
    monkeypatch.setattr(os, "open", lambda path, flags: path)
    monkeypatch.setattr(os, "dup2", lambda source, fd: changed.append((source, fd)))
    if code:
        with pytest.raises(SystemExit) as ended:
            tell_errors(call)
        assert ended.value.code == code
    else:
        tell_errors(call)
    assert capsys.readouterr().err == (f"raycluster: {said}\n" if said else "")
    assert changed == ([(os.devnull, 1)] if closed else [])


def test_an_error_of_ours_shows_its_traceback() -> None:
    for error in (OSError(errno.EIO, "Input/output error"), KeyError("x")):
        with pytest.raises(type(error)):
            tell_errors(raises(error))
