"""What the cluster's record tells a worker of its head, and of its end, before the worker has joined.

The record may hold the files of an earlier cluster under the same key, of another step's cluster, or of a
head that failed to start.  The reader here tells them apart: it returns the head that this worker belongs to,
or raises Finished once that head's cluster has ended.  Every read has a deadline, so that a file server
that does not answer blocks no worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping

from ..model.errors import ExitCode, RayclusterError
from ..model.record import EndReport, HeadInfo
from ..model.status import EndReason, HeadState
from ..policy.values import End
from ..policy.worker import end_of_cluster
from ..policy.worker_wait import TASK_ENDED_HINT
from ..slurm.allocation import Allocation
from ..slurm.task_probe import TASK_PROBE_S, TaskProbe, hosts_without_task
from ..state.record import Record
from ..system.jitter import between
from ..system.process import Reaper
from ..system.report import Report
from .report_writer import RECORD_LOOK_S, ReportWriter
from .run import Finished

#: So many nodes of a step, with that of the head, ask Slurm whether the task of a head that starts has ended.
FIRST_WORKERS = 3

#: How far the clocks of the controller and of a head may be apart.
CLOCKS_APART_S = 600.0


class HeadRecord:
    """Reads the head and the cluster's end from the record, for one worker.

    ``record`` is None where none can be kept; ``nodes`` is the number of nodes in the job: in large jobs
    each of them asks less often.
    """

    def __init__(
        self,
        record: Record | None,
        *,
        reports: ReportWriter,
        report: Report,
        allocation: Allocation | None,
        symmetric: bool,
        nodes: int,
        task_probe: TaskProbe | None = None,
    ) -> None:
        self.record = record
        self.nodes = nodes
        self._reports = reports
        self._report = report
        self._allocation = allocation
        self._symmetric = symmetric
        self._launch = allocation.launch if allocation else ""
        self._task_probe = task_probe
        self._stale_identity: str | None = None
        self.stale_end: EndReport | None = None
        """The end of an earlier cluster under this key, which was there when this worker came."""
        self._next_refusal_read = 0.0

    async def remember_ended_cluster(self) -> None:
        """Remember an earlier cluster of this key that has ended: it is not the one that is waited for.

        Unless it was our own step's: then this worker is late, and there is nothing left to do (Finished).
        """
        if self.record is None:
            return
        end = await self._reports.need(self.record.read_end, where=self.record.path)
        if end is None:
            return
        head = await self._reports.need(self.record.read_head, where=self.record.path)
        if self._symmetric and head is not None and self.is_of_our_step(head):
            raise Finished(end_of_cluster(end))
        self._stale_identity = head.identity if head else None
        self.stale_end = end

    def is_of_our_step(self, head: HeadInfo) -> bool:
        """Whether a head can be ours: the tasks of one `srun raycluster run` are launched together."""
        return not self._symmetric or head.launch == self._launch

    @property
    def came_late(self) -> bool:
        """Whether the cluster that had ended when this worker came was that of this job.

        Not in a `run`, whose tasks know their own launch; and not when it ended before this job began.
        """
        if self.stale_end is None or self._symmetric:
            return False
        begun = self._allocation.start_time if self._allocation else None
        return begun is None or self.stale_end.when > begun - CLOCKS_APART_S

    async def read_head(self) -> HeadInfo | None:
        """The head as the record has it, unless it is an earlier one's or another step's.

        Raises Finished when the record says that our cluster has ended, or that its head failed to start.
        """
        if self.record is None:
            return None
        head = await self._reports.ask(self.record.read_head, timeout_s=RECORD_LOOK_S, default=None)
        ours = head is not None and self.is_of_our_step(head)
        if head is None or not ours or head.identity == self._stale_identity:
            await self._finish_when_refused(self.record)
            return None
        end = await self._reports.ask(self.record.read_end, timeout_s=RECORD_LOOK_S, default=None)
        if end is None and head.state == HeadState.STARTING.value and self._task_probe is not None:
            end = await self._end_of_killed_head(self.record, head, self._task_probe)
        if end is not None:
            raise Finished(end_of_cluster(end))
        return head

    async def _end_of_killed_head(
        self, record: Record, head: HeadInfo, task_probe: TaskProbe
    ) -> EndReport | None:
        """The end of a head that was killed with its keeper before its Ray ran; it is written for it.

        Only the first workers ask: a start may take minutes.
        """
        allocation = self._allocation
        assert allocation is not None
        if allocation.node_name not in (allocation.step_nodes or ())[:FIRST_WORKERS]:
            return None
        if not task_probe.ended([allocation.head_node]):
            return None
        message = f"the head's task on {head.host} ended during its start, without reporting why"
        reason = EndReason.SUPERVISOR_KILLED.value
        end = EndReport(time.time(), 128 + signal.SIGKILL, reason, head.host, message)
        known = end
        with contextlib.suppress(RayclusterError):  # the other workers then find out by themselves
            known = await self._reports.ask(_first_end, record, end, timeout_s=3.0, default=end)
        if known is end:
            self._report.say(message)
        return known

    async def _finish_when_refused(self, record: Record) -> None:
        """End (Finished) when our head failed to start before the record could name it.

        Read about once a second, since it is one more file that each waiting worker opens.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_refusal_read:
            return
        self._next_refusal_read = now + (1.0 + self.nodes / 500) * between(0.8, 1.2)
        if self._symmetric and self._launch:
            end = await self._reports.ask(
                record.read_refusal, self._launch, timeout_s=RECORD_LOOK_S, default=None
            )
        else:
            end = await self._reports.ask(record.read_end, timeout_s=RECORD_LOOK_S, default=None)
            end = None if end == self.stale_end else end
        if end is None and self._task_probe is not None:
            end = await self._end_of_silent_head(record, self._task_probe)
        if end is not None:
            raise Finished(End(ExitCode.OK, f"the cluster did not start: {end.message}", reason="ended"))

    async def _end_of_silent_head(self, record: Record, task_probe: TaskProbe) -> EndReport | None:
        """The end of a head whose task ended before it could report; the first worker to notice writes it."""
        allocation = self._allocation
        assert allocation is not None
        head = allocation.head_node
        if not task_probe.ended([head]):
            return None
        message = f"the head's task on {head} ended before raycluster ran in it"
        self._report.say(f"{message}. {TASK_ENDED_HINT}")
        end = EndReport(time.time(), int(ExitCode.HEAD_FAILED), "error", head, f"{message}.")
        with contextlib.suppress(RayclusterError):  # the other workers then find out by themselves
            await self._reports.ask(record.write_refusal, self._launch, end, timeout_s=3.0, default=None)
        return end

    async def until_ended(self, record: Record | None) -> EndReport:
        """Returns when ``record`` says that the cluster has ended; never without a record."""
        while True:
            await asyncio.sleep((0.3 + self.nodes / 500) * between(0.7, 1.3))
            if record is not None:
                end = await self._reports.ask(record.read_end, timeout_s=RECORD_LOOK_S, default=None)
                if end is not None:
                    return end

    def close(self) -> None:
        """Ask Slurm no more."""
        if self._task_probe is not None:
            self._task_probe.close()


def _first_end(record: Record, end: EndReport) -> EndReport:
    """The cluster's end in the record, where ``end`` is written if there is none.

    The head's own may be there by now: a look that was not answered in time says that there is none.
    """
    known = record.read_end()
    if known is None:
        record.write_end(end)
    return known or end


def head_task_probe(
    allocation: Allocation | None, host: str, env: Mapping[str, str], reaper: Reaper
) -> TaskProbe | None:
    """Asks Slurm for the head's task: the second node of the step asks first, the others later."""
    if allocation is None or not allocation.step_nodes:
        return None
    me = allocation.node_name or host
    turn = allocation.step_nodes.index(me) if me in allocation.step_nodes else 1
    return TaskProbe(
        lambda hosts: hosts_without_task(hosts, allocation, env, reaper), first_s=turn * TASK_PROBE_S
    )
