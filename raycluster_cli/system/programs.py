"""Programs by their names, as a shell finds them in PATH.

Not by `shutil`, which imports three compression libraries: 2 ms and 0.3 MB in every supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def find_program(name: str, env: Mapping[str, str]) -> str | None:
    """The file that a shell with this environment runs for ``name``; None when there is none.

    Blocks as long as the file systems of PATH do; a supervisor uses :func:`.waiting.find_within`.

    >>> find_program("sh", {"PATH": "/nowhere:/bin"}), find_program("/bin", {})
    ('/bin/sh', None)
    """
    path = env.get("PATH", os.defpath)
    if "/" not in name and not path:
        return None  # not the working directory's
    directories = [""] if "/" in name else path.split(os.pathsep)
    for directory in directories:
        file = os.path.join(directory, name)
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return file
    return None


def missing_interpreter(file: str) -> str:
    """The interpreter that the first line of a script names, if it is not there; else ''.

    Blocks as :func:`find_program` does.
    """
    try:
        with open(file, "rb") as script:
            line = script.read(256).partition(b"\n")[0]
    except OSError:
        return ""  # a program may be executable and not readable
    interpreter = line.removeprefix(b"#!").strip(b" \t").split(b" ")[0].split(b"\t")[0]
    if not line.startswith(b"#!") or not interpreter or os.path.exists(interpreter):
        return ""
    return os.fsdecode(interpreter)
