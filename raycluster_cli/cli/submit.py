"""`raycluster submit` on the command line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..model.errors import RayclusterError, UsageError
from ..model.sbatch_words import option_line
from ..model.settings import Settings, option_name, option_words, settings_of
from ..model.text import without_secrets
from ..model.variables import CONTAINER
from ..system.report import say
from .files import source_of
from .help import Command, Rows

if TYPE_CHECKING:
    from ..ops.submit import CommandLine as SplitLine
    from ..ops.submit_checks import Plan

#: What they choose is passed on to the job instead; the script itself starts the container.
_NOT_PASSED_ON = ("profile", "config_files", *CONTAINER)

_EPILOG = "All other options are passed to sbatch as well."


class SubmitCommand(Command):
    """Takes options of submit, of `raycluster run`, and those of sbatch, which it does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from ..ops.submit import split_line

        takes_value = _options(self)
        flags = {"--help", "-h", *(name for name, valued in takes_value.items() if not valued)}
        line = split_line(args, flags, takes_value.keys() - flags)
        ctx.obj = line
        return list(super().parse_args(ctx, list(line.own)))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from .completion import complete_sbatch_option

        found = list(super().shell_complete(ctx, incomplete))
        if incomplete.startswith("-"):
            item = type(super().shell_complete(ctx, "--help")[0])  # of Click, or of Typer's copy of it
            found += [item(option, help=text) for option, text in complete_sbatch_option(incomplete)]
        return found

    def sections(self, ctx: Any) -> Iterator[tuple[str, Rows]]:
        """The common options of sbatch come after submit's own, before those of the cluster."""
        from ..ops.sbatch_options import COMMON

        rows = [
            (f"{f'{short}, ' if short else ''}{name}{f' {value}' if value else ''}", text)
            for name, short, value, text in COMMON
        ]
        for title, own in super().sections(ctx):
            yield title, own
            if title == "Options":
                yield "Common options of sbatch", rows


def _options(command: Any) -> dict[str, bool]:
    """The command's own options: whether each takes a value."""
    return {
        name: not getattr(parameter, "is_flag", False)
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def submit(
    context: typer.Context,
    settings: Settings,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the batch script; submit nothing."),
    save: str = typer.Option("", "--save", metavar="FILE", help="Also write the batch script to FILE."),
    template: str = typer.Option(
        "", "--template", metavar="FILE", help="Template of the batch script, instead of the default."
    ),
    follow: bool = typer.Option(
        False, "--follow", help="Stream the job's output; exit with its exit code. Ctrl-C detaches."
    ),
    wait: bool = typer.Option(False, "--wait", help="Wait for the job's end; exit with its exit code."),
    wait_ready: bool = typer.Option(
        False, "--wait-ready", help="Wait until the server (--service) is ready; print its URL."
    ),
) -> None:
    """Submit a Slurm job that runs a driver on a Ray cluster.

    Options of `raycluster run` are passed to it in the job, all other unknown options to sbatch. The job
    uses the Python that runs this command.

    \b
    Examples:
      raycluster submit -N 4 --time 2:00:00 --gpus-per-node 8 -- python train.py
      raycluster submit -N 2 -p debug --exclusive --follow -- ./driver.sh 20
      raycluster submit -N 2 --dry-run -- python train.py
      raycluster submit --service --wait-ready -- vllm serve M --port {port}

    Exit codes: 0 submitted; 2 refused. With --follow and --wait: the job's exit code (the driver's), 128+N
    for signal N, 143 for the time limit; 130 after Ctrl-C (the job continues). With --wait-ready: 0 the
    server is ready; when the job ends before that, its exit code, or 1 for a server that ended with 0.
    """
    from ..ops import submit as core
    from ..ops.chosen_settings import with_source
    from ..ops.container_job import GPU_OPTIONS, container_lines
    from ..ops.job_profile import job_options, options_of_files, with_sources
    from ..ops.submit_checks import check_state_dir
    from ..policy.loss import srun_wait_s
    from ..slurm.job_state import job_state
    from ..slurm.pending import explain
    from ..state.submitted import remember
    from .files import CONFIGURATION
    from .look import ask_slurm, state_dir

    line: core.CommandLine = context.obj
    configuration = context.meta[CONFIGURATION]
    if not line.driver:
        raise UsageError(
            "no driver was given.",
            "Put it after `--`: raycluster submit -N 2 --time 1:00:00 -- python train.py.",
        )
    env = dict(os.environ)
    # The files' options of sbatch become lines of the script, where SBATCH_ variables override them; those
    # that were typed go to sbatch as arguments too, and override both.
    from_files = job_options(configuration, line.words, env)
    line = replace(line, sbatch=(*(option_line(*each) for each in from_files), *line.sbatch))
    where = state_dir(settings.state_dir, env)
    if core.has_option(line.sbatch, "wait"):
        raise UsageError("sbatch's -W cannot be given: sbatch would not end before the job.", "Give --wait.")
    if core.has_option(line.sbatch, "wrap"):
        raise UsageError(
            "sbatch's --wrap cannot be given: its command would run instead of the cluster.",
            "Put the driver after `--`: raycluster submit -N 2 -- python train.py.",
        )
    own_template = _read(template) if template else None
    if follow or wait or wait_ready:
        core.refuse_to_follow_array(line.sbatch, env, own_template or "")
    if wait_ready and (follow or wait or not settings.service):
        raise UsageError("--wait-ready is for --service, and without --follow and --wait.")
    given = [
        one.name for one in settings_of("submit") if source_of(context, one.name) in ("option", "variable")
    ]
    try:
        plan = _check(line, settings, env, is_container=bool(settings.container), is_dry=dry_run)
    except UsageError as error:
        raise with_source(error, configuration, given) from error.__cause__
    options = [
        f"--state-dir={where}" if option.startswith("--state-dir=") else option  # as seen from here
        for option in (*_options_of_environment(context, settings), *_run_options(line.own))
    ]
    options = [*options_of_files(configuration, settings, options), *options]
    if settings.config or settings.max_nodes is not None:
        from ..ops.elastic_submit import elastic_options

        words = [*(word for each in from_files for word in each if word is not None), *line.words]
        added = elastic_options(settings, words, env, here=Path.cwd(), template=own_template)
        replaced = {word.partition("=")[0] for word in added}
        options = [word for word in options if word.partition("=")[0] not in replaced] + added
    script = core.make_script(
        line,
        options=options,
        env=env,
        srun_wait_s=srun_wait_s(
            settings.worker_loss, spare=settings.min_workers is not None, grace_s=settings.grace
        ),
        requeue=settings.requeue_on_preempt,
        state_dir=where,
        name=settings.name,
        container=container_lines(
            settings, env, where, here=plan.directory, gpus=core.has_option(line.sbatch, *GPU_OPTIONS)
        ),
        modules=configuration.modules.value,
        setup=configuration.setup.value,
        template=own_template,
    )
    if save:
        _write(save, script)
    if dry_run:
        print(script, end="")
        sys.stdout.flush()
        rows = with_sources(configuration, settings, line.words, env, partial(source_of, context))
        for name, value, source in rows:
            print(f"{name}{f'={value}' if value else ''}  ({source})", file=sys.stderr)
        return
    appended = plan.appended
    slow = threading.Timer(2.0, say, ["waiting for sbatch to answer"])
    slow.daemon = True
    slow.start()
    try:
        job_id = core.submit(script, env, words=line.words, own=_options(context.command))
    except UsageError as error:
        raise with_source(error, configuration, given) from error.__cause__
    finally:
        slow.cancel()
    print(f"Submitted batch job {job_id}", flush=True)
    state = job_state(job_id, env)
    output, shown = state.output if state else "", without_secrets(line.driver)
    if (problem := remember(where, job_id, output, shown)) and not check_state_dir(where):
        say(
            f"warning: the directory of the records cannot be used from here ({problem}). If that is so on "
            "the nodes too, workers cannot find the head. --state-dir sets another"
        )
    if state is not None and not (follow or wait or wait_ready) and (why := explain(state.reason, job_id)):
        say(f"job {job_id} waits in the queue ({state.reason}): {why}")
    if not core.has_option(
        line.sbatch,
        *("cpus-per-task", "exclusive", "cpus-per-gpu", "ntasks", "ntasks-per-node", "ntasks-per-gpu"),
        *("cores-per-socket", "extra-node-info"),
    ) and not any(env.get(name) for name in ("SBATCH_EXCLUSIVE", "SBATCH_CPUS_PER_TASK")):
        say(
            "the job asks for one CPU per node, unless its partition always gives whole nodes; "
            "-c N asks for more, --exclusive for whole nodes"
        )
    if follow or wait or wait_ready:
        from ..ops.examination import cause_of_job
        from ..ops.follow import follow as follow_job
        from .service import wait_ready as await_server

        try:
            if wait_ready:
                sys.exit(await_server(job_id, where, env))
            code = follow_job(job_id, env, output=follow, appended=appended)
            if code != 0 and (cause := cause_of_job(job_id, where, env, lambda: ask_slurm(env))):
                say(f"{cause} More: raycluster why {job_id}")
            sys.exit(code)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            say(f"detached; job {job_id} continues. Follow it again: raycluster logs {job_id} --follow")
            say(f"watch it: raycluster monitor {job_id}   stop it: raycluster stop {job_id}")
            sys.exit(130)
    say(f"watch it: raycluster monitor {job_id}   stop it: raycluster stop {job_id}")


def _check(
    line: SplitLine, settings: Settings, env: dict[str, str], *, is_container: bool, is_dry: bool
) -> Plan:
    """Say what may be wrong with a job, and return it.  Raises UsageError for what is wrong."""
    from ..ops.submit_checks import check_job
    from .look import state_dir

    where = state_dir(settings.state_dir, env)
    plan, warnings = check_job(
        line.sbatch, line.driver, settings, env, where, is_container=is_container, is_dry=is_dry
    )
    for warning in warnings:
        say(f"warning: {warning.rstrip('.')}")
    return plan


def register(app: typer.Typer, with_settings: Callable[[str], Callable[..., Any]]) -> None:
    """Add the command."""
    usage = "[OPTIONS] [SBATCH OPTIONS] -- DRIVER [ARG]..."
    app.command(cls=SubmitCommand, epilog=_EPILOG, options_metavar=usage)(with_settings("submit")(submit))


def _run_options(own: tuple[str, ...]) -> list[str]:
    """The options for `raycluster run` among those of the command line, one argument each."""
    names: dict[str, bool] = {}
    for one in settings_of("run"):
        if one.name in _NOT_PASSED_ON:
            continue
        option = option_name(one.name)
        for name in (option, f"--no-{option[2:]}", *one.metadata.get("aliases", ())):
            names[name] = isinstance(one.default, bool)
    options = []
    rest = list(own)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name not in names:
            continue
        options.append(word if names[name] or equals else f"{word}={rest.pop(0)}")
    return options


def _options_of_environment(context: typer.Context, settings: Settings) -> list[str]:
    """Options of the cluster that were set by RAYCLUSTER_ variables: the script does not depend on them."""
    options = []
    for one in settings_of("run"):
        source = context.get_parameter_source(one.name)
        if source is not None and source.name == "ENVIRONMENT" and one.name not in _NOT_PASSED_ON:
            options += option_words(one.name, getattr(settings, one.name))
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
