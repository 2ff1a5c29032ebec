"""`raycluster submit`: a batch script from a readable template, given to sbatch.

Options of `raycluster run` are passed to it, options of submit itself are few, and everything else goes to
sbatch as it is: raycluster need not know Slurm's options to pass them on.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..model.errors import RayclusterError, UsageError
from ..model.sbatch_words import line_pairs, option_line
from ..model.settings import variable_name
from ..model.variables import CONTAINER
from ..node.places import is_drivers_tmpdir
from ..rayproc.boot import raycluster_command
from ..rayproc.client import PRIVATE
from ..slurm.queue import outside_job
from ..slurm.refusal import hint_for, in_one_line
from ..system.image import HOST_PYTHON
from .container_job import NO_CONTAINER, ContainerLines
from .sbatch_options import suggestion

SBATCH_TIMEOUT_S = 60.0

#: What the template must hold for a job to come out of it.
_NEEDED = ("@SBATCH@", "@DRIVER@")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class CommandLine:
    """The arguments of `raycluster submit`, by who takes them."""

    own: tuple[str, ...]
    """Options of submit and of run, for the option parser."""
    sbatch: tuple[str, ...]
    """Options of sbatch, each one word: --time=2:00:00."""
    driver: tuple[str, ...]
    words: tuple[str, ...] = ()
    """Options of sbatch as arguments of a command."""


def split_line(arguments: Sequence[str], flags: Collection[str], valued: Collection[str]) -> CommandLine:
    """Sort the arguments of submit: ours (flags, or options with a value), sbatch's, the driver.

    >>> split_line(["-N", "4", "--dry-run", "--", "a", "-N"], {"--dry-run"}, set())
    CommandLine(own=('--dry-run',), sbatch=('-N 4',), driver=('a', '-N'), words=('-N', '4'))
    """
    rest = list(arguments)
    driver: list[str] = []
    if "--" in rest:
        cut = rest.index("--")
        rest, driver = rest[:cut], rest[cut + 1 :]
    own: list[str] = []
    sbatch: list[str] = []
    words: list[str] = []
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name in flags or (name in valued and equals):
            own.append(word)
        elif name in valued:
            own += [word, *rest[:1]]
            del rest[:1]
        elif word == ":":
            raise UsageError(
                "`:` separates the components of a heterogeneous job, which submit cannot start.",
                "Write a batch script (`raycluster init`), in which `srun --het-group=0,1` starts all "
                "components, and give it to sbatch.",
            )
        elif not word.startswith("-") or word == "-":
            raise UsageError(
                f"{word!r} before `--` belongs to no option.",
                "Put the driver after `--`: raycluster submit -N 2 --time 1:00:00 -- python train.py.",
            )
        else:
            has_value = bool(rest) and not rest[0].startswith("-") and not equals
            is_long = word.startswith("--")
            value = rest.pop(0) if has_value else None
            sbatch.append(option_line(word, value) if has_value else _line_of(word))
            words += [word] if value is None else [f"{word}={value}"] if is_long else [word, value]
    return CommandLine(tuple(own), tuple(sbatch), tuple(driver), tuple(words))


def _line_of(word: str) -> str:
    """An option in one word as it stands on an #SBATCH line.

    >>> _line_of("--comment=two words"), _line_of("-Ja b"), _line_of("-N4"), _line_of("--exclusive")
    ("--comment='two words'", "-J 'a b'", '-N4', '--exclusive')
    """
    if shlex.quote(word) == word:
        return word
    name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
    return option_line(name, value if equals else None)


def has_option(sbatch: Sequence[str], *names: str) -> bool:
    """Whether one of these options of sbatch is given, by their long names.

    >>> has_option(["-c 4", "--time=1"], "cpus-per-task")
    True
    """
    return any(name in names for name, _ in line_pairs(sbatch))


def refuse_to_follow_array(sbatch: Sequence[str], env: Mapping[str, str], template: str = "") -> None:
    """Raise UsageError for a job array: it has many outputs, and as many exit codes as tasks.

    ``template``: the user's own, which can have #SBATCH lines.
    """
    own = [line.removeprefix("#SBATCH") for line in template.splitlines() if line.startswith("#SBATCH ")]
    if has_option(sbatch, "array") or has_option(own, "array") or env.get("SBATCH_ARRAY_INX"):
        raise UsageError(
            "--follow and --wait are for one job, not for a job array.",
            "Leave them out; `raycluster logs JOB_TASK --follow` follows one task of the array.",
        )


def sbatch_lines(sbatch: Sequence[str], driver: Sequence[str], *, requeue: bool = False) -> list[str]:
    """The #SBATCH lines: what was given, and what a Ray job needs where it was not.

    ``requeue``: the job will ask to be requeued (--requeue-on-preempt).  Raises UsageError for a value that
    an #SBATCH line cannot hold.
    """
    if requeue and has_option(sbatch, "no-requeue"):
        raise UsageError(
            "--requeue-on-preempt and sbatch's --no-requeue contradict each other.", "Leave one of them out."
        )
    for option in sbatch:
        if "\n" in option:
            raise UsageError(f"the option {option!r} has a line break, which an #SBATCH line cannot hold.")
    lines = list(sbatch)
    if not has_option(sbatch, "job-name"):
        lines.insert(0, f"--job-name={_job_name(driver)}")
    if not has_option(sbatch, "ntasks", "ntasks-per-node"):
        lines.append("--ntasks-per-node=1")
    if not has_option(sbatch, "output"):
        lines.append("--output=%x-%j.out")
    if requeue and not has_option(sbatch, "requeue"):
        lines.append("--requeue")
    return [f"#SBATCH {line}" for line in lines]


def _job_name(driver: Sequence[str]) -> str:
    """A name for people: the script's rather than its interpreter's.

    >>> _job_name(["/usr/bin/python", "-u", "src/train.py", "--lr", "1"])
    'train'
    >>> _job_name(["python", "-c", "import ray"])
    'python'
    """
    if "-c" in driver[1:3]:  # the program itself stands on the line
        return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(driver[0]).name)[:40] or "ray"
    for word in driver:
        stem = Path(word).stem
        if not word.startswith("-") and not re.fullmatch(
            r"(python|pypy|bash|sh|env|uv|run)[\d.]*", Path(word).name
        ):
            return re.sub(r"[^A-Za-z0-9_.-]", "_", stem)[:40] or "ray"
    return "ray"


def environment_lines(
    env: Mapping[str, str],
    python: str,
    modules: Sequence[str] = (),
    setup: Sequence[str] = (),
    *,
    in_image: bool = False,
) -> list[str]:
    """Shell lines that make the submitting shell's Python the job's, whatever --export says.

    ``modules`` are loaded before that, and the lines of ``setup`` come after it.  With ``in_image`` the
    Python is that of a container image, and nothing may lead to the one outside.
    """
    lines = []
    if env.get("LOADEDMODULES"):
        loaded = shlex.join(env["LOADEDMODULES"].split(":"))
        # They come along with the environment, but not with --export=NONE.
        load = f"command -v module || . /etc/profile; module load {loaded}"
        lines.append(f'[ -n "${{LOADEDMODULES:-}}" ] || {{ {load}; }} >/dev/null 2>&1 || :')
    if modules:
        load = f"module load {shlex.join(modules)}"
        told = f"raycluster: error: `{load}` failed on this node. `module avail` lists the modules."
        lines.append("command -v module >/dev/null || . /etc/profile")
        lines.append(f"{load} || {{ echo {shlex.quote(told)} >&2; exit 2; }}")
    if in_image:
        return [*lines, f"unset {' '.join(HOST_PYTHON)}", *setup]
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if env.get(name):
            lines.append(f"export {name}={shlex.quote(env[name])}")
    lines.append(f'export PATH={shlex.quote(os.path.dirname(python))}:"$PATH"')
    return [*lines, *setup]


def make_script(
    line: CommandLine,
    *,
    options: Sequence[str],
    env: Mapping[str, str],
    srun_wait_s: int,
    requeue: bool = False,
    state_dir: Path = Path("~/.raycluster"),
    name: str = "",
    container: ContainerLines = NO_CONTAINER,
    modules: Sequence[str] = (),
    setup: Sequence[str] = (),
    template: str | None = None,
    python: str = sys.executable,
) -> str:
    """The batch script.  ``options`` are those of `raycluster run`, one argument each;
    ``srun_wait_s`` is srun's --wait; ``requeue``: the job will ask Slurm to requeue it;
    ``state_dir`` and ``name``: where the job's record will be; ``modules`` and ``setup``: see
    :func:`environment_lines`; ``container``: the image in which raycluster runs."""
    text = template if template is not None else default_template()
    missing = [mark for mark in _NEEDED if mark not in text]
    if missing:
        raise UsageError(
            f"the template has no {' and '.join(missing)}, which the job's options and driver replace.",
            "`raycluster submit --dry-run …` shows the script that the default template gives.",
        )
    in_image = bool(container.prefix)
    values = {
        "@SBATCH@": "\n".join(sbatch_lines(line.sbatch, line.driver, requeue=requeue)),
        "@ENVIRONMENT@": "\n".join(environment_lines(env, python, modules, setup, in_image=in_image)),
        "@CHECK@": "".join(f"\n{each}" for each in ("", *container.check)) if in_image else "",
        # One task takes over the GPUs of all: --gpus-per-task alone would give it one task's, and by
        # SLURM_TRES_BIND newer versions bind it to those (seen on Slurm 26.05).
        "@GPUS@": ' --gpus-per-node="$SLURM_GPUS_ON_NODE" --gpu-bind=none'
        if has_option(line.sbatch, "gpus-per-task")
        else "",
        "@WAIT@": str(srun_wait_s),
        "@RECORD@": record_word(state_dir, name),
        "@CONTAINER@": container.prefix,
        "@RAYCLUSTER@": "raycluster" if in_image else _raycluster(python),
        "@OPTIONS@": "".join(f" {shlex.quote(option)}" for option in options),
        "@DRIVER@": shlex.join(line.driver),
    }
    # In one pass, so that a driver's argument that looks like a mark is left alone.
    return re.sub(r"@[A-Z]+@", lambda match: values.get(match.group(), match.group()), text)


def record_word(state_dir: Path, name: str) -> str:
    """The job's record as a word of a shell script that runs in the job.

    >>> record_word(Path("/home/ada/.raycluster"), "a")
    '/home/ada/.raycluster/"${SLURM_CLUSTER_NAME:-local}/$SLURM_JOB_ID${SLURM_RESTART_COUNT:+.r$SLURM_RESTART_COUNT}"+a'
    """
    key = "$SLURM_JOB_ID${SLURM_RESTART_COUNT:+.r$SLURM_RESTART_COUNT}"
    cluster = "${SLURM_CLUSTER_NAME:-local}"
    return f'{shlex.quote(str(state_dir.expanduser()))}/"{cluster}/{key}"{f"+{name}" if name else ""}'


def _raycluster(python: str) -> str:
    """The command that starts this very raycluster, whatever PATH the job has."""
    return shlex.join(raycluster_command(python=python))


def default_template() -> str:
    """The project's own template, raycluster_cli/templates/job.sbatch."""
    return (files(__package__) / "templates" / "job.sbatch").read_text()


def environment_for_sbatch(env: Mapping[str, str]) -> dict[str, str]:
    """What the job inherits: nothing of a job, a step or a cluster in which this process runs.

    >>> environment_for_sbatch({"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"})
    {'PATH': '/bin'}
    """
    own = (name for name in PRIVATE if name != "RAYCLUSTER_TOKEN")  # the user's own may be meant
    dropped = {
        "SBATCH_WAIT",  # sbatch would not end before the job
        *map(variable_name, CONTAINER),  # the script starts the container
        *own,
        *(("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "ip_head") if "RAYCLUSTER_NODE_ROOT" in env else ()),
    }
    if is_drivers_tmpdir(env):
        dropped.add("TMPDIR")
    return {name: value for name, value in outside_job(env).items() if name not in dropped}


def submit(
    script: str,
    env: Mapping[str, str],
    *,
    words: Sequence[str] = (),
    own: Iterable[str] = (),
    run: Run = subprocess.run,
) -> str:
    """Give a script to sbatch; returns the job id.  Raises RayclusterError with sbatch's message.

    ``words``: the options of sbatch that the user gave, as arguments: SBATCH_ variables override the same
    options in a script, but not on the command line (sbatch(1)).  ``own``: the options of submit, one of
    which may be meant by an option that sbatch does not know.
    """
    program = shutil.which("sbatch", path=env.get("PATH"))
    if program is None:
        raise UsageError(
            "sbatch was not found here.",
            "Submit from a login node of the cluster, or write the script with --save and take it there.",
        )
    try:
        done = run(
            [program, "--parsable", *words],
            input=script,
            env=environment_for_sbatch(env),
            capture_output=True,
            text=True,
            timeout=SBATCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RayclusterError(
            f"sbatch did not answer within {SBATCH_TIMEOUT_S:g} s.",
            "Check with `squeue --me` whether the job was submitted before you try again.",
        ) from error
    if done.returncode != 0:
        said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        hint = f"{suggestion(said, own)} {hint_for(said)}".strip()
        why = in_one_line(done.stderr) or f"code {done.returncode}."
        raise UsageError(f"sbatch refused the job: {why}", hint)
    # With --parsable: "123" or "123;cluster", after whatever a site's plugin prints.
    job_id = (done.stdout.strip().splitlines() or [""])[-1].partition(";")[0]
    if not job_id.isdigit():  # with --test-only, --version, --usage
        said = " ".join((done.stderr.strip() or done.stdout.strip() or "it printed nothing").split())
        raise RayclusterError(f"sbatch submitted no job: {said.rstrip('.')}.")
    return job_id
