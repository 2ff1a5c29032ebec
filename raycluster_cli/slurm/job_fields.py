"""What `scontrol show job` prints, as fields by name: the one reader of it."""

from __future__ import annotations

import re

#: Fields that have a line of their own, and any text for a value; not with --oneliner.
_WHOLE_LINES = ("Command", "WorkDir", "StdErr", "StdIn", "StdOut", "Comment", "AdminComment", "SystemComment")


def job_fields(text: str) -> dict[str, str]:
    """The fields of a job; empty where the text is none.  With --oneliner or without.

    Of several jobs those of the first: an id that an array shares with one of its tasks brings all of them,
    and that task is the first (seen with Slurm 22.05).  Of a name that comes twice the first counts.

    >>> job_fields("JobId=7 JobName=a b Restarts=1 StdOut=/a b/x=y.out Power=\\nJobId=8 JobName=c")
    {'JobId': '7', 'JobName': 'a b', 'Restarts': '1', 'StdOut': '/a b/x=y.out', 'Power': ''}
    >>> job_fields("JobId=7 CPUs/Task=1\\n   StdOut=/a B=c\\n   Power=\\n\\nJobId=8")
    {'JobId': '7', 'CPUs/Task': '1', 'StdOut': '/a B=c', 'Power': ''}
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("JobId=") and fields:
            break
        first, _, rest = line.strip().partition("=")
        if first in _WHOLE_LINES:
            fields.setdefault(first, rest.strip())
            continue
        name = ""
        for word in line.strip().split(" "):
            key, equals, value = word.partition("=")
            if equals and _is_name(key):
                name = "" if key in fields else key
                fields.setdefault(key, value)
            elif name:
                fields[name] += f" {word}"  # a value with a space in it
    return {name: value.strip() for name, value in fields.items()}


def _is_name(text: str) -> bool:
    """Whether it can be a field's name, such as JobId, CPUs/Task or NtasksPerN:B:S:C."""
    return text[:1].isupper() and re.fullmatch(r"[\w/:]+", text) is not None


def uid_in(user: str) -> int | None:
    """The user's id in a field such as UserId.

    >>> uid_in("ada(1000)"), uid_in("ada")
    (1000, None)
    """
    found = re.search(r"\((\d+)\)$", user)
    return int(found[1]) if found else None
