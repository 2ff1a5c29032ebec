"""Modules that are loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, {path!r})
from raycluster_cli.rayproc.lazy_modules import import_later
import_later(["late", "broken", "absent"])
import late
import late  # the second import looks at more than the first
assert "late.part" not in sys.modules
assert late.VALUE == 7
import late.other
assert late.other.WHO == "late"
from late import part
assert part is late.part and late.__file__.endswith("__init__.py")
try:
    import broken
    broken.x
except ZeroDivisionError:
    assert "broken" not in sys.modules
else:
    raise AssertionError
try:
    import absent
except ImportError:
    print("ok")
"""


def test_a_module_is_loaded_by_its_first_attribute(tmp_path: Path) -> None:
    package = tmp_path / "late"
    package.mkdir()
    (package / "__init__.py").write_text("from . import part\nVALUE = part.SEVEN\n")
    (package / "part.py").write_text("SEVEN = 7\n")
    (package / "other.py").write_text("from . import VALUE, __name__ as WHO\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(path=str(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
