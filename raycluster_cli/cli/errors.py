"""The end of a command: errors that users can cause become one line and an exit code, here alone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from ..model.errors import ExitCode, RayclusterError
from ..system.report import say


class ReaderGone(Exception):
    """The reader of stdout (head, less) has read what it wanted.

    Not an OSError: Click takes one of a broken pipe for itself, and ends with code 1.
    """


def tell_errors(call: Callable[[], object]) -> None:
    """Call; errors that users can cause become one line and an exit code."""
    code: object = 0
    try:
        try:
            call()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()  # here, since at the interpreter's end nobody could catch what it raises
    except RayclusterError as error:
        say(f"error: {error}")
        code = int(error.exit_code)
    except KeyboardInterrupt:
        code = int(ExitCode.SIGINT)
    except (BrokenPipeError, ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if not error.filename:  # what stdout holds would be written again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = error.filename or "the output"
        say(f"error: cannot write {where}: {error.strerror}. Free some space there, or write elsewhere.")
        code = int(ExitCode.FAILURE)
    if code:
        sys.exit(code)  # type: ignore[arg-type]
