"""Reading limits of control groups imports nothing of weight."""

from __future__ import annotations

import subprocess
import sys


def test_reading_takes_no_imports_of_weight() -> None:
    heavy = "{'ray', 'psutil', 'typer'}"
    code = f"import sys, raycluster_cli.system.cgroups; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
