"""What has to be changed for an environment to work under another path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.staging.relocation import (
    conda_files,
    is_path_file,
    is_script,
    left_outside,
    longest_first,
    moved,
    moved_binary,
    moved_environment,
    moved_text,
)

PAIRS = longest_first(
    [("/home/ada/env", "/tmp/c/env"), ("/home/ada", "/tmp/c/home"), ("/home/ada/env", "/tmp/c/env")]
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/ada/env", "/tmp/c/env"),
        ("/home/ada/env/bin/python", "/tmp/c/env/bin/python"),
        ("/home/ada/environment", "/tmp/c/home/environment"),
        ("/home/adam/env", "/home/adam/env"),
        ("../lib", "../lib"),
        ("", ""),
    ],
)
def test_a_path_moves_with_the_longest_directory_above_it(before: str, after: str) -> None:
    assert moved(before, PAIRS) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"#!/home/ada/env/bin/python\nimport x\n", b"#!/tmp/c/env/bin/python\nimport x\n"),
        (
            b'#!/bin/sh\n\'\'\'exec\' "/home/ada/env/bin/python" "$0" "$@"\n',
            b'#!/bin/sh\n\'\'\'exec\' "/tmp/c/env/bin/python" "$0" "$@"\n',
        ),
        (b'VIRTUAL_ENV="/home/ada/env"\nexport', b'VIRTUAL_ENV="/tmp/c/env"\nexport'),
        (b"PATH=/home/ada/env/bin:/home/ada/bin", b"PATH=/tmp/c/env/bin:/tmp/c/home/bin"),
        (b"/home/ada/env-old/bin", b"/tmp/c/home/env-old/bin"),
        (b"/home/ada.old/x", b"/home/ada.old/x"),
        (b"nothing", b"nothing"),
    ],
)
def test_a_text_names_the_copy(before: bytes, after: bytes) -> None:
    assert moved_text(before, PAIRS) == after


def test_pyvenv_cfg_names_the_copy_of_the_base_python() -> None:
    text = b"home = /shared/python/bin\ncommand = /shared/python/bin/python3 -m venv /shared/env\n"
    pairs = longest_first([("/shared/env", "/t/env"), ("/shared/python", "/t/base")])
    assert moved_text(text, pairs) == (b"home = /t/base/bin\ncommand = /t/base/bin/python3 -m venv /t/env\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\0/opt/env/lib\0b", b"a\0/t/e/lib\0\0\0\0\0b"),
        (b"/opt/env/x:/opt/env/y\0", b"/t/e/x:/t/e/y\0\0\0\0\0\0\0\0\0"),
        (b"/opt/env without an end", b"/opt/env without an end"),
        (b"nothing\0", b"nothing\0"),
    ],
)
def test_a_binary_keeps_its_length(before: bytes, after: bytes) -> None:
    assert moved_binary(before, "/opt/env", "/t/e") == after
    assert len(after) == len(before)


def test_a_binary_has_no_room_for_a_longer_path() -> None:
    with pytest.raises(ValueError, match="longer"):
        moved_binary(b"", "/opt/e", "/tmp/copy/env")


@pytest.mark.parametrize(
    ("path", "script", "path_file"),
    [
        ("bin/ray", True, False),
        ("bin/sub/x", False, False),
        ("condabin/conda", True, False),
        ("lib/python3.11/site-packages/x.pth", False, True),
        ("lib/python3.11/site-packages/__editable___mine_0_1_finder.py", False, True),
        ("lib/python3.11/site-packages/mine/bin.py", False, False),
        ("pyvenv.cfg", False, True),
    ],
)
def test_which_files_may_name_the_path(path: str, script: bool, path_file: bool) -> None:
    assert (is_script(path, 100), is_path_file(path)) == (script, path_file)


def test_a_large_program_is_no_script() -> None:
    assert not is_script("bin/python3.11", 8 << 20)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.pth", b"/src/mine\n/env/lib/x\nimport os\n", ["/src/mine"]),
        (
            "__editable___m_finder.py",
            b"MAPPING: dict[str, str] = {'m': '/src/m', 'n': '/env/n'}\n",
            ["/src/m"],
        ),
        ("__editable___m_finder.py", b"MAPPING = {}\n", []),
        ("pyvenv.cfg", b"home = /src/x\n", []),
    ],
)
def test_what_stays_outside(name: str, text: bytes, found: list[str]) -> None:
    assert left_outside(text, name, ["/env"]) == found


def test_variables_name_what_the_copy_has(tmp_path: Path) -> None:
    copy = str(tmp_path)
    os.makedirs(f"{copy}/env/bin")
    env = {
        "PATH": "/shared/env/bin:/usr/bin:/shared/env/missing",
        "VIRTUAL_ENV": "/shared/env",
        "SLURM_SUBMIT_DIR": "/shared/env",
        "RAYCLUSTER_STATE_DIR": "/shared/env",
        "PWD": "/shared/env",
        "TEXT": "no path",
        "OUTPUT": "/shared/env/results",
    }
    assert moved_environment(env, [("/shared/env", f"{copy}/env")], copy) == env | {
        "PATH": f"{copy}/env/bin:/usr/bin:/shared/env/missing",
        "VIRTUAL_ENV": f"{copy}/env",
    }


def test_conda_says_which_files_name_its_path() -> None:
    metas: list[dict[str, object]] = [
        {"paths_data": {"paths": [{"_path": "lib/a.so", "prefix_placeholder": "/p", "file_mode": "binary"}]}},
        {"paths_data": {"paths": [{"_path": "bin/b", "prefix_placeholder": "/p"}, {"_path": "c"}]}},
        {"name": "without"},
    ]
    assert conda_files(metas) == {"lib/a.so": ("/p", "binary"), "bin/b": ("/p", "text")}
