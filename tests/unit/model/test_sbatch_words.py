"""sbatch's options, however they are written."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.sbatch_words import line_pairs, option_line, option_pairs, option_value

ODD = ["two words", "it's", 'say "x"', "a\\b", "n[1-2]", "$HOME", "#1", "a=b", "x\\\\y", "é"]


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["-N", "2"], [("nodes", "2")]),
        (["-N2"], [("nodes", "2")]),
        (["-N 2"], [("nodes", "2")]),
        (["--nodes", "2"], [("nodes", "2")]),
        (["--nodes=2"], [("nodes", "2")]),
        (["--exclusive", "-H", "-N", "2"], [("exclusive", None), ("hold", None), ("nodes", "2")]),
        (["--exclusive", "user"], [("exclusive", "user")]),
        (["--comment=", "--mem=1=2"], [("comment", ""), ("mem", "1=2")]),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_all_ways_to_write_an_option(words: list[str], pairs: list[tuple[str, str]], lenient: bool) -> None:
    assert option_pairs(words, lenient=lenient) == pairs


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["-Z", "x", "-N2"], [("-Z", "x"), ("nodes", "2")]),
        (["-Zx"], [("-Z", "x")]),
        (["-N", "2", "stray", "-c4"], [("nodes", "2"), ("cpus-per-task", "4")]),
    ],
)
def test_what_is_no_option_is_refused_or_passed_over(words: list[str], pairs: list[tuple[str, str]]) -> None:
    assert option_pairs(words, lenient=True) == pairs
    with pytest.raises(UsageError):
        option_pairs(words)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--exclude=n1"], "n1"),
        (["--exclude", "n1"], "n1"),
        (["-x", "n1"], "n1"),
        (["-xn1"], "n1"),
        (["-x n1"], "n1"),
        (["-x", "n1", "--exclude=n2"], "n2"),
        (["--exclusive"], None),
        (["-p", "x"], None),
        (["--exclude", "-N", "1"], ""),
        ([], None),
    ],
)
def test_the_value_of_an_option(words: list[str], found: str | None) -> None:
    assert option_value(words, "exclude") == found


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", ["--comment", "-J"])
def test_a_line_is_read_as_it_was_written(name: str, value: str) -> None:
    line = option_line(name, value)
    assert [found for _, found in line_pairs([line])] == [value]
