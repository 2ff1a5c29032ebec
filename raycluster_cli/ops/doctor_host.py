"""Checks of what a node grants: CPUs, memory, GPUs, /dev/shm, limits, directories."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..model.variables import unknown_variables
from ..node.directory import make_node_root
from ..node.grants import read_host
from ..node.places import LOCAL, NETWORK, mount_of, parse_mountinfo
from ..node.resources import plan_from_settings
from ..system.limits import raise_limits
from ..system.proctree import PROC
from .checkup import Checkup
from .findings import Verdict

#: Ray creates no more objects where the disk is fuller than 95 %.
NEARLY_FULL = 0.9

#: A record's file is written in well under a millisecond on most file systems.
SLOW_WRITE_S = 1.0


def check_grants(checkup: Checkup) -> None:
    settings = checkup.settings
    facts = checkup.facts = read_host(checkup.env, checkup.allocation)
    plan = plan_from_settings(facts, settings, head=True)
    checkup.num_cpus = plan.num_cpus
    _granted(checkup, "cpus", f"{plan.num_cpus}: {plan.sources.get('num_cpus', '')}", facts.cpus.warnings)
    memory = f"{_gib(plan.memory_bytes)} for tasks of {_gib(facts.memory_bytes.value)}"
    _granted(checkup, "memory", f"{memory} ({facts.memory_bytes.source})", facts.memory_bytes.warnings)
    _granted(checkup, "gpus", f"{plan.num_gpus}: {facts.gpus.source}", facts.gpus.warnings)
    store_bytes, free = plan.object_store_bytes, facts.shm_free_bytes
    if facts.shm_bytes.value == 0:
        checkup.add(
            Verdict.WARNING,
            "there is no /dev/shm: objects go to disk",
            "In a container, bind-mount the node's /dev/shm.",
            check="/dev/shm",
        )
    elif free < store_bytes:
        checkup.add(
            Verdict.WARNING,
            f"{_gib(free)} free, the object store would be {_gib(store_bytes)}",
            "`ls -la /dev/shm` shows what fills it; `raycluster stop --here` removes what crashed clusters "
            "of yours left.",
            check="/dev/shm",
        )
    else:
        text = f"object store {_gib(store_bytes)} of {_gib(facts.shm_bytes.value)}"
        _granted(checkup, "/dev/shm", text, facts.shm_bytes.warnings)
    known = {
        warning
        for grant in (facts.cpus, facts.memory_bytes, facts.gpus, facts.shm_bytes)
        for warning in grant.warnings
    }
    for warning in plan.warnings:
        if warning not in known:
            checkup.add(Verdict.WARNING, warning, check="resources")


def _granted(checkup: Checkup, check: str, text: str, warnings: Sequence[str]) -> None:
    for warning in warnings:
        checkup.add(Verdict.WARNING, warning, check=check)
    if not warnings:
        checkup.add(Verdict.OK, text, check=check)


def check_options(checkup: Checkup) -> None:
    """Variables that set no option: each of them was meant to set one."""
    if unknown := unknown_variables(checkup.env):
        checkup.add(Verdict.WARNING, unknown, "`raycluster env` lists all options with their values.")


def check_limits(checkup: Checkup) -> None:
    report = raise_limits(num_cpus=checkup.num_cpus)
    for warning in report.warnings:
        checkup.add(Verdict.WARNING, warning)
    if not report.warnings:
        checkup.add(
            Verdict.OK,
            f"open files: {_limit(report.files)}, processes: {_limit(report.processes)}",
        )


def check_temp_dir(checkup: Checkup) -> None:
    base = Path(checkup.settings.temp_dir) if checkup.settings.temp_dir else None
    root = make_node_root(f"doctor/{os.getpid()}", env=checkup.env, base=base, role="doctor")
    try:
        where = root.path.parent
        space = shutil.disk_usage(where)
        text = f"{where} on {file_system(where)}, {len(os.fsencode(root.path))} bytes long"
        for warning in root.warnings:
            checkup.add(Verdict.NOTE, warning)
        if space.used > NEARLY_FULL * (space.used + space.free):
            checkup.add(
                Verdict.WARNING,
                f"{text}: more than {NEARLY_FULL:.0%} full; above 95 % Ray creates no more objects",
                "Free some space, or use another place: --temp-dir, and --spill-dir for spilled objects.",
                free_GiB=space.free / 2**30,
            )
        else:
            checkup.add(Verdict.OK, text, free_GiB=space.free / 2**30)
    finally:
        root.remove()


def check_state_dir(checkup: Checkup) -> None:
    path = checkup.state_dir
    kind = file_system(path)
    canary = path / f".doctor.{checkup.host}.{os.getpid()}"
    try:
        checkup.make_state_dir()
        began = time.monotonic()
        canary.write_text("x")
        took_s = time.monotonic() - began
        canary.unlink()
    except OSError as error:
        checkup.add(
            Verdict.FAIL,
            f"{path} cannot be written: {error.strerror}",
            "Give a shared directory that you can write with --state-dir or RAYCLUSTER_STATE_DIR.",
        )
        return
    if path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o022:
        checkup.add(
            Verdict.FAIL,
            f"{path} is not private to you, but holds the clusters' tokens",
            f"chmod go-w {path}",
        )
    elif took_s > SLOW_WRITE_S:
        checkup.add(
            Verdict.WARNING,
            f"{path} on {kind} is slow",
            "A slow file server makes starts slow; --state-dir uses another one.",
            write_s=took_s,
        )
    else:
        checkup.add(Verdict.OK, f"{path} on {kind}", write_s=took_s)


def file_system(path: str | os.PathLike[str]) -> str:
    """The type of the file system that a path is (or would be) on, and whether it is another machine's.

    "nfs4 (network)", "ext4".
    """
    real = os.path.realpath(path)
    try:
        text = (PROC / "self/mountinfo").read_text(errors="replace")
    except OSError:
        return "an unknown file system"
    kind = mount_of(real, parse_mountinfo(text)).type
    return f"{kind} (network)" if kind in NETWORK else kind if kind in LOCAL else f"{kind} (unknown)"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _limit(number: int) -> str:
    return "unlimited" if number < 0 else str(number)
