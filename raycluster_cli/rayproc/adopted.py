"""Variables that make a program, which is running already, a client of a cluster; and taking them back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping


def adopt(wanted: Mapping[str, str], env: MutableMapping[str, str]) -> dict[str, str | None]:
    """Set what a client of the cluster needs, also in a Ray that is imported; returns what was there before.

    ``env`` is this process's environment.  After an error it is as before.
    """
    replaced = {name: env.get(name) for name in wanted}
    env.update(wanted)
    if "ray" in sys.modules:  # its C++ part has read its RAY_* variables when it was imported
        try:
            from .private.gcs import apply_settings

            apply_settings(dict(wanted))
        except BaseException:
            restore(replaced, env)
            raise
    return replaced


def restore(replaced: Mapping[str, str | None], env: MutableMapping[str, str]) -> None:
    """Undo :func:`adopt`: the variables get their earlier values, or are taken out.

    >>> env = {"RAY_ADDRESS": "n1:20480", "PATH": "/bin"}
    >>> restore({"RAY_ADDRESS": None}, env); env
    {'PATH': '/bin'}
    """
    for name, value in replaced.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
