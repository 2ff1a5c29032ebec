"""A cluster's status, kept current in the background for the screen that shows it.

The record and Slurm are read in threads of their own, so that a file server that hangs does not stop the
keyboard as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..model.cluster_status import ClusterStatus
from ..ops.reader import read_cluster
from ..slurm.queue import Job
from ..state.record import Record

#: How often the record is read; less often with many nodes, since each has a file.
READ_S = 1.0
NODES_A_SECOND = 250.0

#: How often the monitor touches the file by which nodes know that somebody watches (WATCHED_S is 15 s).
WATCH_S = 4.0

#: How often Slurm is asked; it changes little, and one controller serves a thousand people.
SLURM_S = 60.0


class Feed:
    """The cluster's status, kept current by threads until closed."""

    def __init__(
        self,
        record: Record,
        query: Callable[[], dict[str, Job] | None],
        *,
        jobs: dict[str, Job] | None = None,
    ) -> None:
        self._record = record
        self._query = query
        self._jobs = jobs
        self._lock = threading.Lock()
        self._status: ClusterStatus | None = None
        self._at = time.monotonic()
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True, name="record").start()
        if self._record.slurm_cluster != "local":
            threading.Thread(target=self._ask, daemon=True, name="slurm").start()

    def close(self) -> None:
        self._closed.set()

    def latest(self) -> tuple[ClusterStatus | None, float]:
        """The newest status, and how many seconds ago it was read."""
        if self._error is not None:
            raise self._error
        with self._lock:
            return self._status, time.monotonic() - self._at

    def wait(self, timeout_s: float) -> None:
        """Until there is a newer status, or the time is over."""
        self._changed.wait(timeout_s)
        self._changed.clear()

    def _read(self) -> None:
        watched = 0.0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if began - watched >= WATCH_S:
                    watched = began
                    self._record.watch()
                status = read_cluster(self._record, self._jobs)
            except BaseException as error:
                self._error = error
                self._changed.set()
                return
            with self._lock:
                self._status, self._at = status, time.monotonic()
            self._changed.set()
            took = time.monotonic() - began
            self._closed.wait(max(READ_S, len(status.nodes) / NODES_A_SECOND, 4 * took))

    def _ask(self) -> None:
        while not self._closed.is_set():
            self._jobs = self._query()
            self._closed.wait(SLURM_S)
