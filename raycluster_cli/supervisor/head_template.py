"""The template for this head's workers, made while Ray starts here, left in the record (rayproc.template)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..model.settings import Settings
from ..node.ray_node import RayNode
from ..rayproc.failure import StartFailure
from .head_entry import HeadEntry
from .parts import Parts


def wants_template(settings: Settings, *, has_record: bool, has_workers: bool) -> bool:
    """Whether workers may start by a template."""
    return settings.quick == "auto" and has_record and has_workers


class HeadTemplate:
    """Writes the template for a head's workers: when the head's raylet starts, or once it runs."""

    def __init__(self, parts: Parts, entry: HeadEntry, identity: str) -> None:
        """``identity``: of this head, by which its workers know that a template is its own."""
        self._parts = parts
        self._entry = entry
        self._identity = identity
        self._early: asyncio.Task[None] | None = None
        self._written = False

    def begin(self, node: RayNode) -> None:
        """Ray's start has begun: make the template beside it, for workers to start with the head's raylet."""
        self._written = False
        if self._entry.info.installation:
            self._early = self._parts.tasks.start("the template for workers", self._make_early(node))

    async def _make_early(self, node: RayNode) -> None:
        try:
            self._write(await node.templates.make_early(node.plan, self._identity))
        except StartFailure as failed:
            self._parts.report.note(f"workers wait for this head's raylet: {failed.message}")

    async def publish(self, node: RayNode) -> None:
        """Ray runs here: write the template unless that has been done.

        Where there can be none the workers, which wait for it, are told.
        """
        if self._parts.reports.record is None or not self._entry.info.installation:
            return
        if self._early is not None:
            await asyncio.wait({self._early})
        if self._written:
            return
        try:
            self._write(await node.templates.make(node.plan, self._identity))
        except StartFailure as failed:
            self._parts.report.note(f"workers start their raylets by Ray's own code: {failed.message}")
            self._entry.update(installation="")

    def _write(self, template: Mapping[str, Any]) -> None:
        reports = self._parts.reports
        if reports.record is not None:
            text = {**template, "installation": self._entry.info.installation}
            reports.quietly(reports.record.write_template, text)
            self._written = True
