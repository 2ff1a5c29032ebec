"""The template for this head's workers, made once Ray runs here and left in the record (rayproc.template)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.settings import Settings
from ..rayproc.failure import StartFailure

if TYPE_CHECKING:
    from .head import HeadRun


def wants_template(settings: Settings, *, has_record: bool, has_workers: bool) -> bool:
    """Whether workers may start by a template."""
    return settings.quick == "auto" and has_record and has_workers


async def publish_template(run: HeadRun) -> None:
    """Make the template and write it.  Where there can be none the workers, which wait for it, are told."""
    record, entry = run.record, run.begin.entry
    if record is None or not entry.info.installation:
        return
    try:
        template = await run.node.templates.make(run.node.plan, run.begin.identity)
        template["installation"] = entry.info.installation
    except StartFailure as failed:
        run.report.note(f"workers start their raylets by Ray's own code: {failed.message}")
        entry.update(installation="")
    else:
        run.record_quietly(record.write_template, template)
