"""How the companion is called.  Imports next to nothing: the command's first act needs it."""

from __future__ import annotations

import os.path
import sys

# Not `-m raycluster_cli.companion`: that puts the user's working directory first on the path, and a job
# is often started beside a directory named `ray` or a file named `random.py`.
_BOOT = """\
import sys
sys.path = [*(part for part in sys.path if part), sys.argv[1]]
from raycluster_cli.companion import main
sys.exit(main())
"""


def companion_command(python: str = sys.executable) -> list[str]:
    """The argument list of a companion."""
    package = os.path.dirname(os.path.abspath(__file__))
    return [python, "-c", _BOOT, os.path.dirname(package)]
