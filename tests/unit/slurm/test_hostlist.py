"""Hostlists, against scontrol's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.hostlist import format_hostlist
from raycluster_cli.slurm.hostlist import parse_hostlist

HOSTLISTS = json.loads((Path(__file__).parents[2] / "data" / "hostlists.json").read_text())


@pytest.mark.parametrize(("text", "hosts"), HOSTLISTS["agree"])
def test_hostlist_agrees_with_scontrol(text: str, hosts: list[str]) -> None:
    assert parse_hostlist(text) == hosts


@pytest.mark.parametrize(("text", "hosts"), HOSTLISTS["refused_by_scontrol_read_here"])
def test_hostlist_with_suffix(text: str, hosts: list[str]) -> None:
    assert parse_hostlist(text) == hosts


@pytest.mark.parametrize(
    "text",
    [*HOSTLISTS["refused_by_both"], *(text for text, _ in HOSTLISTS["guessed_by_scontrol_refused_here"])],
)
def test_malformed_hostlist_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hostlist(text, source="SLURM_JOB_NODELIST")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("SLURM_JOB_NODELIST cannot be read: found ")
    assert "needed a Slurm host list such as" in message


@pytest.mark.parametrize(
    "text",
    ["a[1-65536],b", "a[1-300]b[1-300]", "a[0-99]b[0-99]c[0-99]d[0-99]e[0-99]", "n[1-999999999999999999]"],
)
def test_huge_hostlist_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError, match="more than 65536 hosts"):
        parse_hostlist(text)


def test_largest_hostlist_is_read() -> None:
    assert len(parse_hostlist("n[00000-65535]")) == 65536


def test_long_malformed_text_is_cut_in_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        parse_hostlist("n[" + "1," * 5000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [text for text, _ in HOSTLISTS["agree"]])
def test_formatted_hostlist_reads_back(text: str) -> None:
    hosts = parse_hostlist(text)
    assert parse_hostlist(format_hostlist(hosts)) == hosts
