"""The soak's verdict and its table, from values made up by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.soak import FIGURES, Figure, Soak

FIRST = {figure.name: 100.0 for figure in FIGURES}


def soak(last: Mapping[str, float], failed: int = 0, left: tuple[str, ...] = ()) -> Soak:
    values = {**FIRST, **last}
    return Soak(hours=1.0, starts=500, failed=failed, first=FIRST, last=values, most=values, left=left)


def test_what_stays_as_it_was_is_no_problem() -> None:
    assert soak({}).problems() == []
    assert soak({FIGURES[0].name: 50.0}).problems() == []


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_each_figure_has_a_bound(figure: Figure) -> None:
    bound = figure.bound(100.0, hours=1.0)
    assert soak({figure.name: bound}).problems() == []
    problem = soak({figure.name: bound + 1}).problems()
    assert len(problem) == 1
    assert problem[0].startswith(f"{figure.name}: {bound + 1:.1f}")


def test_failed_runs_and_what_is_left_are_problems() -> None:
    assert soak({}, failed=2, left=("n1: file /tmp/rc-0-1234",)).problems() == [
        "2 of 500 runs failed",
        "left behind: n1: file /tmp/rc-0-1234",
    ]


def test_the_table_has_a_row_for_each_figure() -> None:
    lines = soak({FIGURES[0].name: 101.0}).table().splitlines()
    assert lines[0].startswith("500 starts and stops on 3 hosts in 60 minutes (5 in each job), 0 failed, 0 ")
    assert len(lines) == 4 + len(FIGURES)
    assert lines[4] == "| memory of keepers and supervisors (MB) | 100.0 | 101.0 | 101.0 | 108.0 |"
