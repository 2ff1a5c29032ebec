"""The common path: under it each node of a cluster finds its own directory, wherever that is.

Drivers pass ``runtime_env={"env_vars": dict(os.environ)}`` to tasks and actors on other nodes, and with it
the paths of the token, of the TLS keys and of TMPDIR.  Ray's worker processes abort and start again without
end where those files do not exist.  So a worker makes a symbolic link at the path of the *head's* directory,
which the record names; it points to the worker's own.  docs/decisions/0022 has what else was weighed.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from ..model.errors import in_words
from .places import Candidate, mountinfo, parse_mountinfo

NOTE = "common-path"
"""File in a node's directory that names its link, so that the link is removed with the directory."""


def make_common_path(root: Path, head_root: str, mounts: Callable[[], str] | None = None) -> tuple[Path, str]:
    """Make the node's directory ``root`` reachable as ``head_root``, the path of the head's directory.

    Returns the path to use in environments, and why it is not ``head_root`` (empty where it is, and where the
    head's own directory is on this machine).  May block as file systems do; never raises.
    """
    link = Path(head_root)
    if link == root or not re.fullmatch(rf"/.*/rc-{os.geteuid()}-[0-9a-f]{{8}}", head_root):
        return root, ""
    try:
        found = os.lstat(link)
    except FileNotFoundError:
        # Not made in a directory where others could replace it; no call is made on a network file system.
        place = Candidate.look(link.parent, parse_mountinfo((mounts or mountinfo)()), len(link.name))
        if place.problem:
            return root, f"{link.parent}: {place.problem}"
        return _link(root, link)
    except OSError as error:
        return root, in_words(error)
    if found.st_uid != os.geteuid():
        return root, f"{link} belongs to another user (uid {found.st_uid})"
    if not stat.S_ISLNK(found.st_mode) or _leads_elsewhere(link, root):
        return root, ""  # the head's own directory, or another node of the cluster on this machine
    with contextlib.suppress(OSError):
        link.unlink()
    return _link(root, link)


def _leads_elsewhere(link: Path, root: Path) -> bool:
    """Whether a link leads to a directory that is there and not this node's."""
    try:
        return os.path.exists(link) and os.readlink(link) != str(root)
    except OSError:
        return False  # removed meanwhile, as another node on this machine has ended


def _link(root: Path, link: Path) -> tuple[Path, str]:
    try:
        (root / NOTE).write_text(str(link))
        link.symlink_to(root)
    except FileExistsError:
        # Made meanwhile: by another node of the cluster on this machine, or by another user.
        with contextlib.suppress(OSError):
            if os.lstat(link).st_uid == os.geteuid():
                return root, ""
        return root, f"{link} belongs to another user"
    except OSError as error:
        return root, in_words(error)
    return link, ""


def restore_common_path(root: Path, link: Path) -> None:
    """Make the link again when a program that cleans /tmp has removed it.  Never raises."""
    if link != root:
        with contextlib.suppress(OSError):
            link.symlink_to(root)


def remove_common_path(root: Path) -> None:
    """Remove the link of a directory that is about to be removed.  Never raises.

    A program that cleans /tmp may have removed the note: then the link is looked for beside the directory.
    """
    links: list[Path] = []
    try:
        links = [Path((root / NOTE).read_text())]
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            links = list(root.parent.glob(f"rc-{os.geteuid()}-*"))
    for link in links:
        with contextlib.suppress(OSError, ValueError):
            if os.readlink(link) == str(root):
                os.unlink(link)
