"""What a cluster can be asked and told from Python, however it was started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..model.cluster_status import ClusterStatus
from ..model.errors import (
    ClusterUnhealthyError,
    ExitCode,
    HeadStartError,
    RayclusterError,
    UsageError,
    WorkersMissingError,
)
from ..model.group_status import GroupStatus
from ..model.settings import Settings
from ..ops.clusters import find_record, own
from ..ops.inside import choose_live_node, dashboard_address, entering, live_head
from ..ops.lookup import Looker
from ..ops.scaling import change_groups, groups_of
from ..ops.server_readiness import await_ready, refuse_other_drivers
from ..ops.start_error import StartError
from ..rayproc.boot import raycluster_command
from ..state.location import state_dir as default_state_dir
from ..state.record import Record
from ..system.report import say
from .at_exit import end_at_exit, exit_at_sigterm, forget
from .cancellation import cancelled
from .child import output_of, run_streamed
from .client import CLIENT_SERVER_S, Connection, Route, check, route_to
from .display import as_html, as_text
from .options import check_command
from .start_wait import wait_until_running

C = TypeVar("C", bound="Cluster")

ERRORS: dict[int, type[RayclusterError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.HEAD_FAILED: HeadStartError,
    ExitCode.WORKERS_MISSING: WorkersMissingError,
    ExitCode.UNHEALTHY: ClusterUnhealthyError,
}


class Cluster:
    """A Ray cluster that this program has started, or is attached to.

    As a context manager it is started at the beginning and ended at the end, also by an exception, Ctrl-C and
    SIGTERM.  Without ``with``: :meth:`start` and :meth:`stop`; what was not stopped ends when the interpreter
    exits.  All errors are RayclusterError.
    """

    def __init__(
        self,
        *,
        state_dir: str | Path | None,
        progress: Callable[[str], object] | None,
        start_timeout_s: float | None,
    ) -> None:
        self._env = dict(os.environ)
        given = str(state_dir or self._env.get("RAYCLUSTER_STATE_DIR", ""))
        self._where = default_state_dir(Settings(state_dir=given), self._env)
        self._where_words = [f"--state-dir={self._where}"] if given else []
        self._progress = progress
        self._start_timeout_s = start_timeout_s
        self._name = ""
        """What raycluster's commands call it; empty before the start."""
        self._owner = 0
        """The process that ends it; 0: none does."""
        self._has_client_server = False
        """Whether it is known to be started with Ray's client server."""
        self._end_told = ""
        """How it ended, where the error of the start tells it."""
        self._looker: Looker | None = None
        self._connection: Connection | None = None
        self._undo_sigterm: Callable[[], None] | None = None

    # -- start and end ---------------------------------------------------------------------------

    def start(self: C) -> C:
        """Start the cluster and wait until all its workers have joined.

        Raises RayclusterError when it does not start: the kinds are those of the exit codes (HeadStartError,
        WorkersMissingError …).  Nothing is left running then, nor after Ctrl-C.
        """
        if self._name:
            raise UsageError(f"this cluster was started already: {self._name}.", "Make another object.")
        self._owner = os.getpid()
        end_at_exit(id(self), self._end_at_exit)
        try:
            self._begin()
            self._wait_until_running()
        except BaseException:
            self._end_after_error()
            raise
        return self

    def _begin(self) -> None:
        """Start it, and give it its name."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the cluster, and wait until it has ended.  Does nothing when it has, or was never started.

        Raises RayclusterError when it still runs.
        """
        self._disconnect()
        if self._name:
            self._end()
        self._owner = 0
        forget(id(self))

    def _end(self) -> None:
        raise NotImplementedError

    def _end_at_once(self) -> None:
        """After a second Ctrl-C: ask for the end, and do not wait for it."""
        raise NotImplementedError

    def _end_after_error(self) -> None:
        """End it; a failure is reported, and does not replace the error that is raised already."""
        try:
            self.stop()
        except KeyboardInterrupt:
            self._end_at_once()
            forget(id(self))
            raise
        except RayclusterError as error:
            say(str(error))

    def _end_at_exit(self) -> None:
        self._tell(f"{self._title} ends with this program")
        self._end_after_error()

    def __enter__(self: C) -> C:
        self._undo_sigterm = exit_at_sigterm()
        if not self._name:
            try:
                self.start()
            except BaseException:
                self._undo_sigterm()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._owner != os.getpid():  # attached, or a process that was forked off
                if self._owner == 0:
                    self._disconnect()
                return
            if error is None:
                self.stop()
            else:
                self._end_after_error()
        except KeyboardInterrupt:
            self._end_at_once()
            raise
        finally:
            if self._undo_sigterm is not None:
                self._undo_sigterm()

    def _wait_until_running(self) -> None:
        def failed(status: ClusterStatus) -> RayclusterError:
            self._end_told = status.headline
            return self._failed(status)

        wait_until_running(
            self._look,
            title=self._title,
            tell=self._tell,
            failed=failed,
            unknown=self._unknown,
            timeout_s=self._start_timeout_s,
            clock=time.monotonic,
            sleep=lambda seconds: self._sleep(seconds, "start of"),
        )

    def _failed(self, status: ClusterStatus) -> RayclusterError:
        """The error for a cluster that ended before it was ready."""
        kind = ERRORS.get(status.exit_code or 0, RayclusterError)
        headline = status.headline.rstrip(".")
        is_told = headline.partition(" (exit code ")[0].lower() in status.cause.lower()
        cause = f" {status.cause}" if status.cause and not is_told else ""
        return kind(
            f"{self._title} ended before it was ready: {headline}.{cause}",
            f"More: raycluster why {self._name}",
        )

    @property
    def is_started(self) -> bool:
        """Whether it was started or attached; also when it has ended since."""
        return bool(self._name)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def job_id(self) -> str:
        """The id of the Slurm job; of a local cluster the name that raycluster's commands take for it.

        Raises UsageError before the start.
        """
        if not self._name:
            raise UsageError("this cluster is not started.", "Use it in a `with` block, or call start().")
        return self._name

    @property
    def address(self) -> str:
        """What ``ray.init`` takes on this machine: host:port of the GCS.

        On a machine that is no node of the cluster: ray://host:port, where the cluster was started with the
        setting ``client_server``; without it a driver works only on the nodes (:meth:`run`).
        """
        return self._route(self._record()).address

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a driver on this machine needs: RAY_ADDRESS, the token's file and others."""
        return dict(self._route(self._record()).environment)

    @property
    def dashboard(self) -> str:
        """URL of the dashboard, as the head's node reaches it; `raycluster dashboard JOB` opens a tunnel.

        It starts when something connects to it.  Raises RayclusterError where there is none.
        """
        record = self._record()
        return f"http://{dashboard_address(record, live_head(record)).removeprefix('http://')}"

    def status(self) -> ClusterStatus:
        """The state of the cluster and of its nodes, as `raycluster status` shows it.

        Slurm is asked every 5 seconds at most.
        """
        self.job_id  # noqa: B018  # started
        found = self._look()
        if found is None:
            raise self._unknown()
        return found

    def url(self, wait_s: float = 0.0) -> str:
        """The URL of the server that the cluster runs (``service``), once it is ready.

        Waits at most ``wait_s`` seconds.  Raises ClusterUnhealthyError when it is not ready then, and
        RayclusterError when there is none, or the cluster has ended.
        """
        self.job_id  # noqa: B018  # started
        found = await_ready(
            self._look,
            refuse_other_drivers,
            timeout_s=wait_s,
            clock=time.monotonic,
            sleep=self._sleep,
        )
        status = found.status
        if status is None:
            raise self._unknown()
        if status.is_over:
            raise self._failed(status)
        if not found.ready or status.service is None:
            why = status.service_line or status.headline
            raise ClusterUnhealthyError(f"{self._title} has no server that is ready: {why}.")
        return status.service.url

    def _sleep(self, seconds: float, what: str = "wait for") -> None:
        if cancelled().wait(seconds):
            raise RayclusterError(f"the {what} {self._title} was cancelled.")

    # -- what it does ----------------------------------------------------------------------------

    def run(self, command: Sequence[str], *, node: str = "", env: Mapping[str, str] | None = None) -> int:
        """Run a driver, or any command, on a node inside the job; returns its exit code.

        128 + N stands for signal N.  Its output goes to sys.stdout and sys.stderr of this program as it
        comes.  Its working directory is that of this program, its Python that of the cluster, and
        ``ray.init()`` in it connects to the cluster.

        ``node``: the host; without it the head's.  ``env``: variables besides those of this program.
        Ctrl-C here sends it SIGINT.  Raises RayclusterError when it cannot be started: UsageError where there
        is no such program on the node.
        """
        words = check_command(command, "run")
        record = self._record()
        report = choose_live_node(record, node)
        found = StartError()
        argv, outer = entering(record, report, words, {**self._env, **(env or {})}, mark=found.mark)
        code = run_streamed(argv, outer, cancelled=cancelled(), start_error=found)
        if cancelled().is_set():
            raise RayclusterError(f"{words[0]} was ended: the call was cancelled.")
        if error := found.error(ERRORS.get(code, RayclusterError)):
            raise error
        return code

    def logs(self, component: str = "", *, node: str = "", lines: int = 100) -> str:
        """The last lines of the job's output, or of a component: driver, raycluster, raylet, gcs.

        ``node``: the host, for raylet.  ``lines``: -1 gives all.  Raises RayclusterError when there are none.
        """
        words = ["logs", self.job_id, f"--lines={lines}", f"--state-dir={self._where}"]
        words += [f"--component={component}"] if component else []
        words += [f"--node={node}"] if node else []
        return output_of(raycluster_command(*words), self._env)

    def scale(self, *changes: int | str) -> tuple[GroupStatus, ...]:
        """Set how many nodes the worker groups have; returns the groups, also without a change.

        The changes are those of `raycluster scale`: 8 or "gpu=8" is exactly eight nodes, "gpu=0..32" lets the
        group grow and shrink with the work, "+2" and "-1" are that many more or fewer.  Does not wait for
        the nodes: :meth:`status` has them.  Raises UsageError for a cluster without worker groups (the
        settings ``max_nodes`` and ``config``).
        """
        record = self._record()
        words = [str(change) for change in changes]
        return change_groups(record, words) if words else groups_of(record)

    def connect(self, **options: Any) -> Any:
        """``ray.init`` with this cluster's address and token; ``options`` are those of ray.init.

        Checks first that this machine reaches the cluster, that a driver works from here, and that Ray's and
        Python's versions are the same.  Raises RayclusterError that says what is not.  :meth:`stop`, and the
        end of the `with` block, disconnect.
        """
        record = self._record()
        route = self._route(record)
        check(route, live_head(record), record)
        self._connection = Connection(route)
        try:
            return self._connection.open(options)
        except BaseException:
            self._connection = None
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tell(self, text: str) -> None:
        is_told = self._end_told and self._end_told in text
        if self._progress is not None and not is_told:
            self._progress(text)

    # -- the record ------------------------------------------------------------------------------

    def _record(self) -> Record:
        return own(find_record(self._where, self.job_id, self._env))

    def _route(self, record: Record) -> Route:
        wait_s = CLIENT_SERVER_S if self._has_client_server else 0.0
        return route_to(record, self._env, client_server_s=wait_s)

    def _look(self) -> ClusterStatus | None:
        if self._looker is None:
            self._looker = Looker(self._name, self._where, self._env)
        return self._looker.look()

    def _unknown(self) -> RayclusterError:
        problem = self._looker.problem if self._looker is not None else None
        return problem or RayclusterError(f"nothing is known of {self._title}.")

    @property
    def _title(self) -> str:
        return f"cluster {self._name}" if self._name else "the cluster"

    # -- how it is shown -------------------------------------------------------------------------

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self._shown(), self._name)

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self._shown(), self._name)

    def _shown(self) -> ClusterStatus | None:
        """The status, if there is one: a display raises nothing that a user can cause."""
        try:
            return self._look() if self._name else None
        except (RayclusterError, OSError):
            return None
