"""`raycluster why`."""

from __future__ import annotations

import json
import os
import shutil

import typer

from ..model.errors import UsageError
from .completion import complete_job
from .look import STATE_DIR, state_dir

_JOB = typer.Argument(
    None,
    metavar="[JOB]",
    help="Job id, job+name, a name, or the path of a record. Default: the newest that has ended.",
    autocompletion=complete_job,
)


def why(
    job: str | None = _JOB,
    as_json: bool = typer.Option(False, "--json", help="For programs; schema 1."),
    directory: str = STATE_DIR,
) -> None:
    """Tell on one page why a cluster ended.

    What ended first, where, by what, and what to change.
    From the record alone, so it works after the job and without Slurm's accounting.

    Examples:  raycluster why  |  raycluster why 4711  |  raycluster why 4711 --json
    """
    from ..ops.post_mortem import post_mortem
    from ..ops.why import page, why_json
    from ..state.catalogue import list_records, record_of

    env = dict(os.environ)
    where = state_dir(directory, env)
    if job:
        record = record_of(where, job)
    else:
        records = list_records(where)
        ended = [one for one in records[:50] if one.read_end() is not None] or records
        if not ended:
            raise UsageError(f"no cluster has left a record below {where}.", "--state-dir looks elsewhere.")
        record = ended[0]
    post = post_mortem(record)
    if as_json:
        print(json.dumps(why_json(post), indent=2))
    else:
        print(page(post, width=min(shutil.get_terminal_size().columns, 110)), end="")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(why)
