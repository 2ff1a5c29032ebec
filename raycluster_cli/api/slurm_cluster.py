"""SlurmCluster: a cluster in a job of its own, submitted from Python."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.cluster_status import ClusterStatus
from ..model.errors import RayclusterError, UsageError
from ..model.sbatch_words import option_line
from ..model.settings import Settings
from ..model.text import without_secrets
from ..model.variables import CONTAINER
from ..ops.chosen_settings import state_dir_of_files, with_source
from ..ops.clusters import own
from ..ops.container_job import GPU_OPTIONS, container_lines
from ..ops.elastic_submit import elastic_options
from ..ops.examination import cause_of_job
from ..ops.job_profile import job_options, options_of_files
from ..ops.lookup import find_status
from ..ops.stop import Surroundings, stop_cluster
from ..ops.stop_early import EarlyStop, named
from ..ops.submit import has_option, make_script, submit
from ..ops.submit_checks import check_job, directory_of
from ..policy.loss import srun_wait_s
from ..slurm.job_state import job_state
from ..slurm.pending import explain
from ..slurm.queue import Job, cancel_job, query_jobs
from ..state.catalogue import owner_of
from ..state.record import Record
from ..state.submitted import remember
from ..system.report import say
from .cluster import Cluster
from .options import (
    check_command,
    run_words,
    sbatch_line,
    settings_dictionary,
    settings_of_variables,
    settings_with_files,
)

#: How long Slurm may take to end a job whose cluster has ended: its epilog, a slow node.
JOB_END_S = 60.0

#: The first and the longest pause between two questions about a job that ends.
ASK_S = (0.3, 2.0)


class SlurmCluster(Cluster):
    """A Ray cluster in a Slurm job of its own, which ends with the `with` block.

    ```python
    with SlurmCluster(nodes=4, gpus_per_node=8, time="2:00:00", sbatch=["--mem=200G"]) as cluster:
        code = cluster.run(["python", "train.py"])
    ```

    Works where sbatch and srun work: on a login node, in a notebook, in a workflow engine, in another job.
    """

    def __init__(
        self,
        nodes: int | str | None = None,
        *,
        gpus_per_node: int | str | None = None,
        cpus_per_node: int | None = None,
        time: str = "",
        profile: str = "",
        sbatch: Sequence[str] = (),
        service: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        state_dir: str | Path | None = None,
        start_timeout_s: float | None = None,
        stop_timeout_s: float = 60.0,
        progress: Callable[[str], object] | None = say,
    ) -> None:
        """Nothing is submitted before :meth:`start`, or `with`.

        ``nodes``, ``gpus_per_node``, ``cpus_per_node`` and ``time``: as sbatch takes them; the first node is
        the head, and without ``nodes`` and a file that sets them there is one.
        ``profile``: a profile of the configuration files; the files are read here, as `raycluster submit`
        reads them, and the arguments override them.
        ``sbatch``: more options of sbatch, such as ``["--mem=200G", "--partition=gpu"]``.
        ``service``: the command of a server that the cluster runs (`raycluster run --service`), with {port}
        for its port; :meth:`url` gives its URL.
        ``settings``: those of `raycluster run` by their names, such as ``{"min_workers": 2}``.
        ``state_dir``: the directory of the records; default: RAYCLUSTER_STATE_DIR, else that of
        the configuration files, else ~/.raycluster.
        ``start_timeout_s``: how long the start may take, in the queue too; None: as long as the queue takes.
        ``stop_timeout_s``: how long the head may take to end before it is ended by force.
        ``progress``: is called with each line about the start and the end; None for silence.

        Raises UsageError.
        """
        env = dict(os.environ)
        own = settings_dictionary(settings)
        driver = check_command(service, "service") if service else ()
        chosen = settings_with_files(own, "submit", env, profile=profile, service=bool(service))
        given = settings_of_variables(env, "submit", own) | own  # the script does not depend on variables
        self._settings = Settings(**chosen.values)
        self._given = frozenset(given)
        self._files = files = chosen.configuration
        super().__init__(
            state_dir=state_dir or env.get("RAYCLUSTER_STATE_DIR") or self._settings.state_dir,
            progress=progress,
            start_timeout_s=start_timeout_s,
        )
        self._has_client_server = self._settings.client_server
        resolved = ("profile", "config_files", "service", *CONTAINER)  # by the script
        words = run_words({name: given[name] for name in given if name not in resolved})
        words = [*self._where_words, *words, *(["--service"] if service else [])]
        self._options = [*options_of_files(files, self._settings, words), *words]
        if nodes is None and "nodes" not in files.sbatch:
            nodes = 1
        line = sbatch_line(nodes, time, gpus_per_node, cpus_per_node, sbatch, driver)
        self._from_files = job_options(files, line.words, env)
        self._line = replace(line, sbatch=(*(option_line(*each) for each in self._from_files), *line.sbatch))
        self._stop_timeout_s = stop_timeout_s
        self._is_attached = False
        if has_option(self._line.sbatch, "array"):
            raise UsageError("a cluster is one job, not a job array.", "Leave --array out.")

    @classmethod
    def attach(
        cls,
        job_id: str | int,
        *,
        state_dir: str | Path | None = None,
        progress: Callable[[str], object] | None = say,
    ) -> SlurmCluster:
        """A cluster that runs, or that waits in the queue, by its job's id; it may be started by any command.

        It is not ended with a `with` block or with this program.  :meth:`stop` ends the cluster, as
        `raycluster stop` does, and leaves a job that runs more.
        Raises UsageError when there is none, or it is another user's.
        """
        env = dict(os.environ)
        given = state_dir or env.get("RAYCLUSTER_STATE_DIR") or state_dir_of_files(env)
        cluster = cls(state_dir=given, progress=progress, settings={"config_files": False})
        name = str(job_id)
        jobs = query_jobs(cluster._env, uid=owner_of(cluster._where))
        found = find_status(name, cluster._where, jobs, cluster._env)
        if found.record:
            own(Record.at(Path(found.record)))
        if found.is_over:
            raise UsageError(
                f"cluster {found.title} has ended: {found.headline.rstrip('.')}.",
                f"More: raycluster why {found.title}",
            )
        cluster._name = name
        cluster._is_attached = True
        return cluster

    def script(self) -> str:
        """The batch script that :meth:`start` submits, for a look at it.  Raises UsageError."""
        return make_script(
            self._line,
            options=self._run_options(),
            env=self._env,
            srun_wait_s=srun_wait_s(
                self._settings.worker_loss,
                spare=self._settings.min_workers is not None,
                grace_s=self._settings.grace,
            ),
            requeue=self._settings.requeue_on_preempt,
            state_dir=self._where,
            name=self._settings.name,
            container=container_lines(
                self._settings,
                self._env,
                self._where,
                here=directory_of(self._line.sbatch, Path.cwd()),
                gpus=has_option(self._line.sbatch, *GPU_OPTIONS),
            ),
            modules=self._files.modules.value,
            setup=self._files.setup.value,
        )

    def _run_options(self) -> list[str]:
        """Those of `raycluster run`, with what worker groups need."""
        added: list[str] = []
        if self._settings.config or self._settings.max_nodes is not None:
            words = [*(word for each in self._from_files for word in each if word), *self._line.words]
            added = elastic_options(self._settings, words, self._env, here=Path.cwd())
        replaced = {word.partition("=")[0] for word in added}
        return [word for word in self._options if word.partition("=")[0] not in replaced] + added

    # -- start -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            self._check_and_submit()
        except UsageError as error:
            raise with_source(error, self._files, self._given) from error.__cause__

    def _check_and_submit(self) -> None:
        if array := self._env.get("SBATCH_ARRAY_INX"):
            raise UsageError(
                f"SBATCH_ARRAY_INX is {array!r}, and a cluster is one job, not a job array.",
                "Unset the variable.",
            )
        line = self._line
        _, warnings = check_job(
            line.sbatch,
            line.driver,
            self._settings,
            self._env,
            self._where,
            is_container=bool(self._settings.container),
        )
        for warning in warnings:
            self._tell(f"warning: {warning.rstrip('.')}")
        self._submit(self.script())
        state = job_state(self._name, self._env)
        remember(self._where, self._name, state.output if state else "", without_secrets(line.driver))
        why = explain(state.reason, self._name) if state is not None else ""
        self._tell(f"job {self._name} is submitted{f'; {why}' if why else ''}")

    def _submit(self, script: str) -> None:
        """Give the script to sbatch.  A Ctrl-C meanwhile is raised once the job's id is known.

        Otherwise the job would stay, and the program would not know its id.
        """
        results: list[str | BaseException] = []

        def apart(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.run(*args, **options, start_new_session=True)  # not ended by Ctrl-C

        def work() -> None:
            try:
                results.append(submit(script, self._env, words=self._line.words, run=apart))
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        interrupted: BaseException | None = None
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                interrupted = error
        if isinstance(results[0], str):
            self._name = results[0]
        elif interrupted is None:
            raise results[0]
        if interrupted is not None:
            raise interrupted

    def _failed(self, status: ClusterStatus) -> RayclusterError:
        if not status.cause:
            cause = cause_of_job(self._name, self._where, self._env, self._query)
            status = replace(
                status, cause="" if cause.rstrip(".").lower() in status.headline.lower() else cause
            )
        return super()._failed(status)

    def _query(self) -> dict[str, Job] | None:
        return query_jobs(self._env)

    # -- end -------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The cluster first, so that its nodes clear their files; then the job, which ends with it.

        Of a cluster that it is attached to only the cluster: the job may be a shell, or run more.
        """
        around = Surroundings(self._env, say=self._tell, query=self._query)
        early = EarlyStop.of_slurm(around)
        is_own = not self._is_attached
        try:
            records, jobs = named([self._name], self._where, around, early)
        except UsageError as error:
            if not is_own:
                raise
            records, jobs = [], []
            state = job_state(self._name, self._env)
            if state is None or not state.has_ended:
                cancel_job(self._name, self._env)  # raises when Slurm does not answer
                self._tell(f"job {self._name} is cancelled: {error.message}")
        wait_s = self._stop_timeout_s
        outcomes = [stop_cluster(own(record), around, deadline_s=wait_s) for record in records]
        outcomes += [early.stop(job, self._where, around, deadline_s=wait_s, cancel=is_own) for job in jobs]
        if is_own:
            self._end_job()
        elif not all(outcome.is_good for outcome in outcomes):
            raise RayclusterError(
                f"{self._title} has not ended.", f"`raycluster status {self._name}` shows it."
            )

    def _end_job(self) -> None:
        """Wait for the end of the job, and cancel it where it does not come.  Raises RayclusterError."""
        if self._job_ended():
            return
        cancel_job(self._name, self._env)
        if not self._job_ended():
            raise RayclusterError(
                f"job {self._name} still runs, {JOB_END_S:g} s after it was cancelled.",
                f"`scancel {self._name}`; `squeue -j {self._name}` shows its state.",
            )

    def _end_at_once(self) -> None:
        try:
            cancel_job(self._name, self._env)
        except RayclusterError as error:
            say(str(error))

    def _job_ended(self) -> bool:
        """Whether the job ends within JOB_END_S; one that Slurm no longer knows has ended."""
        deadline = time.monotonic() + JOB_END_S
        pause_s = ASK_S[0]
        while True:
            state = job_state(self._name, self._env)
            if state is not None and state.has_ended:
                return True
            if state is None and (jobs := self._query()) is not None and self._name not in jobs:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.3, ASK_S[1])


def service_url(job_id: str | int, wait_s: float = 0.0, *, state_dir: str | Path | None = None) -> str:
    """The URL of the server of a cluster (`raycluster run --service`) that runs in a job.

    Waits at most ``wait_s`` seconds until it is ready.  Raises UsageError when there is no such cluster,
    ClusterUnhealthyError when the server is not ready in time, and RayclusterError when there is none.
    """
    return SlurmCluster.attach(job_id, state_dir=state_dir, progress=None).url(wait_s)
