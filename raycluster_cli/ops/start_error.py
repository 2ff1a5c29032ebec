"""Why a command did not start on a node: `raycluster in-node` tells it on stderr, as the command's own text.

The exit code cannot tell it: the command may end with the same one.  So the call has a mark that nobody else
knows, and a line that begins with it is taken out of the output.
"""

from __future__ import annotations

import json
import secrets

from ..model.errors import RayclusterError


class StartError:
    """Takes the line with the error out of a text that comes in pieces."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark or secrets.token_hex(8)
        self._held = ""
        """The beginning of a line that may have the mark."""
        self._is_line_start = True
        self._found = ""

    def take(self, text: str) -> str:
        """What is to be shown of the next piece.

        >>> found = StartError("7f ")
        >>> found.take("a\\n7"), found.take('f {"message": "No such program."}\\nb\\n7'), found.rest()
        ('a\\n', 'b\\n', '7')
        >>> found.error()
        RayclusterError('No such program.')
        """
        shown = ""
        text, self._held = self._held + text, ""
        while text:
            line, end, rest = text.partition("\n")
            may_have_it = line.startswith(self.mark) or self.mark.startswith(line)
            if self._is_line_start and not end and may_have_it:
                self._held = line
                return shown
            if self._is_line_start and line.startswith(self.mark):
                self._found = line[len(self.mark) :]
            else:
                shown += line + end
                self._is_line_start = bool(end)
            text = rest
        return shown

    def rest(self) -> str:
        """What was held back and is shown once no more comes."""
        held, self._held = self._held, ""
        return held

    def error(self, kind: type[RayclusterError] = RayclusterError) -> RayclusterError | None:
        """The error; None where the command has started."""
        if not self._found:
            return None
        told = json.loads(self._found)
        return kind(str(told["message"]), str(told.get("hint", "")))


def marked_line(mark: str, error: RayclusterError) -> str:
    """The line that tells an error.

    >>> marked_line("7f ", RayclusterError("No such program.", "Install it."))
    '7f {"message": "No such program.", "hint": "Install it."}'
    """
    return mark + json.dumps({"message": error.message, "hint": error.hint})
