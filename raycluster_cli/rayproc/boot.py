"""Command lines of our own Python processes.  Imports almost nothing: every start needs it first."""

from __future__ import annotations

import os.path
import sys

# Not `-m raycluster_cli.rayproc.companion`: that puts the user's working directory first on the path,
# and a job is often started beside a directory named `ray` or a file named `random.py`.
_BOOT = """\
import sys
sys.path = [*(part for part in sys.path if part), sys.argv[1]]
from raycluster_cli.rayproc.companion import main
sys.exit(main())
"""

_RAYCLUSTER = """\
import sys
sys.path = [*(part for part in sys.path if part), sys.argv[1]]
sys.argv = ["raycluster", *sys.argv[2:]]
from raycluster_cli.__main__ import main
main()
"""

_ORPHANED = """\
import sys
sys.path = [*(part for part in sys.path if part), sys.argv[1]]
from raycluster_cli.supervisor.orphaned import main
main(sys.argv[2])
"""


def orphaned_command(root: str, python: str = sys.executable) -> list[str]:
    """The argument list of what clears the node whose directory is ``root`` (supervisor.orphaned)."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python, "-c", _ORPHANED, os.path.dirname(package), root]


# Opened for both first, which does not block; the reader then sees the end of the last writer, even
# one that has ended before.  Where nobody holds the FIFO, it does not wait.
_GATE = 'exec 3<>"$0" 4<"$0" 3>&-; read -r go <&4; exec 4<&-; exec "$@"'


def stand_in_command(*how: str, python: str = sys.executable) -> list[str]:
    """The first part of the argument list of lazy_agent.py; the command follows that it stands in for."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lazy_agent.py")
    return [python, "-I", "-S", script, *how, "--"]


def gate_command(gate: str) -> list[str]:
    """The first part of a command that waits at a FIFO until something is written to it or its writers end.

    A shell, which starts in 1 ms and takes 1 MB; Python would take 15 ms and 8 MB to wait.
    """
    return ["/bin/sh", "-c", _GATE, gate]


def companion_command(python: str = sys.executable) -> list[str]:
    """The argument list of a companion."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python, "-c", _BOOT, os.path.dirname(package)]


def raycluster_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """The argument list of this very raycluster, whatever PATH and working directory hold."""
    script = os.path.join(os.path.dirname(python), "raycluster")
    if os.access(script, os.X_OK):
        return [script, *arguments]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python, "-c", _RAYCLUSTER, os.path.dirname(package), *arguments]
