"""What RAYCLUSTER_TOKEN may be: too long to be guessed, and fit for an HTTP header."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import UsageError

VARIABLE = "RAYCLUSTER_TOKEN"

#: 32 hexadecimal digits are 128 bits.  A shorter token could be found by trying all of them.
LEAST_CHARACTERS = 32

#: Ray sends the token as "Bearer TOKEN"; these are the characters that RFC 6750 allows there.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def own_token(env: Mapping[str, str]) -> str:
    """The token that the user gives in RAYCLUSTER_TOKEN; '' when the variable is not set or empty.

    Raises UsageError for one that cannot be used.  The message does not show it.

    >>> own_token({"RAYCLUSTER_TOKEN": "0123456789abcdef0123456789abcdef"})
    '0123456789abcdef0123456789abcdef'
    """
    token = env.get(VARIABLE, "")
    if not token:
        return ""
    if len(token) < LEAST_CHARACTERS:
        found = f"has {len(token)} characters; {LEAST_CHARACTERS} or more are needed"
    elif not _BEARER.fullmatch(token):
        found = "has a character that is not allowed; letters, digits and . _ ~ + / - are, and = at the end"
    else:
        return token
    raise UsageError(
        f"{VARIABLE} {found}.",
        f"Make one in the batch script: export {VARIABLE}=$(openssl rand -hex 32)",
    )
