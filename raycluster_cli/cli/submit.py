"""`raycluster submit` on the command line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from ..model.errors import RayclusterError, UsageError
from ..model.settings import Settings, option_name, settings_of

_EPILOG = "All other options go to sbatch as they are: -p, --account, --gres, --mem …"


class SubmitCommand(TyperCommand):
    """A command that takes options of `raycluster run`, of submit, and, unseen, of sbatch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from ..ops.submit import split_words

        flags: set[str] = {"--help", "-h"}
        valued: set[str] = set()
        for parameter in self.params:
            names = [*parameter.opts, *parameter.secondary_opts]
            (flags if getattr(parameter, "is_flag", False) else valued).update(names)
        words = split_words(args, flags, valued)
        ctx.obj = words
        return list(super().parse_args(ctx, list(words.own)))


def submit(
    context: typer.Context,
    settings: Settings,
    container: str = typer.Option(
        "", "--container", metavar="IMAGE", help="Run in it: a .sif file or URL (apptainer), else pyxis."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the batch script, and submit nothing."),
    save: str = typer.Option("", "--save", metavar="FILE", help="Write the batch script to FILE too."),
    template: str = typer.Option(
        "", "--template", metavar="FILE", help="Your own in place of the project's."
    ),
    follow: bool = typer.Option(
        False, "--follow", help="Stream the job's output to its end; exit with its code. Ctrl-C detaches."
    ),
    wait: bool = typer.Option(False, "--wait", help="Wait for the job's end; exit with its code."),
) -> None:
    """Submit a job that runs a driver on a Ray cluster.

    Options of `raycluster run` are kept for it, all others but these go to sbatch as they are.
    The Python that runs this command is the job's.

    \b
    Examples:
      raycluster submit -N 4 --time 2:00:00 --gpus-per-node 8 -- python train.py
      raycluster submit -N 2 -p debug --exclusive --follow -- ./driver.sh 'two words'
      raycluster submit -N 2 --dry-run -- python train.py

    Exit codes: 0 submitted; 2 refused; with --follow and --wait the job's own (its driver's), 128+N for a
    signal, 143 for the time limit; 130 after Ctrl-C: the job goes on.
    """
    from ..ops import submit as core
    from ..ops.follow import explain_reason, job_state
    from ..state.submitted import remember
    from .look import state_dir

    words: core.Words = context.obj
    if not words.driver:
        raise UsageError(
            "there is no driver to submit.",
            "Put it after `--`: raycluster submit -N 2 --time 1:00:00 -- python train.py.",
        )
    env = dict(os.environ)
    script = core.make_script(
        words,
        options=[*_options_of_environment(context, settings), *_run_options(words.own)],
        env=env,
        srun_wait_s=settings.worker_loss.srun_wait_s(
            min_workers=settings.min_workers, grace_s=settings.grace
        ),
        container=container,
        template=_read(template) if template else None,
    )
    if save:
        _write(save, script)
    if dry_run:
        print(script, end="")
        return
    slow = threading.Timer(2.0, _say, ["waiting for sbatch to answer"])
    slow.daemon = True
    slow.start()
    try:
        job_id = core.submit(script, env)
    finally:
        slow.cancel()
    print(f"Submitted batch job {job_id}", flush=True)
    state = job_state(job_id, env)
    remember(state_dir(settings.state_dir, env), job_id, state.output if state else "", words.driver)
    if state is not None and not (follow or wait) and (why := explain_reason(state.reason)):
        _say(f"it waits in the queue ({state.reason}): {why}")
    if not core.has_option(
        words.sbatch, "-c", "--cpus-per-task", "--exclusive", "--cpus-per-gpu", "-n", "--ntasks"
    ):
        _say("one CPU on each node was asked for; -c N asks for more, --exclusive for the whole nodes")
    if follow or wait:
        from ..ops.follow import follow as follow_job

        try:
            sys.exit(follow_job(job_id, env, output=follow))
        except KeyboardInterrupt:
            print(file=sys.stderr)
            _say(f"detached; job {job_id} goes on. Come back: raycluster logs {job_id} --follow")
            _say(f"Watch it: raycluster monitor {job_id}   End it: raycluster stop {job_id}")
            sys.exit(130)
    _say(f"watch it: raycluster monitor {job_id}   end it: raycluster stop {job_id}")


def register(app: typer.Typer, with_settings: Callable[[str], Callable[..., Any]]) -> None:
    """Add the command."""
    usage = "[OPTIONS] [OPTIONS OF SBATCH] -- DRIVER [ARGS]..."
    app.command(cls=SubmitCommand, epilog=_EPILOG, options_metavar=usage)(with_settings("submit")(submit))


def _run_options(own: tuple[str, ...]) -> list[str]:
    """Of the words for the option parser those that `raycluster run` takes, one word each."""
    names: dict[str, bool] = {}
    for one in settings_of("run"):
        option = option_name(one.name)
        for name in (option, f"--no-{option[2:]}", *one.metadata.get("aliases", ())):
            names[name] = isinstance(one.default, bool)
    options = []
    words = list(own)
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if name not in names:
            continue
        options.append(word if names[name] or equals else f"{word}={words.pop(0)}")
    return options


def _options_of_environment(context: typer.Context, settings: Settings) -> list[str]:
    """Options of the cluster that were set by RAYCLUSTER_ variables: the script stands for itself."""
    options = []
    for one in settings_of("run"):
        source = context.get_parameter_source(one.name)
        if source is not None and source.name == "ENVIRONMENT":
            name, value = option_name(one.name), getattr(settings, one.name)
            if isinstance(value, bool):
                options.append(name if value else f"--no-{name[2:]}")
            else:
                options.append(f"{name}={value}")
    return options


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UsageError(f"the template {path} cannot be read: {error.strerror}.") from error


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise RayclusterError(f"the script cannot be written to {path}: {error.strerror}.") from error


def _say(text: str) -> None:
    print(f"raycluster: {text}", file=sys.stderr)
