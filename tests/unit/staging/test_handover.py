"""What a supervisor that runs from a copy of the environment was handed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.system.keeper_link import HANDED_OVER, Handover


@pytest.mark.parametrize("text", ["", "1 2 3", "1 3 4 5 /tmp/copy", "x"])
def test_what_another_process_was_handed_over_is_not_taken(text: str) -> None:
    env = {HANDED_OVER: text, "A": "1"}
    assert Handover.taken(env) is None
    assert env == {"A": "1"}


def test_what_was_handed_over_is_not_handed_on(tmp_path: Path) -> None:
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    for fd in fds:
        os.set_inheritable(fd, True)
    given = Handover(os.getpid(), *fds, str(tmp_path / "a copy"))
    taken = Handover.taken({HANDED_OVER: given.as_text()})
    assert taken == given
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)
