"""The environment variables of raycluster: the user's, those of its own processes, and misspelt ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from .settings import PREFIX, Settings, variable_name
from .token import VARIABLE

#: What raycluster sets for processes of its own, and for those that it starts.
OWN = frozenset(
    PREFIX + name
    for name in (
        "SITE_FILE",  # where a site's configuration file is (state.location)
        *("NODE_ROOT", "NODE_NAME", "NODE_IP", "KEY", "PARENT_FD", "DRIVER_RESTARTS", "DRIVER_OF", "JOB"),
        "HANDED_OVER",  # to a supervisor that runs from a copy of the environment (system.keeper_link)
        *(
            "VLLM_HOST_IP",
            "LAZY_FD",
            "LAZY_CLIENT_FDS",
            "LAZY_PORT",
            "PLAN",
            "PUBLIC_WATCH",
            "DOCTOR",
            "LOGS_HERE",
            "SERVE_HTTP_PORT",
            "SERVE_GRPC_PORT",
            "SERVE_STATUS",
        ),
    )
)


#: How the container is started in which raycluster runs: decided outside of it, by `raycluster submit` or by
#: the options of head, worker and run, and not by files that are read in it.
CONTAINER = ("container", "container_runtime", "container_mounts", "container_workdir")

#: What a driver finds in its environment that describes itself.  They are options by their names, but not of
#: another cluster that the driver starts.
OF_A_DRIVER = tuple(
    PREFIX + name
    for name in (
        *("DRIVER_RESTARTS", "SERVICE_PORT", "SERVICE_HOST"),
        *("SERVE_HTTP_PORT", "SERVE_GRPC_PORT", "SERVE_STATUS"),
    )
)


def unknown_variables(env: Mapping[str, str]) -> str:
    """A warning about RAYCLUSTER_ variables that mean nothing; '' when there are none.

    >>> unknown_variables({"RAYCLUSTER_TIMOUT": "60", "RAYCLUSTER_GRACE": "5"})
    'RAYCLUSTER_TIMOUT has no effect: no option has this name; did you mean RAYCLUSTER_TIMEOUT?'
    """
    known = {variable_name(one.name) for one in fields(Settings)} | {VARIABLE} | OWN
    unknown = sorted(name for name in env if name.startswith(PREFIX) and name not in known)
    if not unknown:
        return ""
    from difflib import get_close_matches  # a start without such variables does without

    verb, noun = ("has", "this name") if len(unknown) == 1 else ("have", "these names")
    # The prefix is the same in all, and would make any two alike.
    names = sorted(name.removeprefix(PREFIX) for name in known - OWN)
    near = dict.fromkeys(
        PREFIX + match
        for name in unknown
        for match in get_close_matches(name.removeprefix(PREFIX), names, 1, 0.7)
    )
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"{', '.join(unknown)} {verb} no effect: no option has {noun}{hint}"
