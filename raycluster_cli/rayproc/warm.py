"""A companion started before anything else, so that Ray's import overlaps our own.

Importing Ray is the longest step of a start (0.4 s and more), and needs nothing but a Python.  So the
command of a head starts the companion first of all; what it prints goes to memory until the node's directory
exists.  If no node is started after all (a mistyped option), the companion ends with its stdin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..model.value import Value
from .boot import companion_command


class WarmCompanion(Value):
    """A companion that is importing Ray."""

    pid: int
    stdin: int
    """Descriptor to write commands to."""
    stdout: int
    """Descriptor to read events from."""
    log: int
    """Descriptor of what it has printed, in memory."""


def worth_it(arguments: Sequence[str], env: Mapping[str, str], has_copy: bool = False) -> bool:
    """Whether this command line probably starts a Ray node here that needs Ray imported.

    A worker probably does not: it starts by its head's template.  With --stage-env Ray is
    imported from the copy of the environment; ``has_copy``: that is where this process runs from.
    """
    options = arguments[1 : arguments.index("--")] if "--" in arguments else arguments[1:]
    if not has_copy and (
        env.get("RAYCLUSTER_STAGE_ENV") or any(option.startswith("--stage-env") for option in options)
    ):
        return False
    asks = "-h" in options or "--help" in options
    local = any(option.split("=")[0] == "--local" for option in options)
    named = [
        (option + "=" + after).split("=")[1]
        for option, after in zip(options, [*options[1:], ""], strict=False)
        if option.startswith("--quick")
    ]
    other_way = [env.get("RAYCLUSTER_QUICK", ""), *named][-1] not in ("", "auto")
    head = arguments[:1] == ["head"] or (
        arguments[:1] == ["run"] and (local or env.get("SLURM_PROCID", "0") == "0")
    )
    # Of several tasks on a node only the first joins.
    joins = arguments[:1] in (["worker"], ["run"]) and env.get("SLURM_LOCALID", "0") == "0"
    return not asks and (head or (joins and other_way))


def begin(env: Mapping[str, str]) -> WarmCompanion | None:
    """Start a companion.  None where that fails: the node then starts one itself."""
    commands_read, commands_write = os.pipe()
    events_read, events_write = os.pipe()
    log = -1
    try:
        log = os.memfd_create("companion")
        actions = [
            (os.POSIX_SPAWN_DUP2, commands_read, 0),
            (os.POSIX_SPAWN_DUP2, events_write, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        argv = companion_command()
        # A session of its own, as CompanionClient.spawn has it; no signal blocked, unlike here.
        pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=())
    except (OSError, NotImplementedError, AttributeError):
        for fd in (commands_write, events_read, log):
            if fd >= 0:
                os.close(fd)
        return None
    finally:
        os.close(commands_read)
        os.close(events_write)
    return WarmCompanion(pid, commands_write, events_read, log)
