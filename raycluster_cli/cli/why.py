"""`raycluster why`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import UsageError
from .completion import complete_job
from .help import Command
from .look import JOB_HELP, STATE_DIR, ask_slurm, state_dir

if TYPE_CHECKING:
    from ..ops.post_mortem import PostMortem
    from ..state.record import Record

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
    post = examine(record, where, env)
    if as_json:
        print(json.dumps(why_json(post), indent=2))
    else:
        print(page(post, width=width), end="")


def examine(record: Record, where: Path, env: Mapping[str, str]) -> PostMortem:
    """What is known of a cluster; Slurm is asked for what the record does not say.

    Those are a cluster without an end, a signal that may be a preemption, and the file of the job's output.
    """
    from ..model.status import EndReason
    from ..ops.evidence import output_paths
    from ..ops.follow import job_state
    from ..ops.post_mortem import post_mortem
    from ..ops.reader import read_cluster

    end = record.read_end()
    slurm = jobs = None
    if record.slurm_cluster != "local":
        head = record.read_head()
        unknown = end is not None and end.exit_code != 0 and (head is None or not head.output)
        if end is None or end.reason == EndReason.SIGNAL.value or unknown:
            slurm = job_state(record.job_id, env)
        if end is None:
            jobs = ask_slurm(env, record.owner)
    status = read_cluster(record, jobs)
    return post_mortem(record, status=status, slurm=slurm, outputs=output_paths(record, where, slurm))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(why)
