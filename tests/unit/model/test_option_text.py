"""Sizes and pairs as texts of options."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.option_text import parse_pairs, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (" 12 ", 12), ("1k", 1024), ("1.5 GiB", 3 << 29), ("2TB", 2 << 40), ("900M", 900 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes("--memory", text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "4 giga", "1e9", "4P", "1.G"])
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory is .*; it must be a size such as 4G"):
        parse_size_bytes("--memory", text)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        (" a=1 , b = x=y ", {"a": "1", "b": "x=y"}),
        ("a=", {"a": ""}),
        ('{"a": 1.5, "b": "c"}', {"a": "1.5", "b": "c"}),
    ],
)
def test_pairs(text: str, pairs: dict[str, str]) -> None:
    assert parse_pairs("--labels", text) == pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "contains 'a'"),
        ("=1", "contains '=1'"),
        ("a=1,", "contains ''"),
        ("{a", "cannot be read as JSON"),
    ],
)
def test_pairs_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^--labels {message}.*name=2,other=1"):
        parse_pairs("--labels", text)
