"""What Ray Serve's controller reports of its applications, for the head's supervisor (service/serve.py).

The answer of Serve's own `serve.status()`, written into a file in the node's directory every few seconds by a
thread of the controller.  So nobody has to connect to Ray for it, and a controller that hangs stops writing.

    {"at": 1760000000.0, "port": 20011, "tls": false, "proxies": 3,
     "applications": [{"name": "default", "status": "RUNNING", "message": "",
                       "deployments": [{"name": "Model", "status": "HEALTHY", "message": ""}]}]}

``at``: Unix seconds of this host's clock.  With ``error`` instead of applications their state is not known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from typing import Any

SERVE = logging.getLogger("ray.serve")

#: Between two reports while all applications run, and else.
WELL_S, OTHERWISE_S = 3.0, 1.0


def keep_reporting(path: str) -> None:
    """Write the state of Serve's applications into a file, from now on, in a thread."""
    write(path, {"applications": []})  # from now on the server is Serve's
    threading.Thread(target=_report, args=(path,), name="raycluster", daemon=True).start()


def _report(path: str) -> None:
    told = False
    while True:
        try:
            found = state()
        except Exception as error:
            found = {"error": repr(error)}
            if not told:
                SERVE.warning(f"raycluster: the state of Serve's applications is not known: {error!r}")
            told = True
        write(path, found)
        well = all(one["status"] == "RUNNING" for one in found.get("applications", ()))
        time.sleep(WELL_S if well else OTHERWISE_S)


def state() -> dict[str, Any]:
    """What Serve says now.  Waits while its controller does not answer."""
    from ray import serve
    from ray.serve.context import _get_global_client

    now = serve.status()
    applications = [
        {
            "name": name,
            "status": one.status.value,
            "message": one.message,
            "deployments": [
                {"name": part, "status": of.status.value, "message": of.message}
                for part, of in one.deployments.items()
            ],
        }
        for name, one in now.applications.items()
    ]
    found: dict[str, Any] = {"applications": applications, "proxies": len(now.proxies)}
    with contextlib.suppress(AttributeError):  # private; without it only a hint is missing
        options = _get_global_client().http_config
        found |= {"port": options.port, "tls": bool(getattr(options, "ssl_certfile", None))}
    return found


def write(path: str, found: dict[str, Any]) -> None:
    """Replace the file, unless the disk is full or the node's directory is being removed."""
    beside = f"{path}.new"
    with contextlib.suppress(OSError):
        with open(beside, "w", encoding="utf-8") as file:
            json.dump({"at": time.time(), **found}, file)
        os.replace(beside, path)
