"""What `raycluster submit` finds wrong with a job before it waits in the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.node.places import Mount
from raycluster_cli.ops.sbatch_options import KNOWN, suggestion
from raycluster_cli.ops.submit_checks import Plan, check_files, check_ray, check_settings, is_node_local

SHARED = (Mount("/", "xfs"), Mount("/tmp", "nfs4"))
"""pytest's own directories count as shared by all nodes."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's directory with a script, a program, a directory for output and one that is not writable."""
    (tmp_path / "train.py").write_text("")
    (tmp_path / "driver.sh").write_text("#!/bin/sh\n")
    (tmp_path / "driver.sh").chmod(0o755)
    (tmp_path / "bin").mkdir()
    for name in ("python", "julia"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    (tmp_path / "logs").mkdir()
    return tmp_path


def plan(home: Path, *driver: str, sbatch: tuple[str, ...] = (), **more: object) -> Plan:
    values = {
        "sbatch": sbatch,
        "driver": driver or ("python", "train.py"),
        "env": {"PATH": str(home / "bin")},
        "python": str(home / "bin/python"),
        "state_dir": home,
        "here": home,
        "mounts": SHARED,
    }
    return Plan(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "driver",
    [
        ["python", "train.py"],
        ["python", "-u", "-X", "dev", "train.py", "missing"],
        ["python", "-m", "missing"],
        ["python", "-c", "missing"],
        ["python", "-uc", "missing"],
        ["python"],
        ["./driver.sh", "missing"],
        ["python", "-O", "train.py", "missing"],
        ["/bin/bash", "-eo", "pipefail", "driver.sh"],
        ["/bin/sh", "-o", "errexit", "driver.sh", "missing"],
        ["/bin/bash", "-lc", "missing"],
        ["julia", "train.py"],
        ["julia", "-t", "4", "train.py"],
        ["/bin/true", "missing"],
    ],
)
def test_drivers_that_can_be_started(home: Path, driver: list[str]) -> None:
    assert check_files(plan(home, *driver)) == []


@pytest.mark.parametrize(
    ("driver", "refusal"),
    [
        (["python", "-OO", "trian.py"], "the file that python runs, 'trian.py', does not exist"),
        (["/bin/sh", "-o", "errexit", "x.sh"], "the file that /bin/sh runs, 'x.sh', does not exist"),
        (["julia", "missing.jl"], "the file that julia runs, 'missing.jl', does not exist"),
        (["python", "trian.py"], "the file that python runs, 'trian.py', does not exist"),
        (["./missing.sh"], "the driver, './missing.sh', does not exist"),
        (["./train.py"], "is a file but is not executable"),
        (["./logs"], "is a directory"),
        (["train.py"], "was not found in PATH. For the file of that name: -- ./train.py"),
    ],
)
def test_drivers_that_cannot(home: Path, driver: list[str], refusal: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_files(plan(home, *driver))
    assert refusal in str(refused.value)
    assert check_files(plan(home, *driver, container=True)) == [], "the image has files of its own"


@pytest.mark.parametrize(
    ("driver", "warning"),
    [
        (["pyhton", "train.py"], "the driver 'pyhton' was not found in PATH on this host"),
        (["/opt/only/there/serve"], "the driver, /opt/only/there/serve, does not exist on this host"),
    ],
)
def test_programs_that_compute_nodes_may_have(home: Path, driver: list[str], warning: str) -> None:
    assert check_files(plan(home, *driver)) == [warning]


@pytest.mark.parametrize(
    ("state_dir", "warning"),
    [
        ("/proc/sys", "the directory of the records is /proc/sys, and you cannot write to it"),
        (
            "/proc/sys/no/ray",
            "the directory of the records is /proc/sys/no/ray, and you cannot write to /proc/sys.",
        ),
        (
            "/bin/true/ray",
            "the directory of the records is /bin/true/ray, and /bin/true is not a directory.",
        ),
    ],
)
def test_a_directory_of_the_records_that_cannot_be_written(home: Path, state_dir: str, warning: str) -> None:
    (found,) = check_files(plan(home, state_dir=Path(state_dir)))
    assert found.startswith(warning) and "--state-dir sets another" in found
    assert check_files(plan(home, state_dir=home / "not/yet/there")) == []


@pytest.mark.parametrize(
    ("option", "refusal"),
    [
        (
            "--output=no/x.out",
            "the directory of --output, does not exist; Slurm does not make it. Make it: mkdir",
        ),
        ("-o no/%x-%j.out", "the directory of --output, does not exist"),
        ("-ono/x.out", "the directory of --output, does not exist"),
        ("--error=no/%j/err", "no, the directory of --error, does not exist"),
        ("--output=/proc/sys/x.out", "you cannot write to /proc/sys, the directory of --output"),
        ("--chdir=no", "(--chdir) does not exist. Slurm would start the job in /tmp."),
        ("--chdir=/proc/sys", "you cannot write to /proc/sys, the working directory, where the job's output"),
    ],
)
def test_directories_that_are_not_there(
    home: Path, option: str, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith("/proc"))  # also for root
    with pytest.raises(UsageError) as refused:
        check_files(plan(home, sbatch=(option,)))
    assert refusal in str(refused.value)


@pytest.mark.parametrize("option", ["--output=logs/%j.out", "-o logs/x", "--error=none", "--output='%x %j'"])
def test_directories_that_are_there(home: Path, option: str) -> None:
    assert check_files(plan(home, sbatch=(option,))) == []
    assert check_files(plan(home / "logs", "/bin/true", sbatch=(f"--chdir={home}", option))) == []


def test_what_lies_where_each_host_has_its_own(home: Path) -> None:
    mounts = (Mount("/", "xfs"), Mount("/tmp", "tmpfs"))
    place = {"here": Path("/usr"), "state_dir": Path("/usr/share")}
    given = plan(home, "/bin/true", sbatch=(f"--error={home}/logs/x",), mounts=mounts, **place)
    assert check_files(given) == [
        f"the directory of --error, {home}/logs, is not on a shared file system: the output stays on the "
        "first node",
        f"the Python of this environment, {home}/bin/python, is not on a shared file system: nodes need it "
        "too",
    ]
    (driver, _) = check_files(plan(home, str(home / "driver.sh"), mounts=mounts, **place))
    assert driver.startswith(f"the driver, {home}/driver.sh, is not on a shared file system")
    (directory, _, state) = check_files(plan(home, "python", "train.py", mounts=mounts))
    assert directory.startswith(f"the working directory, {home}, is not on a shared file system: ")
    assert state.startswith(f"the directory of the records, {home}, is not on a shared file system: ")


@pytest.mark.parametrize(
    ("path", "mounts", "expected"),
    [
        ("/tmp/x", [], True),
        ("/tmpx", [], False),
        ("/home/x", [Mount("/", "ext4"), Mount("/home", "ext4")], False),
        ("/home/x", [Mount("/home", "tmpfs")], True),
        ("/tmp/x", [Mount("/tmp", "lustre")], False),
        ("/dev/shm", [], True),
    ],
)
def test_node_local_places(path: str, mounts: list[Mount], expected: bool) -> None:
    assert is_node_local(Path(path), mounts) is expected


@pytest.mark.parametrize(
    ("given", "nodes", "refusal"),
    [
        ({"memory": "4Q"}, 2, "--memory is '4Q'"),
        ({"object_store_memory": "1M"}, 2, "--object-store-memory is too small"),
        ({"network": "10.1"}, 2, "--network cannot be read"),
        ({"temp_dir": "scratch"}, 2, "--temp-dir is 'scratch'; it must be an absolute path"),
        ({"min_workers": 2}, 2, "a job of 2 nodes has 1 worker"),
        ({"min_workers": 1}, 1, "a job of 1 node has 0 workers"),
        ({}, 0, "--nodes is 0; a cluster needs a node for its head. Ask for 1 node or more"),
        ({"min_workers": 5}, 3, "Ask for 6 nodes or more"),
    ],
)
def test_settings_that_no_start_would_take(given: dict[str, object], nodes: int, refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        check_settings(Settings(**given), nodes, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "nodes", "env", "warning"),
    [
        ({}, 2, {}, ""),
        ({"min_workers": 1}, 2, {}, ""),
        ({"min_workers": 9}, None, {}, ""),
        ({"expected_workers": 4, "min_workers": 3}, 2, {}, "others must join it"),
        ({"expected_workers": 1}, 2, {}, ""),
        ({"memory": "4G", "object_store_memory": "1G", "network": "10.1.0.0/16"}, 2, {}, ""),
        ({}, 2, {"RAYCLUSTER_GRACE": "3", "RAYCLUSTER_NODE_ROOT": "/x", "RAY_X": "1"}, ""),
        ({}, 2, {"RAYCLUSTER_TIMOUT": "3"}, "did you mean RAYCLUSTER_TIMEOUT?"),
        ({}, 2, {"RAYCLUSTER_A": "3", "RAYCLUSTER_B": "1"}, "RAYCLUSTER_A, RAYCLUSTER_B have no effect"),
    ],
)
def test_settings_that_are_taken(
    given: dict[str, object], nodes: int | None, env: dict[str, str], warning: str
) -> None:
    found = check_settings(Settings(**given), nodes, env)  # type: ignore[arg-type]
    assert len(found) == bool(warning)
    assert warning in "".join(found)


@pytest.mark.parametrize(
    ("given", "version", "has_dashboard", "warning"),
    [
        ({}, "2.52.0", False, ""),
        ({"head_recovery": True, "dashboard": True}, "2.58.0", True, ""),
        ({"dashboard": True}, "2.60.0", False, "without ray[default]"),
        ({}, "", False, "Ray is not installed"),
    ],
)
def test_what_the_environment_has(
    given: dict[str, bool], version: str, has_dashboard: bool, warning: str
) -> None:
    found = check_ray(Settings(**given), version, has_dashboard=has_dashboard)  # type: ignore[arg-type]
    assert len(found) == bool(warning)
    assert warning in "".join(found)


def test_a_ray_that_cannot_recover_its_head() -> None:
    with pytest.raises(UsageError, match=r"--head-recovery needs Ray 2\.58"):
        check_ray(Settings(head_recovery=True), "2.57.1", has_dashboard=True)


def test_a_token_that_no_start_would_take() -> None:
    with pytest.raises(UsageError, match="RAYCLUSTER_TOKEN has 3 characters"):
        check_settings(Settings(), 2, {"RAYCLUSTER_TOKEN": "abc"})


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--folow", "Did you mean --follow?"),
        ("--tmie=3", "Did you mean --time?"),
        ("--gpus-per-nodes", "Did you mean --gpus-per-node?"),
        ("--something-else-entirely", ""),
    ],
)
def test_options_that_sbatch_does_not_know(option: str, meant: str) -> None:
    assert suggestion(f"sbatch: unrecognized option '{option}'", ["--follow", "--wait"]).startswith(meant)
    assert len(set(KNOWN)) == len(KNOWN)


@pytest.mark.parametrize(
    ("sbatch", "env", "found"),
    [
        (("--output=train.py",), {}, None),
        (("--output=train.py", "--open-mode=truncate"), {"SBATCH_OPEN_MODE": "append"}, None),
        (("--output=driver.sh", "--open-mode=append"), {}, {"driver.sh": 10}),
        (("-o driver.sh", "-e train.py"), {"SBATCH_OPEN_MODE": "append"}, {"driver.sh": 10, "train.py": 0}),
        (("--output=%x.out", "--error=new.err", "--open-mode=append"), {}, {}),
        (("--open-mode=append",), {"SBATCH_OUTPUT": "driver.sh"}, {"driver.sh": 10}),
    ],
)
def test_what_a_job_appends_to(
    home: Path, sbatch: tuple[str, ...], env: dict[str, str], found: dict[str, int] | None
) -> None:
    appended = plan(home, sbatch=sbatch, env=env).appended
    assert appended == (None if found is None else {home / name: size for name, size in found.items()})
