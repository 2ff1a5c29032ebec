"""What has to be changed for an environment to work under another path, as pure functions.

The environment's own path is in pyvenv.cfg, in the first lines of scripts, in activate, in .pth files and the
finders of editable installs, in absolute symbolic links, and, with conda, in any file that conda-meta lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

Pairs = Sequence[tuple[str, str]]
"""(path before, path after); the longer ones first."""

#: Variables that are not to be changed: Slurm's and raycluster's own, and the working directory.
_KEPT = re.compile(r"(SLURM|RAYCLUSTER|SBATCH|SRUN)_|(OLD)?PWD$")


def longest_first(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each once, so that the first that fits is the right one."""
    return sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))


def moved(path: str, pairs: Pairs) -> str:
    """A path after the move.

    >>> moved("/home/ada/env/bin/python", [("/home/ada/env", "/tmp/copy/env")])
    '/tmp/copy/env/bin/python'
    >>> moved("/home/ada/env2/bin/python", [("/home/ada/env", "/tmp/copy/env")])
    '/home/ada/env2/bin/python'
    """
    for before, after in pairs:
        if path == before or path.startswith(before + "/"):
            return after + path[len(before) :]
    return path


def moved_text(text: bytes, pairs: Pairs) -> bytes:
    """A text file after the move: each path in it that is one of the pairs, or below it.

    >>> moved_text(b"#!/home/ada/env/bin/python3", [("/home/ada/env", "/tmp/copy/env")])
    b'#!/tmp/copy/env/bin/python3'
    """
    after = {os.fsencode(before): os.fsencode(new) for before, new in pairs}
    if not any(before in text for before in after):
        return text
    any_of = b"|".join(map(re.escape, after))
    return re.sub(rb"(?:%b)(?![\w.+-])" % any_of, lambda found: after[found[0]], text)


def moved_binary(data: bytes, before: str, after: str) -> bytes:
    r"""A binary file of conda after the move: texts that end with a zero byte keep their length.

    Raises ValueError where the path after is longer than that before.

    >>> moved_binary(b"x\0/opt/conda/env/lib\0y", "/opt/conda/env", "/tmp/env")
    b'x\x00/tmp/env/lib\x00\x00\x00\x00\x00\x00\x00y'
    """
    old, new = os.fsencode(before), os.fsencode(after)
    if len(new) > len(old):
        raise ValueError(f"{after} is longer than {before}")

    def change(found: re.Match[bytes]) -> bytes:
        text = found[0][:-1].replace(old, new)
        return text + b"\0" * (len(found[0]) - len(text))

    return re.sub(re.escape(old) + rb"[^\0]*\0", change, data)


def is_script(relative: str, size: int) -> bool:
    """Whether a file of an environment may be a script that names the environment's path."""
    return os.path.dirname(relative) in ("bin", "condabin") and size <= 1 << 20


def is_path_file(relative: str) -> bool:
    """Whether a file says where further packages are: .pth, the finder of an editable install, pyvenv.cfg."""
    name = os.path.basename(relative)
    return (
        name == "pyvenv.cfg"
        or name.endswith((".pth", ".egg-link"))
        or (name.startswith("__editable__") and name.endswith(".py"))
    )


def left_outside(text: bytes, name: str, roots: Sequence[str]) -> list[str]:
    """Absolute directories outside of ``roots`` that a .pth file or an editable install's finder names.

    >>> left_outside(b"/home/ada/src\\n", "mine.pth", ["/home/ada/env"])
    ['/home/ada/src']
    """
    shown = text.decode("utf-8", "replace")
    if name.endswith((".pth", ".egg-link")):
        lines = [line.strip() for line in shown.splitlines()]
        paths = [line for line in lines if line.startswith("/")]
    elif name.startswith("__editable__"):
        mapping = re.search(r"^MAPPING\b[^=]*=\s*(\{.*?\})", shown, re.MULTILINE | re.DOTALL)
        paths = re.findall(r":\s*['\"](/[^'\"]*)['\"]", mapping[1]) if mapping else []
    else:
        paths = []
    return [path for path in paths if not any(path == root or path.startswith(root + "/") for root in roots)]


def moved_environment(env: Mapping[str, str], pairs: Pairs, copy: str) -> dict[str, str]:
    """The variables of a process that runs from the copy: paths below the environment are those of the copy.

    A path that the copy does not have stays as it is.
    """
    changed = {}
    for name, text in env.items():
        if _KEPT.match(name) or "/" not in text:
            continue
        parts = [_there(part, moved(part, pairs), copy) for part in text.split(os.pathsep)]
        changed[name] = os.pathsep.join(parts)
    return {**env, **changed}


def _there(before: str, after: str, copy: str) -> str:
    return after if after != before and (after == copy or os.path.lexists(after)) else before


def conda_files(metas: Iterable[Mapping[str, object]]) -> dict[str, tuple[str, str]]:
    """{path relative to the environment: (placeholder, "text" or "binary")} of conda-meta/*.json.

    >>> conda_files([{"paths_data": {"paths": [
    ...     {"_path": "bin/x", "prefix_placeholder": "/opt/p", "file_mode": "text"}, {"_path": "y"}]}}])
    {'bin/x': ('/opt/p', 'text')}
    """
    found = {}
    for meta in metas:
        data = meta.get("paths_data")
        paths = data.get("paths", []) if isinstance(data, dict) else []
        for one in paths:
            if one.get("prefix_placeholder"):
                found[str(one["_path"])] = (str(one["prefix_placeholder"]), str(one.get("file_mode", "text")))
    return found
