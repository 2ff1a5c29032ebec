"""The site's configuration of Slurm, as `scontrol show config` prints it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from .answer import Run, answer_of

#: How long scontrol may take; a busy controller answers late.
SCONTROL_TIMEOUT_S = 8.0


def parse_config(text: str) -> dict[str, str]:
    """The values by name.

    >>> parse_config("KillWait                = 30 sec\\nClusterName             = tux")
    {'KillWait': '30 sec', 'ClusterName': 'tux'}
    """
    pairs = (line.partition(" = ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def query_config(env: Mapping[str, str], *, run: Run = subprocess.run) -> dict[str, str]:
    """The values by name; empty when scontrol is missing, fails or takes too long.

    Blocks meanwhile: not for an event loop.
    """
    done = answer_of(["scontrol", "show", "config"], env, timeout_s=SCONTROL_TIMEOUT_S, run=run)
    return parse_config(done.stdout) if done is not None and done.returncode == 0 else {}


def is_compute_node(host: str, env: Mapping[str, str], *, run: Run = subprocess.run) -> bool | None:
    """Whether Slurm has a node of this name; None when that is not known.  Blocks meanwhile."""
    done = answer_of(
        ["scontrol", "--oneliner", "show", "node", host], env, timeout_s=SCONTROL_TIMEOUT_S, run=run
    )
    if done is None:
        return None
    if done.returncode == 0:
        return True
    return False if "not found" in done.stdout + done.stderr else None


def seconds_of(config: Mapping[str, str], name: str) -> int | None:
    """A value that is a number of seconds; None when it is not known.

    >>> seconds_of({"WaitTime": "10 sec"}, "WaitTime")
    10
    """
    match = re.match(r"\d+", config.get(name, ""))
    return int(match.group()) if match else None
