"""What a caller of SlurmCluster asks for: settings, options of sbatch, the batch script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycluster_cli import LocalCluster, SlurmCluster, UsageError
from raycluster_cli.api.options import settings_from


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_worker": 2}, "'min_worker' is no setting of a cluster. Did you mean 'min_workers'?"),
        ({"xyz": 2}, "'xyz' is no setting of a cluster. `raycluster run --help` lists them."),
        ({"local": 2}, "'local' is no setting of a cluster."),
        ({"min_workers": "2"}, "the setting min_workers is '2'; it must be a whole number."),
        ({"min_workers": True}, "the setting min_workers is True; it must be a whole number."),
        ({"tls": 1}, "the setting tls is 1; it must be True or False."),
        ({"memory": 4}, "the setting memory is 4; it must be a string."),
        ({"timeout": "60"}, "the setting timeout is '60'; it must be a number."),
        ({"health_path": "/"}, "--health-path is for a driver that is a server, but --service is not given."),
        ({"on_worker_loss": "never"}, "--on-worker-loss is 'never'"),
    ],
)
def test_settings_that_cannot_be_used(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        settings_from(given, "submit")
    assert str(error.value).startswith(message)


def test_the_batch_script_has_what_was_asked_for(tmp_path: Path) -> None:
    cluster = SlurmCluster(
        4,
        gpus_per_node="a100:8",
        cpus_per_node=16,
        time="2:00:00",
        sbatch=["--mem=200G", "-p", "gpu"],
        settings={"min_workers": 2, "auth": False, "timeout": 60, "health_path": "/"},
        service=["vllm", "serve", "M", "--port", "{port}"],
        state_dir=tmp_path,
    )
    lines = cluster.script().splitlines()
    for option in ("--nodes=4", "--gpus-per-node=a100:8", "--cpus-per-task=16", "--time=2:00:00", "-p gpu"):
        assert f"#SBATCH {option}" in lines
    run = next(line for line in lines if " run " in line and not line.startswith("#"))
    options = "--min-workers=2 --timeout=60 --no-auth --health-path=/ --service"
    assert run.split(" run ")[1].startswith(f"--state-dir={tmp_path} {options}")
    assert "    -- vllm serve M --port '{port}' &" in lines


def test_a_cluster_without_a_server_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYCLUSTER_STATE_DIR", raising=False)
    script = SlurmCluster().script()
    assert "    --  &\n" in script
    assert "--state-dir" not in script
    assert "#SBATCH --job-name=ray\n" in script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sbatch": "--mem=4G"}, "sbatch is '--mem=4G'; it must be a list of options"),
        ({"sbatch": [3]}, "sbatch has 3; its options must be strings"),
        ({"sbatch": ["--wait"]}, "--wait cannot be given for a cluster."),
        ({"sbatch": ["-W"]}, "--wait cannot be given for a cluster."),
        ({"sbatch": ["--test-only"]}, "--test-only cannot be given for a cluster."),
        ({"sbatch": ["--wrap", "hostname"]}, "--wrap cannot be given for a cluster."),
        ({"settings": [1]}, "settings is [1]; it must be a dictionary"),
        ({"profile": 3}, "the profile is 3; it must be the name of one."),
        ({"sbatch": ["mem"]}, "'mem' before `--` belongs to no option"),
        ({"sbatch": ["--array=1-3"]}, "a cluster is one job, not a job array"),
        ({"service": "vllm serve"}, "service needs a command as a list of words"),
        ({"nodes": -1}, "nodes is -1; it must be a whole number, 1 or more, or text such as '2-4'."),
        ({"nodes": 0}, "nodes is 0; it must be"),
        ({"nodes": "0"}, "nodes is '0'; it must be"),
        ({"nodes": "x"}, "nodes is 'x'; it must be"),
        ({"nodes": ""}, "nodes is ''; it must be"),
        ({"nodes": 2.0}, "nodes is 2.0; it must be"),
        ({"nodes": True}, "nodes is True; it must be"),
        ({"gpus_per_node": -1}, "gpus_per_node is -1; it must be a whole number, 0 or more, or text such as"),
        ({"gpus_per_node": "a100:"}, "gpus_per_node is 'a100:'; it must be"),
        ({"gpus_per_node": 1.5}, "gpus_per_node is 1.5; it must be"),
        ({"cpus_per_node": 0}, "cpus_per_node is 0; it must be a whole number, 1 or more."),
        ({"cpus_per_node": "x"}, "cpus_per_node is 'x'; it must be"),
        ({"time": -1}, "time is -1; it must be a time of sbatch, such as '2:00:00' or '1-12'."),
        ({"time": "2h"}, "time is '2h'; it must be"),
        ({"time": 1.5}, "time is 1.5; it must be"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        SlurmCluster(**arguments)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"nodes": "2-4"}, "--nodes=2-4"),
        ({"nodes": "1k"}, "--nodes=1k"),
        ({"nodes": "1,5-9:2"}, "--nodes=1,5-9:2"),
        ({"gpus_per_node": 0}, "--gpus-per-node=0"),
        ({"gpus_per_node": "a100:2,h100:1"}, "--gpus-per-node=a100:2,h100:1"),
        ({"cpus_per_node": "8"}, "--cpus-per-task=8"),
        ({"time": 60}, "--time=60"),
        ({"time": "1-12"}, "--time=1-12"),
        ({"time": "UNLIMITED"}, "--time=UNLIMITED"),
    ],
)
def test_sizes_as_sbatch_takes_them(arguments: dict[str, Any], option: str) -> None:
    assert f"#SBATCH {option}\n" in SlurmCluster(**arguments).script()


def test_a_variable_that_is_not_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_CONFIG_FILES", "maybe")
    with pytest.raises(UsageError, match="RAYCLUSTER_CONFIG_FILES is 'maybe'; it must be true or false"):
        SlurmCluster()
    SlurmCluster(settings={"config_files": False})


@pytest.mark.parametrize("cluster", [SlurmCluster, LocalCluster])
@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("TIMEOUT", "soon", "RAYCLUSTER_TIMEOUT is 'soon'; it must be a number."),
        ("NUM_CPUS", "two", "RAYCLUSTER_NUM_CPUS is 'two'; it must be a whole number."),
        ("NUM_CPUS", "-3", "RAYCLUSTER_NUM_CPUS is -3; it must be 0 or more."),
        ("TLS", "maybe", "RAYCLUSTER_TLS is 'maybe'; it must be true or false."),
        ("QUICK", "fast", "RAYCLUSTER_QUICK is 'fast'"),
        ("ON_WORKER_LOSS", "never", "RAYCLUSTER_ON_WORKER_LOSS is 'never'"),
        ("SERVICE", "yes", "RAYCLUSTER_SERVICE: service is on, but no server was given."),
    ],
)
def test_a_variable_that_cannot_be_used_is_found_before_the_job(
    cluster: Any, variable: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RAYCLUSTER_{variable}", text)
    with pytest.raises(UsageError) as error:
        cluster()
    assert str(error.value).startswith(message)


def test_variables_are_options_of_the_job_and_arguments_override_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in {"TIMEOUT": "60", "TLS": "on", "NAME": "a", "GRACE": "", "SERVICE": "0"}.items():
        monkeypatch.setenv(f"RAYCLUSTER_{name}", text)
    script = SlurmCluster(settings={"name": "b", "config_files": False}).script()
    assert " --timeout=60 --name=b --tls " in script
    assert "+b" in script  # the record has this name


@pytest.mark.parametrize("workers", [-1, 1.5, True])
def test_a_number_of_workers_that_cannot_be_used(workers: Any) -> None:
    with pytest.raises(UsageError, match="it must be a whole number, 0 or more"):
        LocalCluster(workers)


PROFILES = """
[defaults]
sbatch = "--account=physics --time=60"
state-dir = "/shared/records"
timeout = 60
grace = 7
[profiles.gpu]
sbatch = "--nodes=2 --partition=gpu --mem=4G"
setup = ["ulimit -c 0"]
timeout = 90
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAYCLUSTER_STATE_DIR", "RAYCLUSTER_PROFILE", "SBATCH_TIMELIMIT", "SBATCH_PARTITION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "raycluster").mkdir()
    (tmp_path / "raycluster" / "config.toml").write_text(PROFILES)
    return tmp_path


@pytest.mark.parametrize("project", ["one", "two"])
def test_a_profile_is_there_in_each_project(
    files: Path, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / project).mkdir()
    monkeypatch.chdir(files / project)
    monkeypatch.setenv("RAYCLUSTER_GRACE", "9")
    lines = SlurmCluster(profile="gpu", time="5", sbatch=["--mem-per-cpu=1G"]).script().splitlines()
    options = {line for line in lines if line.startswith("#SBATCH")}
    assert {"#SBATCH --account=physics", "#SBATCH --nodes=2", "#SBATCH --partition=gpu"} <= options
    assert {"#SBATCH --time=5", "#SBATCH --mem-per-cpu=1G"} <= options
    assert not {"#SBATCH --time=60", "#SBATCH --mem=4G"} & options
    assert "ulimit -c 0" in lines
    run = next(line for line in lines if " run " in line and not line.startswith("#"))
    words = "--no-config-files --timeout=90 --state-dir=/shared/records --grace=9"
    assert run.split(" run ")[1].removesuffix(" \\") == words


def test_files_are_read_without_a_profile_and_arguments_override_them(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SlurmCluster(state_dir=files, settings={"timeout": 5}).script()
    assert "#SBATCH --account=physics\n" in script
    assert "#SBATCH --nodes=1\n" in script
    assert f" run --no-config-files --grace=7 --state-dir={files} --timeout=5 \\" in script
    monkeypatch.setenv("RAYCLUSTER_PROFILE", "gpu")
    assert "#SBATCH --partition=gpu\n" in SlurmCluster().script()
    assert "physics" not in SlurmCluster(settings={"config_files": False}).script()
    monkeypatch.setenv("RAYCLUSTER_CONFIG_FILES", "0")
    assert "physics" not in SlurmCluster().script()


@pytest.mark.parametrize("cluster", [SlurmCluster, LocalCluster])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "gqu"}, "there is no profile 'gqu'. Did you mean gpu?"),
        ({"profile": "gpu", "settings": {"profile": "cpu"}}, "the profile is 'gpu', and 'cpu' in settings."),
    ],
)
def test_a_profile_that_cannot_be_used(
    files: Path, cluster: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        cluster(**arguments)
    assert str(error.value).startswith(message)


def test_a_file_with_a_service_needs_its_command(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    (files / "raycluster.toml").write_text("[defaults]\nservice = true\n")
    with pytest.raises(UsageError, match=r"raycluster.toml, \[defaults\]: service is on, but no server"):
        SlurmCluster()


def test_a_container_is_started_by_the_script_alone(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, variable in (({"container": "ray.sif"}, ""), ({}, "ray.sif")):
        monkeypatch.setenv("RAYCLUSTER_CONTAINER", variable)
        lines = SlurmCluster(settings={**settings, "timeout": 5, "config_files": False}).script().splitlines()
        run = next(line for line in lines if "raycluster run " in line and not line.startswith("#"))
        assert run.strip().startswith("apptainer exec ray.sif raycluster run ")
        assert "--container" not in run
