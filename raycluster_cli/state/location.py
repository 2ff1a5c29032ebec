"""Where a user's files are: the state directories of clusters, and configuration files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..model.errors import UsageError
from ..model.settings import Settings

#: The configuration file for all users of a site; the variable names another one, for sites without root.
SITE_FILE = "/etc/raycluster.toml"
SITE_VARIABLE = "RAYCLUSTER_SITE_FILE"

#: The configuration file of a project, in the working directory.
PROJECT_FILE = "raycluster.toml"


def configuration_paths(env: Mapping[str, str]) -> list[str]:
    """Where configuration files may be, the weakest first: the site's, the user's, the project's.

    >>> configuration_paths({"HOME": "/home/ada"})
    ['/etc/raycluster.toml', '/home/ada/.config/raycluster/config.toml', 'raycluster.toml']
    """
    home = env.get("HOME", "")
    base = env.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # as the XDG Base Directory Specification has it
        base = f"{home}/.config" if os.path.isabs(home) else ""
    user = [f"{base}/raycluster/config.toml"] if base else []
    return [env.get(SITE_VARIABLE) or SITE_FILE, *user, PROJECT_FILE]


def configuration_files(env: Mapping[str, str]) -> list[str]:
    """Those that are there: one look at each path.  Raises UsageError where the variable names none."""
    found = [path for path in configuration_paths(env) if os.path.exists(path)]
    named = env.get(SITE_VARIABLE, "")
    if named and named not in found:
        raise UsageError(
            f"{SITE_VARIABLE} is {named!r}; there is no such file.",
            "Give the path of the site's configuration file, or unset the variable.",
        )
    return found


def state_dir(settings: Settings, env: Mapping[str, str]) -> Path:
    """Where the records are."""
    return state_dir_of(settings.state_dir, env)


def state_dir_of(given: str, env: Mapping[str, str]) -> Path:
    """Where the records are: ``given`` by --state-dir or RAYCLUSTER_STATE_DIR, else below the home directory.

    A relative path of the command line belongs to the current directory.  Raises UsageError for one of the
    variable, which also processes with other working directories read, and where no home directory is known.

    >>> state_dir_of("", {"HOME": "/home/ada"}).as_posix()
    '/home/ada/.raycluster'
    """
    if not given:
        return _home(env) / ".raycluster"
    if given == "~" or given.startswith("~/"):
        return _home(env) / given[2:]
    path = os.path.expanduser(given)
    if path.startswith("~"):
        raise UsageError(f"the state directory is {given!r}, but there is no such user.", "Give a full path.")
    if given == env.get("RAYCLUSTER_STATE_DIR") and not os.path.isabs(path):
        raise UsageError(
            f"RAYCLUSTER_STATE_DIR is {given!r}; it must be an absolute path.",
            "A relative one would be another directory in each working directory.",
        )
    return Path(path).absolute()


def _home(env: Mapping[str, str]) -> Path:
    """The user's home directory; where HOME is not set, that of the user database."""
    home = env["HOME"] if "HOME" in env else os.path.expanduser("~")
    if not os.path.isabs(home):
        raise UsageError(
            f"the environment variable HOME is {home!r}, so the directory of the records is not known: "
            "it is .raycluster in your home directory.",
            "Set HOME to your home directory, or give a shared directory by --state-dir or "
            "RAYCLUSTER_STATE_DIR.",
        )
    return Path(home)
