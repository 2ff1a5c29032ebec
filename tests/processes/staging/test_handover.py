"""A supervisor that is told of a copy executes its Python, in a process of its own: it does not return."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from raycluster_cli.system.keeper_link import HANDED_OVER
from raycluster_cli.system.removal import remove_tree

#: A node that hands over: its argument is a directory that serves as shared file system and disk.
NODE = """
import io, os, sys
from pathlib import Path
from raycluster_cli.staging import handover
from raycluster_cli.staging.stage import Request
from raycluster_cli.system.keeper_link import Keeper
from raycluster_cli.system.report import Report
from tests.unit.staging.environments import make_environment

root, value = Path(sys.argv[1]), sys.argv[2]
python = make_environment(root / "shared")
(root / "shared/python/bin/python3.11").write_text('#!/bin/sh\\nenv; echo "ARGS $0 $@"\\n')
tool = root / "shared/env/bin/raycluster"
tool.write_text(f'#!/bin/sh\\nenv; echo "ARGS $0 $@"\\n')
tool.chmod(0o755)
handover.this_interpreter = lambda: python
sys.executable = python.executable
relay, _ = os.pipe()
_, notes = os.pipe()
notes = os.open(root / "notes", os.O_WRONLY | os.O_CREAT)
env = {"PATH": f"{python.prefix}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": python.prefix}
request = Request(value=value, env=env, host="n1", job="c/1", note=None, is_head=True, same_step=True)
driver = [python.executable, "train.py", "--stage-env"]
arguments = ["run", "--stage-env=auto", "--", *driver]
handover.hand_over(request, arguments, driver, Keeper(relay, notes), Report())
print("RETURNED")
"""


def node(tmp_path: Path, value: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", NODE, str(tmp_path), value]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, timeout=120)


def test_a_node_goes_on_from_the_copy(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    done = node(tmp_path, str(tmp_path / "disk"))
    assert done.returncode == 0, done.stderr
    (copy,) = (tmp_path / "disk").iterdir()
    assert f"copied to {copy} on n1 in " in done.stderr
    lines = done.stdout.splitlines()
    driver = f"{copy}/env/bin/python train.py --stage-env"
    assert lines[-1] == f"ARGS {copy}/env/bin/raycluster run --stage-env=auto -- {driver}"
    variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("ARGS"))
    assert variables["VIRTUAL_ENV"] == f"{copy}/env"
    assert variables["PATH"].startswith(f"{copy}/env/bin:")
    assert variables[HANDED_OVER].endswith(f" {copy}")
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert notes == [{"staged": str(copy)}, {"staged": str(copy)}]
    assert remove_tree(copy) == []


def test_a_node_without_a_copy_goes_on_as_it_is(tmp_path: Path) -> None:
    done = node(tmp_path, "/missing")
    assert done.stdout == "RETURNED\n", done.stderr
    said = "raycluster: warning: n1: the shared environment is used: there is no room for 10 MB: /missing: "
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1
