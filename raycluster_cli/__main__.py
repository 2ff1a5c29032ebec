"""The console script: forks off the keeper where a node is started, then runs the command line."""

from __future__ import annotations

import sys

#: Commands that start Ray on this node and therefore run under a keeper.
_KEPT = {"head", "worker", "run"}


def main() -> None:
    """Entry point of `raycluster` and of `python -m raycluster_cli`."""
    keeper = None
    if len(sys.argv) > 1 and sys.argv[1] in _KEPT and "--help" not in sys.argv:
        # Before everything else: the keeper shall stay as small as a bare Python is.
        from .keeper import guard

        keeper = guard()
    from .cli import run_command_line

    run_command_line(keeper)


if __name__ == "__main__":
    main()
