"""A node's directory where other file systems and users are real."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.unit.node.roots import needs_root


@needs_root
def test_tmp_is_roots_also_in_a_container_that_has_no_root() -> None:
    code = (
        "import os; from raycluster_cli.node.places import is_roots_outside as of; "
        "print(of(os.stat('/tmp').st_uid), of(os.stat('/').st_uid + 1))"
    )
    line = [sys.executable, "-c", code]
    if subprocess.run(["unshare", "--user", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a user namespace")
    for words, found in ((["unshare", "--user"], "True False\n"), ([], "False False\n")):
        done = subprocess.run([*words, *line], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == (found, "")


@needs_root
def test_a_full_and_a_read_only_tmp_are_passed_over(base: Path) -> None:
    code = """
        import subprocess, sys
        from pathlib import Path
        from raycluster_cli.model.errors import UsageError
        from raycluster_cli.node.directory import make_node_root
        base = Path(sys.argv[1])
        for name, size in (("full", "32m"), ("files", "200m,nr_inodes=20"), ("ro", "200m"), ("ok", "200m")):
            (base / name).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", base / name], check=True)
        subprocess.run(["mount", "-o", "remount,ro", base / "ro"], check=True)
        for name in ("full", "files", "ro"):
            try: make_node_root("1", env={}, role="head", base=base / name)
            except UsageError as error: print(error)
        places = [base / name for name in ("full", "files", "ro", "ok")]
        root = make_node_root("1", env={}, role="head", fallbacks=places)
        print(root.path.parent.name, len(root.warnings), root.remove())
    """
    repository = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", textwrap.dedent(code), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=repository, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert "it is full (32 MiB free, 64 needed)" in lines[0]
    assert "more files possible" in lines[1]
    assert "it is read-only" in lines[2]
    assert lines[3] == "ok 3 []"
