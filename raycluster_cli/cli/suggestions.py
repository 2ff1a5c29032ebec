"""Commands that people type by the names that other tools give them, and misspelt ones."""

from __future__ import annotations

from collections.abc import Collection

#: What other tools call it, and what it is here.
_OTHER_NAMES = {
    "status": ("list", "ls", "ps", "jobs", "queue", "squeue", "show", "info", "clusters", "nodes", "get"),
    "stop": ("cancel", "kill", "scancel", "delete", "rm", "down", "terminate", "end"),
    "submit": ("sbatch", "launch", "up", "create"),
    "run": ("start", "srun", "symmetric-run"),
    "attach": ("ssh", "shell", "connect", "login", "enter"),
    "logs": ("log", "tail", "output"),
    "monitor": ("watch", "top"),
    "why": ("explain", "debug", "diagnose"),
    "doctor": ("check", "health-check", "test"),
    "scale": ("resize", "grow", "shrink", "autoscale", "groups", "size"),
    "env": ("config", "settings", "environment"),
}


def command_for(name: str, commands: Collection[str]) -> str:
    """The command that is meant by a name that is none; '' when nothing is like it.

    >>> command_for("ps", ["status", "stop"]), command_for("statsu", ["status", "stop"])
    ('status', 'status')
    >>> command_for("stat", ["start", "status"])
    'status'
    """
    from difflib import get_close_matches

    meant = {other: command for command, others in _OTHER_NAMES.items() for other in others}
    meant |= {command: command for command in commands}
    begun = [command for command in commands if len(name) > 2 and command.startswith(name.lower())]
    if begun and name.lower() not in meant:
        return min(begun, key=len)
    near = get_close_matches(name.lower(), meant, 1, 0.7)
    return meant[near[0]] if near else ""
