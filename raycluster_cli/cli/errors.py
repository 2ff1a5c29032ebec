"""Errors that users can cause become one line and an exit code, here and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ..model.errors import ExitCode, RayclusterError


def tell_errors(call: Callable[[], object]) -> None:
    """Call; errors that users can cause become one line and an exit code."""
    try:
        call()
    except RayclusterError as error:
        print(f"raycluster: error: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.SIGINT))
    except BrokenPipeError:
        # The reader (head, less) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
