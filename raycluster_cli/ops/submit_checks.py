"""What is checked of a job before it waits in the queue: settings, driver, files and directories.

What is certainly wrong is refused.  What may be right on the compute nodes, which this host cannot see, is a
warning.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import UsageError
from ..model.option_text import parse_size_bytes
from ..model.sbatch_words import line_pairs, value_in
from ..model.settings import Settings
from ..model.token import own_token
from ..model.variables import unknown_variables
from ..model.wording import count
from ..node.places import NETWORK, Mount, mount_of, mountinfo, parse_mountinfo
from ..node.resources import check_least_store
from ..rayproc.requirements import has_dashboard, ray_version, refuse_recovery
from ..system.network import parse_network

#: Directories that each host has for itself, unless a network file system is mounted there.
_OWN_OF_EACH_HOST = ("/tmp", "/var/tmp", "/dev/shm", "/run")

_IN_MEMORY = ("tmpfs", "ramfs")

#: Programs whose first argument that is no option is a file that they run, and their options that take the
#: next word as their value.  Of others only what stands right after the program's name is known.
_INTERPRETERS = (
    (re.compile(r"(python|pypy)[\d.]*"), re.compile(r"-[WX]|--check-hash-based-pycs")),
    (re.compile(r"(ba|z|k|da)?sh"), re.compile(r"[-+]\w*[oO]|--rcfile|--init-file")),
    (re.compile(r"perl|julia|Rscript"), None),
)


def option_of(sbatch: Sequence[str], name: str) -> str:
    """The value of an option among those of #SBATCH lines, the last one given; '' when there is none.

    >>> option_of(["-D /a", "--chdir=/b"], "chdir")
    '/b'
    """
    return value_in(line_pairs(sbatch), name) or ""


@dataclass(frozen=True)
class Plan:
    """A job as it is about to be submitted."""

    sbatch: tuple[str, ...]
    """sbatch's options as on #SBATCH lines: --time=1:00, -N 2."""
    driver: tuple[str, ...]
    env: Mapping[str, str]
    python: str
    """The Python that the job will use."""
    state_dir: Path
    here: Path
    """The directory in which `raycluster submit` was called."""
    container: bool = False
    mounts: Sequence[Mount] = ()
    """This host's."""

    def option(self, name: str) -> str:
        """The value of an option of sbatch by its long name, the last one given; '' when there is none."""
        return option_of(self.sbatch, name)

    @property
    def appended(self) -> dict[Path, int] | None:
        """Output files that the job appends to, with their sizes in bytes; None for a job that replaces them.

        A name with a pattern (%j) is known to Slurm alone, and left out.
        """
        mode = self.option("open-mode") or self.env.get("SBATCH_OPEN_MODE", "")
        if not mode.startswith("a"):
            return None
        given = (
            self.option("output") or self.env.get("SBATCH_OUTPUT", ""),
            self.option("error") or self.env.get("SBATCH_ERROR", ""),
        )
        paths = [self.directory / name for name in given if name and "%" not in name]
        return {path: path.stat().st_size for path in paths if path.is_file()}

    @property
    def directory(self) -> Path:
        """The job's working directory."""
        return directory_of(self.sbatch, self.here)

    def is_lost(self, path: Path) -> bool:
        """Whether nodes have no such file of their own, and that is not known from the working directory."""
        known = is_node_local(self.directory, self.mounts) and path.is_relative_to(self.directory)
        return is_node_local(path, self.mounts) and not known


def directory_of(sbatch: Sequence[str], here: Path) -> Path:
    """The working directory of a job that is submitted in ``here``."""
    return here / option_of(sbatch, "chdir")


def check_job(
    sbatch: tuple[str, ...],
    driver: tuple[str, ...],
    settings: Settings,
    env: Mapping[str, str],
    state_dir: Path,
    *,
    is_container: bool = False,
    is_dry: bool = False,
) -> tuple[Plan, list[str]]:
    """All checks of a job that this process is about to submit: the job, and warnings.  Raises UsageError.

    A script that is only printed (``is_dry``) may be for another host, so its files may be missing here.
    """
    try:
        here = Path.cwd()
    except OSError as error:
        raise UsageError("the current directory does not exist any more.", "cd to another one.") from error
    plan = Plan(
        sbatch=sbatch,
        driver=driver,
        env=env,
        python=sys.executable,
        state_dir=state_dir,
        here=here,
        container=is_container,
        mounts=parse_mountinfo(mountinfo()),
    )
    warnings = check_settings(settings, most_nodes(plan.option("nodes")), env)
    if not is_container:
        warnings += check_ray(settings, ray_version(), has_dashboard=has_dashboard())
    try:
        warnings += check_files(plan)
    except UsageError as error:
        if not is_dry:
            raise
        warnings.append(error.message)
    return plan, warnings


def check_files(plan: Plan) -> list[str]:
    """Warnings about driver, files and directories.  Raises UsageError for what cannot work."""
    warnings = [_check_directory(plan)]
    warnings += [_check_output(plan, name) for name in ("output", "error")]
    if not plan.container:
        warnings += [_check_driver(plan) if plan.driver else "", _check_python(plan)]
    if is_node_local(plan.state_dir, plan.mounts):
        warnings.append(
            f"{_own(plan.state_dir, 'the directory of the records')}: workers cannot find the head there, "
            "and commands on this host cannot see the cluster. --state-dir sets another"
        )
    warnings.append(check_state_dir(plan.state_dir))
    return [warning for warning in warnings if warning]


def check_settings(settings: Settings, nodes: int | None, env: Mapping[str, str]) -> list[str]:
    """Warnings about settings, for a job that gets ``nodes`` at most.  Raises UsageError for what a start on
    the nodes would refuse."""
    own_token(env)
    if settings.memory:
        parse_size_bytes("--memory", settings.memory)
    if settings.object_store_memory:
        check_least_store(parse_size_bytes("--object-store-memory", settings.object_store_memory))
    if settings.network:
        parse_network(settings.network)
    for option, text in (("--temp-dir", settings.temp_dir), ("--spill-dir", settings.spill_dir)):
        if text and not os.path.isabs(text):
            raise UsageError(f"{option} is {text!r}; it must be an absolute path, such as /local/scratch.")
    if nodes is not None and nodes < 1:
        raise UsageError(
            f"--nodes is {nodes}; a cluster needs a node for its head.", "Ask for 1 node or more."
        )
    warnings = [unknown_variables(env), _check_workers(settings.expected_workers, nodes)]
    if (
        nodes
        and settings.expected_workers is None
        and settings.min_workers
        and settings.min_workers > nodes - 1
    ):
        raise UsageError(
            f"--min-workers is {settings.min_workers}, but a job of {count(nodes, 'node')} has "
            f"{count(nodes - 1, 'worker')}: the first node is the head.",
            f"Ask for {settings.min_workers + 1} nodes or more, or give a smaller --min-workers.",
        )
    return [warning for warning in warnings if warning]


def check_ray(settings: Settings, version: str, *, has_dashboard: bool) -> list[str]:
    """Warnings about the Ray of this Python, '' for none.  Raises UsageError for what no start would take."""
    if not version:
        return ["Ray is not installed in the environment of this command, which is the one that the job uses"]
    if settings.head_recovery:
        refuse_recovery(version)
    if settings.dashboard and not has_dashboard:
        return ["--dashboard has no effect without ray[default]: pip install 'ray[default]'"]
    return []


def most_nodes(text: str) -> int | None:
    """How many nodes a job can get at most by its --nodes; None when that is not known.

    >>> most_nodes("4"), most_nodes("2-8"), most_nodes("1k"), most_nodes("")
    (4, 8, 1024, None)
    """
    match = re.fullmatch(r"(?:\d+[kKmM]?-)?(\d+)([kKmM]?)(?::\d+)?", text)
    return int(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2].lower()] if match else None


def is_node_local(path: Path, mounts: Sequence[Mount]) -> bool:
    """Whether each host has its own directory of this name, as far as this host can tell.

    >>> is_node_local(Path("/tmp/me"), []), is_node_local(Path("/tmp/me"), [Mount("/tmp", "nfs4")])
    (True, False)
    """
    real = os.path.realpath(path)
    mount = mount_of(real, mounts)
    if mount.type in NETWORK:
        return False
    return mount.type in _IN_MEMORY or any(
        real == place or real.startswith(place + "/") for place in _OWN_OF_EACH_HOST
    )


def _own(path: Path, what: str) -> str:
    return f"{what}, {path}, is not on a shared file system"


def check_state_dir(path: Path) -> str:
    """A warning about the directory of the records, '' for none.

    Of one that is not there yet, about the first above it that is: the job makes what is missing.
    """
    there = next((one for one in (path, *path.parents) if os.path.lexists(one)), Path("/"))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ""
    name = "it" if there == path else str(there)
    why = f"you cannot write to {name}" if there.is_dir() else f"{name} is not a directory"
    return (
        f"the directory of the records is {path}, and {why}. "
        "If that is so on the nodes too, workers cannot find the head. --state-dir sets another"
    )


def _check_workers(expected: int | None, nodes: int | None) -> str:
    if nodes is None or expected is None or expected < nodes:
        return ""
    return (
        f"the cluster waits for {count(expected, 'worker')} (--expected-workers), and a job of "
        f"{count(nodes, 'node')} has {nodes - 1}: others must join it with `raycluster worker`"
    )


def _check_directory(plan: Plan) -> str:
    where = plan.directory
    if is_node_local(where, plan.mounts):
        return f"{_own(where, 'the working directory')}: on nodes that do not have it, the job starts in /tmp"
    if not where.is_dir():
        raise UsageError(
            f"the working directory {where} (--chdir) does not exist.", "Slurm would start the job in /tmp."
        )
    if not plan.option("output") and not os.access(where, os.W_OK | os.X_OK):
        raise UsageError(
            f"you cannot write to {where}, the working directory, where the job's output goes.",
            "cd to another one, or give --output FILE.",
        )
    return ""


def _check_output(plan: Plan, name: str) -> str:
    """--output and --error: the job ends at once, without a message, where Slurm cannot open them."""
    text = plan.option(name)
    if not text or text in ("none", "/dev/null"):
        return ""
    parts = (plan.directory / text).parts
    fixed = [*parts[: next((n for n, part in enumerate(parts) if "%" in part), len(parts))]]
    whole = len(fixed) == len(parts)
    where = Path(*(fixed[:-1] if whole else fixed))
    if is_node_local(where, plan.mounts):
        place = _own(where, f"the directory of --{name}")
        return f"{place}: the output stays on the first node" if plan.is_lost(where) else ""
    if not where.is_dir():
        raise UsageError(
            f"{where}, the directory of --{name}, does not exist; Slurm does not make it.",
            f"Make it: mkdir -p {shlex.quote(str(where))}",
        )
    if not os.access(where, os.W_OK | os.X_OK) and not (whole and os.access(Path(*fixed), os.W_OK)):
        raise UsageError(f"you cannot write to {where}, the directory of --{name}.", "Choose another.")
    return ""


def _check_driver(plan: Plan) -> str:
    """The program, and the script that an interpreter is given."""
    program, *arguments = plan.driver
    warning = _check_program(plan, program)
    if not warning and (script := _script(program, arguments)):
        warning = _check_file(plan, script, f"the file that {program} runs")
    return warning


def _check_program(plan: Plan, program: str) -> str:
    if "/" in program:
        path = plan.directory / program
        warning = _check_file(plan, program, "the driver")
        if not warning and not os.access(path, os.X_OK):
            raise UsageError(
                f"the driver {program!r} is a file but is not executable.",
                f"Make it executable (chmod +x {shlex.quote(program)}), or run it by its interpreter.",
            )
        return warning
    search = f"{os.path.dirname(plan.python)}:{plan.env.get('PATH', '')}"
    if shutil.which(program, path=search):
        return ""
    if (plan.directory / program).is_file():
        raise UsageError(
            f"the driver {program!r} was not found in PATH.", f"For the file of that name: -- ./{program}"
        )
    return f"the driver {program!r} was not found in PATH on this host"


def _check_file(plan: Plan, name: str, what: str) -> str:
    """A file that a node must see.  What lies at an absolute path may be on compute nodes alone."""
    path = plan.directory / name
    if path.is_dir():
        return "" if what != "the driver" else _refuse(f"the driver {name!r} is a directory.")
    if not path.exists():
        if os.path.isabs(name) and mount_of(str(path), plan.mounts).type not in NETWORK:
            return f"{what}, {name}, does not exist on this host"
        return _refuse(f"{what}, {name!r}, does not exist (looked from {plan.directory}).")
    return f"{_own(path, what)}: the job needs it on its first node" if plan.is_lost(path) else ""


def _refuse(message: str) -> str:
    raise UsageError(message, "Give the program after `--`, as in: -- python train.py.")


def _script(program: str, arguments: Sequence[str]) -> str:
    """The file that an interpreter is given; '' for other programs, `-m module`, `-c code` and no file.

    >>> _script("python3", ["-u", "-X", "dev", "train.py"]), _script("python", ["-m", "train"])
    ('train.py', '')
    """
    name = os.path.basename(program)
    known = [with_value for pattern, with_value in _INTERPRETERS if pattern.fullmatch(name)]
    if not known:
        return ""
    (with_value,) = known
    rest = list(arguments if with_value is not None else arguments[:1])
    while rest:
        word = rest.pop(0)
        if with_value is not None and with_value.fullmatch(word):
            del rest[:1]
        elif word.startswith("-"):
            if word == "-" or re.fullmatch(r"-[A-Za-z]*[mce]", word):
                return ""
        else:
            return word
    return ""


def _check_python(plan: Plan) -> str:
    path = Path(os.path.dirname(plan.python))
    if not is_node_local(path, plan.mounts):
        return ""
    return f"{_own(Path(plan.python), 'the Python of this environment')}: nodes need it too"
