"""The batch script that `raycluster submit` makes, run by a real bash with stand-ins for srun and sbatch."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import EndReport, NodeReport
from raycluster_cli.ops.container_job import ContainerLines
from raycluster_cli.ops.submit import (
    CommandLine,
    default_template,
    environment_for_sbatch,
    environment_lines,
    has_option,
    make_script,
    refuse_to_follow_array,
    sbatch_lines,
    split_line,
    submit,
)
from raycluster_cli.rayproc.boot import raycluster_command
from raycluster_cli.state.record import Record

ODD = (
    "plain",
    "two words",
    "  ",
    "",
    "it's",
    'say "hi"',
    "$HOME ${PATH} $(id) `id`",
    "line\nbreak\n",
    "back\\slash \\n",
    "@DRIVER@ @SBATCH@ @MARKS@",
    "* ? [a] {b,c} ~ ! # & ; | < >",
    "-N",
    "--dry-run",
    "tab\there",
    "ünïcode ✓",
)


def script(*driver: str, sbatch: tuple[str, ...] = (), **more: object) -> str:
    words = CommandLine((), sbatch, driver)
    return make_script(
        words, **{"options": (), "env": {}, "srun_wait_s": 60, "python": "/env/bin/python", **more}
    )  # type: ignore[arg-type]


def run(tmp_path: Path, text: str) -> tuple[list[str], dict[str, str]]:
    """The words that the script gives to srun, and the environment."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >{tmp_path}/words\nenv -0 >{tmp_path}/env\n')
    srun.chmod(0o755)
    file = tmp_path / "job.sbatch"
    file.write_text(text)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "7", "HOME": "/h"}
    env["LOADEDMODULES"] = "as at submission"
    subprocess.run(["bash", "-eu", str(file)], env=env, check=True, timeout=10)
    words = (tmp_path / "words").read_bytes().decode().split("\0")[:-1]
    pairs = (tmp_path / "env").read_bytes().decode().split("\0")[:-1]
    return words, dict(pair.split("=", 1) for pair in pairs)


def test_the_drivers_words_survive(tmp_path: Path) -> None:
    words, _ = run(tmp_path, script("python", *ODD))
    assert tuple(words[words.index("--") + 1 :]) == ("python", *ODD)


def test_options_of_the_cluster_survive(tmp_path: Path) -> None:
    options = ('--resources={"a b": 1}', "--labels=zone=it's", "--dashboard")
    words, _ = run(tmp_path, script("x", options=options))
    here = words.index("run") + 1
    assert tuple(words[here : here + 3]) == options


def test_whole_command(tmp_path: Path) -> None:
    words, env = run(tmp_path, script("python", "a.py"))
    assert words == [
        *("--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--export=ALL"),
        *("--cpu-bind=none", "--mem=0"),
        *("--kill-on-bad-exit=0", "--wait=60", *raycluster_command(python="/env/bin/python"), "run"),
        *("--", "python", "a.py"),
    ]
    assert env["PATH"].startswith("/env/bin:")


def test_gpus_of_all_tasks_go_to_the_one_task(tmp_path: Path) -> None:
    text = script("x", sbatch=("--ntasks-per-node=2", "--gpus-per-task=1"))
    words, _ = run(tmp_path, f"SLURM_GPUS_ON_NODE=2\n{text}")
    assert "--gpus-per-node=2" in words
    words, _ = run(tmp_path, script("x", sbatch=("--gpus-per-node=2",)))
    assert not any("gpus" in word for word in words)


def test_this_very_raycluster() -> None:
    assert f"{Path(sys.executable).with_name('raycluster')} run" in script("x", python=sys.executable)


def test_wait(tmp_path: Path) -> None:
    words, _ = run(tmp_path, script("x", srun_wait_s=150))
    assert "--wait=150" in words


def test_environment(tmp_path: Path) -> None:
    env = {"VIRTUAL_ENV": "/my venv", "CONDA_PREFIX": "/opt/co'nda", "LOADEDMODULES": "gcc/12:cuda/12.4"}
    text = script("x", env=env)
    assert "module load gcc/12 cuda/12.4" in text
    _, found = run(tmp_path, text)
    assert (found["VIRTUAL_ENV"], found["CONDA_PREFIX"]) == ("/my venv", "/opt/co'nda")
    assert environment_lines({}, "/a b/python") == ["export PATH='/a b':\"$PATH\""]


@pytest.mark.parametrize(("came_along", "loaded"), [("gcc/12", ""), ("", "load gcc/12")])
def test_loaded_modules_are_loaded_where_the_environment_does_not_come_along(
    tmp_path: Path, came_along: str, loaded: str
) -> None:
    """As after sbatch --export=NONE; `module` is a function of the shell."""
    (tmp_path / "log").touch()
    lines = environment_lines({"LOADEDMODULES": "gcc/12"}, "/v/python")
    text = "\n".join((f'module() {{ echo "$*" >{tmp_path}/log; return 1; }}', *lines))
    variables = {"LOADEDMODULES": came_along} if came_along else {}
    subprocess.run(["bash", "-euc", text], env={"PATH": "/usr/bin:/bin", **variables}, check=True, timeout=10)
    assert (tmp_path / "log").read_text().strip() == loaded


def test_containers(tmp_path: Path) -> None:
    box = ContainerLines("apptainer exec 'my image.sif' ", ("# checked", "code=0"))
    text = script("x", container=box, env={"VIRTUAL_ENV": "/venv", "LOADEDMODULES": "apptainer"})
    words, _ = run(tmp_path, text)
    here = words.index("apptainer")
    assert words[here : here + 5] == ["apptainer", "exec", "my image.sif", "raycluster", "run"]
    assert "/venv" not in text
    assert text.index("module load apptainer") < text.index("\n\n# checked\ncode=0\n") < text.index("srun")
    assert "@CHECK@" not in script("x")


def test_splitting() -> None:
    words = split_line(
        [
            "-N4",
            "--time",
            "1:00",
            "--follow",
            "--timeout",
            "9",
            "--exclusive",
            "--gres=gpu:2",
            "--",
            "a",
            "-N",
        ],
        {"--follow"},
        {"--timeout"},
    )
    assert words.own == ("--follow", "--timeout", "9")
    assert words.sbatch == ("-N4", "--time=1:00", "--exclusive", "--gres=gpu:2")
    assert words.driver == ("a", "-N")
    assert split_line(["--comment", "two words"], (), ()).sbatch == ("--comment='two words'",)
    assert split_line(["--comment", "a\\b"], (), ()).sbatch == (r"--comment='a\\b'",)
    with pytest.raises(UsageError, match="before `--`"):
        split_line(["train.py"], (), ())


def test_sbatch_lines() -> None:
    assert sbatch_lines(["-N 2"], ["python", "-u", "train.py"]) == [
        "#SBATCH --job-name=train",
        "#SBATCH -N 2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --output=%x-%j.out",
    ]
    given = ["-Jmine", "-n 4", "-o x.out"]
    assert sbatch_lines(given, ["a"]) == ["#SBATCH -Jmine", "#SBATCH -n 4", "#SBATCH -o x.out"]
    with pytest.raises(UsageError, match="line break"):
        sbatch_lines(["--comment='a\nb'"], ["a"])
    assert not has_option(["--nodes=3"], "ntasks")


def test_a_job_that_will_ask_for_a_requeue_may_be_requeued() -> None:
    assert sbatch_lines([], ["a"], requeue=True)[-1] == "#SBATCH --requeue"
    assert sbatch_lines(["--requeue"], ["a"], requeue=True).count("#SBATCH --requeue") == 1
    with pytest.raises(UsageError, match="contradict each other"):
        sbatch_lines(["--no-requeue"], ["a"], requeue=True)


def test_own_template() -> None:
    text = script("a", "b c", template="#!/bin/bash\n@SBATCH@\nsrun raycluster run -- @DRIVER@\n")
    assert text.endswith("srun raycluster run -- a 'b c'\n")
    with pytest.raises(UsageError, match="@DRIVER@"):
        script("a", template="@SBATCH@")
    assert default_template().startswith("#!/bin/bash\n")


def test_nothing_of_a_surrounding_job() -> None:
    outside = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "me", "HOME": "/h"}
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURMD_NODENAME": "n1",
        "PMI_RANK": "3",
        "CUDA_VISIBLE_DEVICES": "0",
        "RAYCLUSTER_NODE_ROOT": "/tmp/rc-1-a",
        "RAY_ADDRESS": "10.0.0.1:1",
    }
    assert environment_for_sbatch({**outside, **inside}) == outside
    mine = {**outside, "CUDA_VISIBLE_DEVICES": "0", "RAYCLUSTER_TIMEOUT": "9"}
    assert environment_for_sbatch(mine) == mine


def sbatch(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "sbatch"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def test_submitting(tmp_path: Path) -> None:
    env = sbatch(tmp_path, f'cat >{tmp_path}/script; echo "welcome to the site"; echo "12;cluster"')
    assert submit("#!/bin/sh\n", env) == "12"
    assert (tmp_path / "script").read_text() == "#!/bin/sh\n"


def test_submitting_does_not_wait_for_the_jobs_end(tmp_path: Path) -> None:
    env = sbatch(tmp_path, 'test -z "$SBATCH_WAIT" && echo 12') | {"SBATCH_WAIT": "1"}
    assert submit("#!/bin/sh\n", env) == "12"


def test_a_sbatch_that_submits_nothing_is_an_error(tmp_path: Path) -> None:
    env = sbatch(tmp_path, 'echo "sbatch: Job 5 to start at 12:00" >&2')
    with pytest.raises(RayclusterError, match="sbatch submitted no job: sbatch: Job 5 to start at 12:00"):
        submit("#!/bin/sh\n", env, words=["--test-only"])
    env = sbatch(tmp_path, "echo slurm-wlm 22.05.8")
    with pytest.raises(RayclusterError, match=r"sbatch submitted no job: slurm-wlm 22\.05\.8"):
        submit("#!/bin/sh\n", env, words=["--version"])


def test_a_heterogeneous_job_is_one_for_a_batch_script() -> None:
    with pytest.raises(UsageError, match=r"heterogeneous job, which submit cannot start.*--het-group=0,1"):
        split_line(["-N", "1", ":", "-N", "2", "--", "true"], (), ())


def test_options_of_the_line_are_stronger_than_variables(tmp_path: Path) -> None:
    """sbatch takes SBATCH_PARTITION before an #SBATCH line, but not before an argument."""
    line = split_line(["-N", "2", "--comment", "it's a\\b", "--exclusive", "-pgpu", "--time=1"], (), ())
    env = sbatch(tmp_path, f'printf "%s|" "$@" >{tmp_path}/words; echo 12')
    submit("#!/bin/sh\n", env, words=line.words)
    said = (tmp_path / "words").read_text()
    assert said == "--parsable|-N|2|--comment=it's a\\b|--exclusive|-pgpu|--time=1|"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("invalid partition specified: x", "sinfo -s"),
        ("Batch job submission failed: Requested node configuration is not available", "sinfo -N -l"),
        ("unrecognized option '--tmie=3'", "not an option of raycluster"),
    ],
)
def test_refusals(tmp_path: Path, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        submit("x", sbatch(tmp_path, f'echo "sbatch: error: {said}" >&2; exit 1'))
    assert refused.value.message == f"sbatch refused the job: {said}."
    assert hint in refused.value.hint


def test_no_sbatch(tmp_path: Path) -> None:
    with pytest.raises(RayclusterError, match="sbatch was not found"):
        submit("x", {"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    ("sbatch", "env", "template"),
    [
        (["--array=0-2"], {}, ""),
        (["-a0-2"], {}, ""),
        (["-a 0-2"], {}, ""),
        ([], {"SBATCH_ARRAY_INX": "0-2"}, ""),
        ([], {}, "#!/bin/bash\n#SBATCH --array=0-2%1\n@SBATCH@\n"),
        ([], {}, "@SBATCH@\n#SBATCH  -p a -a 0-2\n"),
    ],
)
def test_an_array_is_not_followed(sbatch: list[str], env: dict[str, str], template: str) -> None:
    with pytest.raises(UsageError, match="not for a job array"):
        refuse_to_follow_array(sbatch, env, template)
    refuse_to_follow_array(["--account=a"], {}, "#SBATCH --account=a\n# --array=0-2\n##SBATCH --array=0-2\n")


@pytest.mark.parametrize(
    ("srun_code", "oom_kills", "said", "expected"),
    [
        (0, 0, 0, 0),
        (75, 0, 75, 75),
        (1, 2, 0, 0),
        (1, 2, 75, 75),
        (1, 0, 0, 1),
        (1, 2, None, 1),
        (137, 2, 0, 137),
    ],
)
def test_the_drivers_code_after_an_oom_kill(
    tmp_path: Path, srun_code: int, oom_kills: int, said: int | None, expected: int
) -> None:
    """srun ends with 1 then; the record says what the driver ended with."""
    record = Record.create(tmp_path / "it's", "tux", "7.r1", "a")
    record.write_node(NodeReport("n1", "head", "gone", oom_kills=0))
    record.write_node(NodeReport("n2", "worker", "gone", oom_kills=oom_kills))
    if said is not None:
        record.write_end(EndReport(1.0, said, "driver", "", 'it printed "exit_code": 9'))
    text = script("x", state_dir=tmp_path / "it's", name="a")
    assert ended(tmp_path, text, f"exit {srun_code}", SLURM_RESTART_COUNT="1").wait(30) == expected


def test_signals_of_the_script_reach_srun(tmp_path: Path) -> None:
    srun = (
        "for n in USR1 TERM; do trap 'echo '$n' >&2; exit 5' $n; done; echo up; while :; do sleep 0.05; done"
    )
    for name in ("USR1", "TERM"):
        with ended(tmp_path, script("x"), srun) as process:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            process.send_signal(getattr(signal, f"SIG{name}"))
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (5, f"{name}\n")


def ended(tmp_path: Path, text: str, srun: str, **env: str) -> subprocess.Popen[str]:
    """The script, with an srun that does something."""
    program = tmp_path / "srun"
    program.write_text(f"#!/bin/bash\n{srun}\n")
    program.chmod(0o755)
    (tmp_path / "job.sbatch").write_text(text)
    job = {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "tux", "HOME": "/home/x"}
    return subprocess.Popen(
        ["bash", str(tmp_path / "job.sbatch")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **job, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
