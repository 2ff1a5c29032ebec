"""Which stopped processes of a start are continued, and when."""

from __future__ import annotations

import pytest

from raycluster_cli.node.stopped import LOOKS, look
from raycluster_cli.system.proctree import ProcessRef, Stat

RAYLET, GCS = ProcessRef(7, 991), ProcessRef(8, 992)


def stat(ref: ProcessRef, state: str) -> Stat:
    return Stat(ref.pid, "raylet", state, 1, ref.start_ticks)


@pytest.mark.parametrize(
    ("states", "continued"),
    [
        pytest.param(["T"] * (LOOKS - 1), 0, id="a pause is nobody's affair"),
        pytest.param(["T"] * LOOKS, 1, id="stopped and forgotten"),
        pytest.param(["T", "T", "S", "T", "T"], 0, id="two pauses"),
        pytest.param(["T"] * (2 * LOOKS - 1), 1, id="it is given time to go on"),
        pytest.param(["T"] * (2 * LOOKS), 2, id="stopped again"),
        pytest.param(["t"] * (2 * LOOKS), 0, id="a debugger holds it"),
        pytest.param(["D"] * (2 * LOOKS), 0, id="a call on a file system"),
        pytest.param(["T", "T", "", "T"], 0, id="it was not there"),
    ],
)
def test_one_process(states: list[str], continued: int) -> None:
    seen: dict[ProcessRef, int] = {}
    number = 0
    for state in states:
        seen, due = look(seen, [stat(RAYLET, state)] if state else [])
        number += len(due)
    assert number == continued


def test_each_process_has_its_own_count() -> None:
    assert look({RAYLET: LOOKS - 1, GCS: 1}, [stat(RAYLET, "T"), stat(GCS, "T")]) == (
        {GCS: 2},
        (stat(RAYLET, "T"),),
    )


def test_another_process_with_the_same_id_is_none_of_those_that_were_seen() -> None:
    other = ProcessRef(RAYLET.pid, RAYLET.start_ticks + 1)
    assert look({RAYLET: LOOKS - 1}, [stat(other, "T")]) == ({other: 1}, ())
