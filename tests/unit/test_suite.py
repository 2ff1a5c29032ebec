"""What the roots of Debian's suites are made from, and what is passed into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bed.suite import DEBIAN, Suite, environment, mirror_of_machine

LINE = "deb [signed-by=/usr/share/keyrings/debian.gpg] https://mirror.example/debian bookworm main\n"
STANZA = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n"
OTHER = "deb https://packages.example/cloud-sdk cloud main\n"


@pytest.mark.parametrize(
    ("files", "mirror"),
    [
        ({}, ""),
        ({"sources.list": LINE}, "https://mirror.example/debian"),
        ({"sources.list": f"# {LINE}"}, ""),
        ({"sources.list": OTHER, "sources.list.d/a.sources": STANZA}, "http://mirror.example/debian"),
        ({"sources.list.d/b.sources": "URIs: http://mirror.example/debian-security\n"}, ""),
    ],
)
def test_the_mirror_is_that_of_apt(tmp_path: Path, files: dict[str, str], mirror: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert mirror_of_machine(tmp_path) == mirror


def test_variables_say_where_the_root_is_and_what_it_is_made_from() -> None:
    env = {"HOME": "/home/me", "RAYCLUSTER_BED_MIRROR": "http://mirror.example/debian"}
    suite = Suite.from_environment("trixie", env)
    assert suite.root == Path("/home/me/.cache/raycluster-bed/trixie")
    assert suite.mirror == env["RAYCLUSTER_BED_MIRROR"]
    machine = Suite.from_environment("sid", {"RAYCLUSTER_BED_ROOTS": "/scratch/roots"}, kernel=True)
    assert machine.root == Path("/scratch/roots/sid-kernel")
    assert set(suite.packages) < set(machine.packages)
    assert DEBIAN.startswith("http")


def test_a_command_in_the_root_gets_a_logins_variables_and_those_of_the_tests() -> None:
    env = {"CI": "true", "RAYCLUSTER_CHAOS": "5", "PYTHONPATH": "/mine", "SLURM_JOB_ID": "7", "HOME": "/me"}
    inside = environment(env)
    assert inside["PATH"].startswith("/opt/venv/bin:")
    assert (inside["HOME"], inside["CI"], inside["RAYCLUSTER_CHAOS"]) == ("/root", "true", "5")
    assert not {"PYTHONPATH", "SLURM_JOB_ID"} & set(inside)
