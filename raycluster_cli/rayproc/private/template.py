"""What a worker's raylet is executed with, by Ray's own Node class on the head (../template.py)."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray._private import services as ray_services

from ..environment import start_environment
from ..failure import StartFailure
from ..plan import NodePlan
from ..template import (
    EXAMPLE_CPUS,
    PLASMA_DIRECTORY,
    Example,
    File,
    Launch,
    NotATemplate,
    accelerator_type_of,
    describes,
    example_plans,
    make_template,
)
from .gcs import apply_settings
from .known import NOT_AS_KNOWN, RAY_VERSION, TRIED, PrivateMissing, release
from .quick import QuickNode, ray_params
from .spawn import Phases, patched_spawn
from .stand_in import StandIn, instead_of_the_gcs, refusal

#: Files that Ray makes before the raylet starts are small.
_FILE_MAX_BYTES = 65536

#: What is set besides RAY_*: Ray's allocator, and Python's own in an environment without a locale.
_SET = ("LD_PRELOAD", "LC_CTYPE")


def worker_template(plan: NodePlan, *, early: bool = False) -> dict[str, Any]:
    """The template for the workers of this head, which runs: {launch, ray_version, session …}.

    ``early``: made before the head's GCS runs; session and cluster id are then names in the template.
    Raises StartFailure where there can be none.  In a process of its own, like :func:`quick.start`.
    """
    given, imported = _given_environment(), dict(os.environ)
    if early and (why := "" if release(RAY_VERSION) in TRIED else f"Ray {RAY_VERSION} is not known"):
        raise StartFailure("ray", why)
    if early and (why := refusal(plan, imported)):
        raise StartFailure("ray", why)
    if imported.get("RAY_START_HOOK"):
        raise StartFailure("ray", "RAY_START_HOOK may change what a raylet is started with")
    root = Path(plan.temp_dir).parent
    # Names as short as that of Ray's real directory: the paths of sockets are limited.
    directories = (str(root / "u"), str(root / "v"), str(root / "w"))
    plans = example_plans(plan, directories)
    stand_ins = [StandIn(plan, number) for number in range(len(plans))] if early else [None] * len(plans)
    made = [path for one in plans for path in (one.temp_dir, one.spill_dir) if path]
    try:
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)  # of a start that was killed
            os.mkdir(directory, 0o700)
        apply_settings(start_environment(plan, imported))
        first, session = _example(plans[0], EXAMPLE_CPUS[0], given, imported, stand_ins[0])
        second, _ = _example(plans[1], EXAMPLE_CPUS[1], given, imported, stand_ins[1])
        launch = make_template(first, second)
        if f"--plasma_directory={PLASMA_DIRECTORY}" not in launch.argv:
            raise NotATemplate("objects are not kept in /dev/shm")
        gpus = _gpus(launch, plans[2], given, imported, stand_ins[2])
    except NOT_AS_KNOWN as e:
        raise StartFailure("ray", f"{type(e).__name__}: {e}") from e
    except NotATemplate as e:
        raise StartFailure("ray", str(e)) from e
    finally:
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)
    return {"launch": launch.as_json(), "ray_version": RAY_VERSION, **gpus, **session}


def _gpus(
    launch: Launch,
    plan: NodePlan,
    given: Mapping[str, str],
    imported: Mapping[str, str],
    stand_in: StandIn | None,
) -> dict[str, Any]:
    """Whether a template also describes workers with GPUs like the head's, and what Ray calls these."""
    if plan.num_gpus:
        with contextlib.suppress(*NOT_AS_KNOWN, NotATemplate):
            third, _ = _example(plan, EXAMPLE_CPUS[2], given, imported, stand_in)
            if describes(launch, third):
                return {"describes_gpus": True, "accelerator_type": accelerator_type_of(third)}
    return {"describes_gpus": False, "accelerator_type": ""}


class _Made(BaseException):
    """Carries what a process would be executed with out of a function of Ray's that would execute it."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self.command = command
        self.env = env


def _example(
    plan: NodePlan,
    cpus: int,
    given: Mapping[str, str],
    imported: Mapping[str, str],
    stand_in: StandIn | None,
) -> tuple[Example, dict[str, Any]]:
    """Prepare a worker as Ray does, up to the moment at which it would execute the raylet.

    ``given``, ``imported``: the environment before and after Ray was imported.
    """
    os.environ.clear()
    os.environ.update(start_environment(plan, imported))
    node: Any = QuickNode.__new__(QuickNode)
    with (
        patched_spawn(plan, [], lambda event: None, Phases()),
        _instead_of_processes(cpus),
        instead_of_the_gcs(stand_in) if stand_in else contextlib.nullcontext(),
    ):
        try:
            node.__init__(ray_params(plan), head=False, shutdown_at_exit=False, spawn_reaper=False)
        except _Made as seen:
            made = seen
        else:
            raise PrivateMissing("Node starts no raylet")
    expected = start_environment(plan, given)
    if missing := expected.keys() - made.env.keys():
        raise NotATemplate(f"Ray takes out {', '.join(sorted(missing))}")
    variables = {name: text for name, text in made.env.items() if expected.get(name) != text}
    if unknown := [name for name in variables if name not in _SET and not name.startswith("RAY_")]:
        raise NotATemplate(f"Ray sets {', '.join(sorted(unknown))}")
    launch = Launch(tuple(made.command), variables, tuple(_files(Path(plan.temp_dir))))
    session: dict[str, Any] = {
        "session": node.session_name,
        "cluster_id": node.cluster_id.hex(),
        "gcs_address": node.gcs_address,
    }
    node_id = node.node_id if hasattr(node, "node_id") else node._node_id
    session["node_id_bytes"] = len(node_id) // 2
    return Example(plan, node_id, cpus, launch, stand_in.names if stand_in else {}), session


@contextlib.contextmanager
def _instead_of_processes(cpus: int) -> Iterator[None]:
    """Where Ray would execute a process, what with is raised; the machine seems to have this many CPUs."""
    spawn, machine = ray_services.ConsolePopen, ray_services.multiprocessing

    def made(command: list[str], **kwargs: Any) -> None:
        if set(kwargs) - {"env", "cwd", "stdout", "stderr", "stdin", "preexec_fn", "creationflags"}:
            raise PrivateMissing(f"services.start_ray_process gives Popen {', '.join(sorted(kwargs))}")
        if kwargs.get("cwd") is not None or kwargs.get("stdin") is not None:
            raise PrivateMissing("the raylet is executed elsewhere, or reads something")
        raise _Made(command, kwargs["env"])

    ray_services.ConsolePopen = made
    ray_services.multiprocessing = SimpleNamespace(cpu_count=lambda: cpus)
    try:
        yield
    finally:
        ray_services.ConsolePopen, ray_services.multiprocessing = spawn, machine


def _files(root: Path) -> Iterator[File]:
    """All that lies below a directory."""
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        mode, name = stat.S_IMODE(found.st_mode), str(path.relative_to(root))
        if stat.S_ISLNK(found.st_mode):
            yield File(name, 0, "link", os.readlink(path))
        elif stat.S_ISDIR(found.st_mode):
            yield File(name, mode, "directory")
        elif stat.S_ISREG(found.st_mode) and found.st_size <= _FILE_MAX_BYTES:
            yield File(name, mode, "file", path.read_text())
        else:
            raise NotATemplate(f"Ray makes {name}, which is neither a directory nor a small file")


def _given_environment() -> dict[str, str]:
    """What this process was given when its Python started; Ray's import changes its own."""
    pairs = [pair.partition(b"=") for pair in Path("/proc/self/environ").read_bytes().split(b"\0") if pair]
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
