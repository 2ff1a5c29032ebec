"""The head's template for its workers, waited for in the record by one of them (rayproc.template)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..model.settings import Settings
from ..rayproc.template import Template
from .discovery import Discovery, Pace, Target
from .head_record import RECORD_LOOK_S
from .report_writer import ReportWriter

#: The head writes the template 0.1 s after its GCS listens; without one so long after it, Ray is imported.
TEMPLATE_WAIT_S = 20.0

#: How often the head's own file is looked at meanwhile: it says when there will be no template.
HEAD_LOOK_S = 1.0


def may_be_described(settings: Settings) -> bool:
    """Whether these settings let a worker start by a template."""
    return settings.quick == "auto" and not settings.spill_dir


class Installed(Protocol):
    """What is needed to know which Ray this node has (node.templates)."""

    async def installation(self) -> str: ...
    async def accelerator(self) -> str: ...


class TemplateWait:
    """Finds the template of the head that a worker joins."""

    def __init__(self, discovery: Discovery, *, settings: Settings, reports: ReportWriter) -> None:
        self._discovery = discovery
        self._settings = settings
        self._reports = reports

    async def is_promised(self, target: Target, here: Installed) -> bool:
        """Whether this head leaves a template in the record that this node can probably use."""
        return (
            may_be_described(self._settings)
            and target.head is not None
            and bool(target.head.installation)
            and not target.proven
            and self._discovery.record is not None
            and target.head.installation == await here.installation()
            and not await here.accelerator()
        )

    async def read(self, target: Target, here: Installed) -> Template | None:
        """The template, once it is there; None when there will be none, or it takes too long.

        Raises Finished when the cluster ends meanwhile.
        """
        record, head = self._discovery.record, target.head
        if record is None or head is None or not await self.is_promised(target, here):
            return None
        loop = asyncio.get_running_loop()
        pace = Pace.of(self._discovery.head_record.nodes)
        until, look_at = loop.time() + TEMPLATE_WAIT_S, loop.time() + HEAD_LOOK_S
        while True:
            text = await self._reports.look(record.read_template, timeout_s=RECORD_LOOK_S, default=None)
            template = Template.from_json(text)
            if template is not None and template.identity == head.identity:
                return template
            if loop.time() >= look_at:
                now = await self._discovery.head_record.read_head()
                if now is None or now.installation != head.installation:
                    return None
                look_at = loop.time() + HEAD_LOOK_S
            if loop.time() >= until:
                return None
            await asyncio.sleep(pace.next_poll_s(known=False))
