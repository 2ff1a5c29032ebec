"""A start without configuration files imports nothing for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.cli.test_files import project as project


def test_a_start_without_files_imports_nothing_for_them(project: Path) -> None:
    (project / "raycluster.toml").unlink()
    line = "from raycluster_cli.cli.plain import read_line; read_line(['run'], {})"
    code = f"import sys; {line}; print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    found = set(done.stdout.split())
    assert "raycluster_cli.cli.plain" in found
    assert found.isdisjoint({"raycluster_cli.config", "raycluster_cli.ops", "tomllib", "tomli"})
