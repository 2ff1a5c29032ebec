"""Checks of Python, of Ray's import, and of other Rays on the node."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

from .._version import __version__
from ..system.port_probe import port_error
from ..system.proctree import PROC, all_stats
from .checkup import Checkup
from .doctor_host import file_system
from .findings import Verdict

#: Ray is imported once in a child; an import that takes longer counts as failed.
IMPORT_TIMEOUT_S = 12.0

#: Ray's raylet waits 15 s for its agents' imports, which take twice as long as this one.
IMPORT_SLOW_S = 5.0

_IMPORT = """\
import sys, time
sys.path = [part for part in sys.path if part]
began = time.time()
import ray
took = time.time() - began
import json
print(json.dumps({"version": ray.__version__, "path": ray.__file__, "took_s": took}))
"""


def begin_import(checkup: Checkup) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _IMPORT],
        env={**checkup.env, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_python(checkup: Checkup) -> None:
    checkup.add(
        Verdict.OK,
        f"{checkup.versions['python']} at {sys.executable} on {file_system(sys.executable)}; "
        f"raycluster {__version__}",
    )


def check_ray(checkup: Checkup, importing: subprocess.Popen[str]) -> None:
    try:
        out, err = importing.communicate(timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        importing.kill()
        importing.communicate()
        checkup.add(
            Verdict.FAIL,
            f"`import ray` took longer than {IMPORT_TIMEOUT_S:g} s; {sys.prefix} is on "
            f"{file_system(sys.prefix)}",
            "Put the environment on a local disk or into a container image.",
        )
        return
    if importing.returncode != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        checkup.add(
            Verdict.FAIL, f"`import ray` failed: {last}", f"{sys.executable} -m pip install 'ray>=2.52'"
        )
        return
    found = json.loads(out.strip().splitlines()[-1])
    version, took_s, where = str(found["version"]), float(found["took_s"]), file_system(found["path"])
    checkup.versions["ray"] = version
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < (2, 52):
        checkup.add(Verdict.FAIL, f"Ray is {version}; 2.52 or newer is needed", "Update Ray on all nodes.")
    elif took_s > IMPORT_SLOW_S:
        checkup.add(
            Verdict.WARNING,
            f"{version} on {where}: `import ray` takes longer than {IMPORT_SLOW_S:g} s, in each process",
            "Put the environment on a local disk or into a container image.",
            import_s=took_s,
        )
    else:
        checkup.add(Verdict.OK, f"{version} on {where}", import_s=took_s)


def check_other_rays(checkup: Checkup) -> None:
    mine, others = [], 0
    for stat in all_stats():
        if stat.name not in ("raylet", "gcs_server"):
            continue
        with contextlib.suppress(OSError):
            if (PROC / str(stat.pid)).stat().st_uid == os.geteuid():
                mine.append((stat.name, stat.pid))
            else:
                others += 1
    by_hand = [port for port in (6379, 8265, 10001) if port_error(port) is not None]
    text = "none of yours on this node"
    if mine:
        text = "yours on this node: " + ", ".join(f"{name} (pid {pid})" for name, pid in mine[:6])
    if others:
        text += f"; {others} Ray processes of other users"
    if by_hand:
        text += f"; Ray's default ports {', '.join(map(str, by_hand))} are taken (not by raycluster)"
    checkup.add(
        Verdict.NOTE if mine or by_hand else Verdict.OK,
        text,
        "raycluster does not touch them. `raycluster status` lists your clusters; `raycluster stop --here` "
        "removes what crashed ones left."
        if mine
        else "",
    )
