"""The head's template for its workers, waited for in the record by one of them (rayproc.template)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..model.settings import Settings
from ..node.accelerators import Accelerators
from ..rayproc.template import Template
from .discovery import Discovery, Pace, Target
from .report_writer import RECORD_LOOK_S, ReportWriter

#: The head writes the template once its GCS answers; without one this long after it, Ray is imported.
TEMPLATE_WAIT_S = 20.0

#: How often the head's own file is looked at meanwhile: it says when there will be no template.
HEAD_LOOK_S = 1.0


def may_be_described(settings: Settings) -> bool:
    """Whether these settings let a worker start by a template."""
    return settings.quick == "auto"


class Installed(Protocol):
    """What is needed to know which Ray this node has (node.templates)."""

    async def installation(self) -> str: ...
    async def accelerators(self) -> Accelerators: ...


class TemplateWait:
    """Finds the template of the head that a worker joins."""

    def __init__(self, discovery: Discovery, *, settings: Settings, reports: ReportWriter) -> None:
        self._discovery = discovery
        self._settings = settings
        self._reports = reports
        self.why = ""
        """Why the last look gave no template."""

    async def is_promised(self, target: Target, here: Installed) -> bool:
        """Whether this head leaves a template in the record that this node can probably use."""
        return not await self.refusal(target, here)

    async def refusal(self, target: Target, here: Installed) -> str:
        """Why this node starts without a template; empty when its head leaves one that fits."""
        settings, head = self._settings, target.head
        if settings.quick != "auto":
            return f"--quick {settings.quick} is given"
        if head is None or target.proven or self._discovery.record is None:
            return "the head's record is not visible here"
        if not head.installation:
            return "the head leaves no template"
        if head.installation != (mine := await here.installation()):
            return (
                f"the installation here ({mine or 'unknown'}) differs from the head's ({head.installation})"
            )
        found = await here.accelerators()
        if found.gpus and found.gpus != head.gpus:
            return f"the GPUs of this node ({found.gpus}) are not the head's ({head.gpus or 'none'})"
        return found.doubt

    async def read(self, target: Target, here: Installed) -> Template | None:
        """The template, once it is there; None when there will be none, or it takes too long (:attr:`why`).

        Raises Finished when the cluster ends meanwhile.
        """
        record, head = self._discovery.record, target.head
        self.why = await self.refusal(target, here)
        if record is None or head is None or self.why:
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
                    self.why = "the head could make no template"
                    return None
                look_at = loop.time() + HEAD_LOOK_S
            if loop.time() >= until:
                self.why = f"the head has left no template within {TEMPLATE_WAIT_S:g} s"
                return None
            await asyncio.sleep(pace.next_poll_s(known=False))
