"""The template for this head's workers, made while Ray starts here, left in the record (rayproc.template)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model.settings import Settings
from ..rayproc.failure import StartFailure

if TYPE_CHECKING:
    from .head import HeadRun


def wants_template(settings: Settings, *, has_record: bool, has_workers: bool) -> bool:
    """Whether workers may start by a template."""
    return settings.quick == "auto" and has_record and has_workers


class HeadTemplate:
    """Writes the template for a head's workers: when the head's raylet starts, or once it runs."""

    def __init__(self, run: HeadRun) -> None:
        self._run = run
        self._early: asyncio.Task[None] | None = None
        self._written = False

    def begin(self) -> None:
        """Ray's start has begun: make the template beside it, for workers to start with the head's raylet."""
        self._written = False
        if self._run.begin.entry.info.installation:
            self._early = self._run.tasks.start("the template for workers", self._make_early())

    async def _make_early(self) -> None:
        node, identity = self._run.node, self._run.begin.identity
        try:
            self._write(await node.templates.make_early(node.plan, identity))
        except StartFailure as failed:
            self._run.report.note(f"workers wait for this head's raylet: {failed.message}")

    async def publish(self) -> None:
        """Ray runs here: write the template unless that has been done.

        Where there can be none the workers, which wait for it, are told.
        """
        node, begin = self._run.node, self._run.begin
        if self._run.record is None or not begin.entry.info.installation:
            return
        if self._early is not None:
            await asyncio.wait({self._early})
        if self._written:
            return
        try:
            self._write(await node.templates.make(node.plan, begin.identity))
        except StartFailure as failed:
            self._run.report.note(f"workers start their raylets by Ray's own code: {failed.message}")
            begin.entry.update(installation="")

    def _write(self, template: Mapping[str, Any]) -> None:
        if self._run.record is not None:
            text = {**template, "installation": self._run.begin.entry.info.installation}
            self._run.record_quietly(self._run.record.write_template, text)
            self._written = True
