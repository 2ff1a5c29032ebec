"""Settings: one table of everything that can be set.

Every field of :class:`Settings` is an option of the command line (`--field-name`) and an environment variable
(`RAYCLUSTER_FIELD_NAME`).  The command line, docs/configuration.md and `raycluster env` are made from this
table, so they always agree.  An option overrides a variable, a variable overrides configuration files, these
override what Slurm says, and that overrides the default.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import field, fields
from typing import Any

from .custom import check_labels, check_resources
from .dataclass import dataclass
from .errors import UsageError
from .loss_policy import WorkerLossPolicy
from .option_text import PREFIX as PREFIX
from .option_text import option_name as option_name
from .option_text import parse_pairs
from .option_text import variable_name as variable_name
from .setting_value import check_value

#: Commands that start Ray on this node.
STARTERS = ("head", "worker", "run")

#: Settings that mean nothing without --service.  Port and host are not refused: a server has their variables
#: in its environment, and may start other clusters.
SERVICE_ONLY = (
    "health_path",
    "ready_timeout",
    "unhealthy_after",
    "driver_restarts",
    "idle_timeout",
)


#: Values of --stage-env that are no directory; without a value it is "auto".
STAGE_ENV_WORDS = ("", "off", "auto", "memory")


def setting(default: Any, text: str, commands: tuple[str, ...] = STARTERS, **more: Any) -> Any:
    """A field of Settings, with its help text and the commands that take it."""
    return field(default=default, metadata={"help": text, "commands": commands, **more})


@dataclass(frozen=True)
class Settings:
    """What the user set, or the default.  None and "" mean: determined from Slurm and this node."""

    # -- the cluster ---------------------------------------------------------------------------
    expected_workers: int | None = setting(
        None,
        "Number of workers to wait for (default: one for each node of the job but the head's).",
        ("head", "run"),
    )
    min_workers: int | None = setting(
        None,
        "Smallest number of workers to start with, after --settle seconds (default: all workers).",
        ("head", "run"),
    )
    settle: float = setting(
        30.0,
        "Seconds to wait for the remaining workers once --min-workers have joined.",
        ("head", "run"),
        unit="s",
    )
    timeout: float = setting(
        300.0,
        "Seconds from the start within which all workers must join, or a worker must find the head.",
        unit="s",
    )
    name: str = setting("", "Name of this cluster, needed only if one job runs several.", metavar="NAME")
    cluster: str = setting(
        "",
        "Join the cluster of another job of yours, by its job id or name.",
        ("worker",),
        metavar="JOB",
    )
    group: str = setting(
        "",
        "The worker group of that cluster that this worker is part of.",
        ("worker",),
        metavar="NAME",
    )
    local: int | None = setting(
        None, "Start a head and N workers on this machine, without Slurm.", ("run",), metavar="N"
    )

    # -- clusters that grow and shrink ----------------------------------------------------------
    max_nodes: int | None = setting(
        None,
        "Most nodes of the cluster: those beyond the job's own are jobs of one node, submitted when work "
        "waits for them (default: the job's own nodes only).",
        ("head", "run"),
        least=1,
    )
    worker_idle_timeout: str = setting(
        "5m",
        "How long a worker job of --max-nodes has had no work when it ends, such as 10m.",
        ("head", "run"),
        metavar="TIME",
        unit="span",
        usual="5m",
    )
    worker_sbatch: str = setting(
        "",
        "Options of sbatch for the worker jobs of --max-nodes (default: those of the job, as far as Slurm "
        "tells them).",
        ("head", "run"),
        metavar="OPTIONS",
    )

    # -- configuration files ---------------------------------------------------------------------
    config: str = setting(
        "",
        "Configuration file, beside those of the site, the user and the project; also with [workers.NAME].",
        metavar="FILE",
    )
    profile: str = setting("", "Profile of the configuration files, [profiles.NAME].", metavar="NAME")
    config_files: bool = setting(True, "Take settings from configuration files.")

    # -- addresses and ports -------------------------------------------------------------------
    master_ip: str = setting(
        "", "IP address or host name of the head (default: from the job's record or node list)."
    )
    master_port: int | None = setting(
        None,
        "Port of the head's GCS (default: a free port, which workers read from the record).",
        aliases=("--port",),
        unit="port",
    )
    interface: str = setting("", "Network interface to use on this node.", metavar="NAME")
    network: str = setting(
        "", "Network to use on this node, in CIDR notation such as 10.1.0.0/16.", metavar="CIDR"
    )
    max_retries: int = setting(5, "Number of times a worker tries to join the cluster.", ("worker",))
    retry_delay: float = setting(10.0, "Seconds between a worker's attempts to join.", ("worker",), unit="s")

    # -- what Ray gets -------------------------------------------------------------------------
    num_cpus: int | None = setting(None, "Number of CPUs for Ray on this node (default: what Slurm granted).")
    num_gpus: int | None = setting(None, "Number of GPUs for Ray on this node (default: what Slurm granted).")
    memory: str = setting(
        "",
        "Memory for tasks and actors, such as 4G (default: what Slurm granted, minus what Ray itself needs).",
        unit="size",
    )
    object_store_memory: str = setting(
        "",
        "Size of the object store (default: the least of 30 % of the memory, /dev/shm and 200 GB).",
        unit="size",
    )
    resources: str = setting("", "Custom resources of this node, as name=2,other=1 or JSON.", metavar="R")
    labels: str = setting("", "Labels of this node, as key=value,key=value or JSON.", metavar="L")

    # -- how Ray is started --------------------------------------------------------------------
    start_timeout: float = setting(
        300.0, "Seconds that one start of Ray on a node may take, including its imports.", unit="s"
    )
    quick: str = setting(
        "auto",
        "How to start Ray: in a prepared Python (node), by `ray start` (ray-start), or either (auto).",
        choices=("auto", "node", "ray-start"),
    )
    dashboard: bool = setting(False, "Start Ray's dashboard once the driver runs.", ("head", "run"))
    dashboard_host: str = setting(
        "127.0.0.1", "IP address on which the dashboard listens.", ("head", "run"), metavar="IP"
    )
    client_server: bool = setting(
        False, "Start Ray's client server, for ray:// connections.", ("head", "run")
    )
    log_monitor: bool = setting(True, "Show what tasks and actors print in the driver's output.")
    auth: bool = setting(True, "Use Ray's token authentication in every process of the cluster.")
    tls: bool = setting(False, "Encrypt the traffic between nodes with TLS, with keys made for this cluster.")
    scrub_env: bool = setting(
        False, "Remove SLURM_*, PMI_* and PMIX_* variables from Ray's worker processes."
    )

    # -- faults --------------------------------------------------------------------------------
    on_worker_loss: str = setting(
        "fail",
        "What to do when a worker is lost: fail, continue, or wait:SECONDS for a replacement.",
        metavar="POLICY",
    )
    max_restarts: int = setting(
        3, "Number of times a worker restarts Ray after its raylet died, unless --on-worker-loss is fail."
    )
    head_recovery: bool = setting(
        False,
        "Keep the GCS's state on disk and restart the GCS when it dies (needs Ray 2.58 or newer).",
        ("head", "run"),
    )
    drain_before: float = setting(
        0.0,
        "Seconds before its job's time limit at which a worker of --cluster is drained (0: not at all).",
        ("worker",),
        unit="s",
    )
    stop_before: float = setting(
        0.0,
        "Seconds before the job's time limit at which the driver is sent SIGTERM (0: not at all).",
        ("head", "run"),
        unit="s",
    )
    requeue_on_preempt: bool = setting(
        False,
        "Requeue the job when the driver, after it was signalled, exits with --requeue-code.",
        ("head", "run"),
    )
    requeue_code: int = setting(75, "Exit code with which the driver asks for a requeue.", ("head", "run"))
    grace: float = setting(
        10.0, "Seconds that the driver has between SIGTERM and SIGKILL.", ("head", "run"), unit="s"
    )
    check_interval: float = setting(
        4.0, "Seconds between a node's health checks of the GCS (at least 0.1).", unit="s", least=0.1
    )
    keep_logs: str = setting(
        "on-failure",
        "When to copy Ray's logs to the record: always, on-failure or never.",
        choices=("always", "on-failure", "never"),
    )

    # -- a driver that is a server ---------------------------------------------------------------
    service: bool = setting(
        False,
        "The driver is a server: give it a port, watch its health, tell when it is ready.",
        ("head", "run"),
    )
    service_port: int | None = setting(
        None,
        "Port of the server, {port} in the driver's arguments (default: a free one of the cluster's ports).",
        ("head", "run"),
        unit="port",
    )
    service_host: str = setting(
        "0.0.0.0",
        "Address on which the server listens, {host} in the driver's arguments.",
        ("head", "run"),
        metavar="IP",
    )
    health_path: str = setting(
        "",
        "Path that answers with HTTP 200 when the server is healthy, such as /health (default: a TCP "
        "connection, or Ray Serve's own status).",
        ("head", "run"),
        metavar="PATH",
    )
    ready_timeout: str = setting(
        "30m",
        "How long the server may take to be ready.",
        ("head", "run"),
        metavar="TIME",
        unit="span",
        usual="30m",
    )
    unhealthy_after: str = setting(
        "2m",
        "How long a server may fail its health checks before --driver-restarts starts it again.",
        ("head", "run"),
        metavar="TIME",
        unit="span",
        usual="2m",
    )
    driver_restarts: int = setting(
        0,
        "Number of times a server that crashed or does not answer is started again; an hour of health "
        "resets the count.",
        ("head", "run"),
    )
    idle_timeout: str = setting(
        "",
        "End the job when the server has had no work for this long, such as 30m (default: never).",
        ("head", "run"),
        metavar="TIME",
        unit="span",
        usual="",
    )

    # -- containers ----------------------------------------------------------------------------
    container: str = setting(
        "", "Run raycluster, Ray and the driver in this container image.", metavar="IMAGE"
    )
    container_runtime: str = setting(
        "auto",
        "What starts the container (default: the first that is there and can start the image).",
        choices=("auto", "apptainer", "singularity", "pyxis", "podman", "charliecloud"),
    )
    container_mounts: str = setting(
        "",
        "Directories of the host for the container: SOURCE:TARGET[:ro],SOURCE:TARGET[:ro].",
        metavar="MOUNTS",
    )
    container_workdir: str = setting("", "Working directory in the container.", metavar="DIR")

    # -- places --------------------------------------------------------------------------------
    state_dir: str = setting(
        "",
        "Directory for the records, on a file system that all nodes share (default: ~/.raycluster).",
        ("head", "worker", "run", "monitor", "stop", "env"),
        metavar="DIR",
    )
    temp_dir: str = setting(
        "", "Node-local directory for Ray's sessions (default: $TMPDIR or /tmp).", metavar="DIR"
    )
    spill_dir: str = setting("", "Directory for spilled objects (default: inside --temp-dir).", metavar="DIR")
    stage_env: str = setting(
        "",
        "Copy the Python environment to each node's local disk and run from there: --stage-env, or "
        "--stage-env=DIR for a directory, memory for /dev/shm, off for neither (default: off).",
        metavar="DIR",
        bare="auto",
    )
    keep_env: bool = setting(False, "Leave the copy of --stage-env on the nodes for the job's next cluster.")
    verbose: bool = setting(False, "Print more details on stderr.")

    def __post_init__(self) -> None:
        for one in fields(self):
            check_value(option_name(one.name), getattr(self, one.name), one.metadata)
        self.worker_loss  # noqa: B018 - raises UsageError
        check_resources(parse_pairs("--resources", self.resources))
        check_labels(parse_pairs("--labels", self.labels))
        most = math.inf if self.expected_workers is None else self.expected_workers
        if self.min_workers is not None and self.min_workers > most:
            raise UsageError(
                f"--min-workers is {self.min_workers}, more than --expected-workers {self.expected_workers}.",
                "Give --min-workers at most the number of expected workers.",
            )
        self._check_service()
        if self.stage_env not in STAGE_ENV_WORDS and not self.stage_env.startswith("/"):
            raise UsageError(
                f"--stage-env is {self.stage_env!r}; it must be auto, memory, off or an absolute path."
            )
        if self.local is not None and self.max_nodes is not None:
            raise UsageError(
                "--max-nodes is for jobs of Slurm; --local starts all nodes on this machine.",
                "Leave one of them out.",
            )
        if not 0 <= self.requeue_code <= 255:
            raise UsageError(
                f"--requeue-code is {self.requeue_code}; an exit code is a number from 0 to 255."
            )
        if self.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", self.name):
            raise UsageError(
                f"--name is {self.name!r}; a name has 1 to 40 letters, digits, '-' and '_', and "
                "begins with a letter or digit.",
            )

    @functools.cached_property
    def worker_loss(self) -> WorkerLossPolicy:
        """The parsed ``on_worker_loss``."""
        return WorkerLossPolicy.parse(self.on_worker_loss)

    def _check_service(self) -> None:
        if self.health_path and not re.fullmatch(r"/[!-~]*", self.health_path):
            raise UsageError(
                f"--health-path is {self.health_path!r}; it must be the path of a URL, such as /health."
            )
        given = [
            option_name(one.name)
            for one in fields(self)
            if one.name in SERVICE_ONLY and getattr(self, one.name) != one.default
        ]
        if given and not self.service:
            raise UsageError(
                f"{given[0]} is for a driver that is a server, but --service is not given.", "Add --service."
            )


def option_words(field_name: str, value: Any) -> list[str]:
    """A setting as arguments of a command line; none for a setting that has no value.

    >>> option_words("timeout", 60.0), option_words("auth", False), option_words("name", "")
    (['--timeout=60'], ['--no-auth'], [])
    """
    option = option_name(field_name)
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [] if value is None or value == "" else [f"{option}={value}"]


def settings_of(command: str) -> Iterator[Any]:
    """The dataclass fields that a command takes, in the table's order."""
    for one in fields(Settings):
        commands = one.metadata["commands"]
        # `raycluster submit` passes options of the cluster on to the job's `raycluster run`.
        # `raycluster env` shows the value of every setting.
        submitted = command == "submit" and "run" in commands and one.name != "local"
        if command in commands or submitted or command == "env":
            yield one
