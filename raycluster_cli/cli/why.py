"""`raycluster why`."""

from __future__ import annotations

import json
import os
import shutil

import typer

from ..model.errors import UsageError
from .completion import complete_job
from .help import Command
from .look import JOB_HELP, STATE_DIR, ask_slurm, state_dir

_JOB = typer.Argument(
    None,
    metavar="[JOB]",
    help=f"{JOB_HELP} Default: the newest that has ended.",
    autocompletion=complete_job,
)


def why(
    job: str | None = _JOB,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs."),
    directory: str = STATE_DIR,
) -> None:
    """Explain why a cluster ended.

    One page: which node or process failed first, the likely cause, and what to change. Works after the
    job and without Slurm's accounting.

    \b
    Examples:
      raycluster why
      raycluster why 4711
      raycluster why 4711 --json
    """
    from ..ops import no_record
    from ..ops.clusters import is_alive, no_records
    from ..ops.examination import examine
    from ..ops.why import page, why_json
    from ..state.catalogue import check_readable, list_records, record_of

    env = dict(os.environ)
    where = state_dir(directory, env)
    check_readable(where)
    width = min(shutil.get_terminal_size().columns, 110)
    if job:
        try:
            record = record_of(where, job)
        except UsageError:
            found = no_record.job_without_record(job, where, env)
            if found is None:
                raise
            if as_json:
                print(json.dumps(no_record.as_json(found), indent=2))
            else:
                print(no_record.page(found, width), end="")
            return
    else:
        records = list_records(where)
        ended = [one for one in records[:50] if one.read_end() is not None or not is_alive(one)] or records
        if not ended:
            raise no_records(where, env)
        record = ended[0]
    post = examine(record, where, env, lambda: ask_slurm(env, record.owner))
    if as_json:
        print(json.dumps(why_json(post), indent=2))
    else:
        print(page(post, width=width), end="")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(why)
