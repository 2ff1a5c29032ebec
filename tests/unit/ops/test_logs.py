"""The ends of logs, and following a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.ops.clusters import find_record
from raycluster_cli.ops.follow import Tail, follow
from raycluster_cli.ops.logs import Source, job_output, kept_files, last_lines, session_files, show
from raycluster_cli.slurm.job_state import JobState, parse_job
from tests.unit.records_by_hand import change_head, write_record

OUTPUT = b"""\
raycluster: 2 nodes ready
step 1
1: raycluster: warning: x
srun: error: n1: task 0: Exited
step 2, raycluster: is not at the begin
slurmstepd: error: *** JOB 7 CANCELLED
slurmstepd-n1: error: y
[2026-11-20T19:40:00.123] error: *** JOB 7 CANCELLED
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "job.out"
    path.write_bytes(OUTPUT)
    return path


def test_components_of_the_output(output: Path) -> None:
    driver, size = last_lines(Source(output, "driver"), -1)
    assert driver == [b"step 1\n", b"step 2, raycluster: is not at the begin\n"]
    assert size == len(OUTPUT)
    assert len(last_lines(Source(output, "raycluster"), -1)[0]) == 6
    assert last_lines(Source(output), 2)[0] == OUTPUT.splitlines(keepends=True)[-2:]
    assert last_lines(Source(output), 0)[0] == []
    assert len(last_lines(Source(output), 1000)[0]) == 8


def test_following(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"1\n2\n")
    two.write_bytes(b"")
    said: list[bytes] = []
    steps = iter([(two, b"x\ny"), (two, b"z\n"), (one, b"3\n"), None])
    over = False

    def sleep(_: float) -> None:
        nonlocal over
        step = next(steps)
        if step is None:
            over = True
            return
        path, data = step
        with path.open("ab") as file:
            file.write(data)

    show([Source(one), Source(two)], 1, follow=True, is_over=lambda: over, write=said.append, sleep=sleep)
    text = b"".join(said).decode().replace(str(tmp_path), "")
    assert text == "==> /a <==\n2\n\n==> /b <==\nx\nyz\n\n==> /a <==\n3\n"


def test_where_the_output_is(tmp_path: Path, output: Path) -> None:
    record = write_record(tmp_path, 2)
    with pytest.raises(RayclusterError, match="neither the record nor Slurm"):
        job_output(record, tmp_path, {"PATH": "/nowhere"})
    change_head(record, output=str(output))
    assert job_output(record, tmp_path, {}) == output
    output.unlink()
    with pytest.raises(RayclusterError, match=r"is not visible on this host\. If it is on a disk of n"):
        job_output(record, tmp_path, {})
    local = write_record(tmp_path, 2, key="local-1", cluster="local")
    with pytest.raises(RayclusterError, match="terminal"):
        job_output(local, tmp_path, {})


def test_where_rays_logs_are(tmp_path: Path) -> None:
    record = write_record(tmp_path / "state", 2)
    old, new = (tmp_path / f"root/r/session_{name}/logs" for name in "ab")
    for number, directory in enumerate((old, new)):
        directory.mkdir(parents=True)
        (directory / "raylet.out").write_text(str(number))
    (tmp_path / "root/r/session_latest").symlink_to(new.parent)
    word = dataclasses.replace(record.read_nodes()["n001"], node_root=str(tmp_path / "root"))
    assert session_files(word, "raylet") == [new / "raylet.out"]
    assert session_files(word, "gcs") == []
    kept = record.log_dir("n002") / "raylet.err"
    kept.write_text("x")
    assert kept_files(find_record(tmp_path / "state", "4711", {}), "n002", "raylet") == [kept]


# -- following a job


def states(*given: JobState | None) -> object:
    answers = list(given)

    def ask(job: str, env: Mapping[str, str]) -> JobState | None:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return ask


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_followed_to_the_end(output: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    clock = Clock()
    ask = states(
        JobState("PENDING", "PartitionConfig"),
        JobState("PENDING", "PartitionConfig"),
        JobState("RUNNING", nodes="n[1-2]", output=str(output)),
        JobState("FAILED", exit_code=7, output=str(output)),
    )
    assert follow("7", {}, ask=ask, clock=clock, sleep=clock.sleep) == 7  # type: ignore[arg-type]
    out, err = capfdbinary.readouterr()
    assert out == OUTPUT
    assert err.count(b"will never start") == 1
    assert err.count(b"job 7: it will never start; cancel it. The partition does not have") == 1
    assert b"runs on n[1-2]" in err
    assert b"failed, exit code 7" in err


class Script:
    """What happens to a job while it is followed: a state for each question, a deed for each pause."""

    def __init__(self, states: list[JobState], deeds: dict[float, Callable[[], object]]) -> None:
        self.states, self.deeds, self.now, self.asked = states, deeds, 0.0, 0

    def ask(self, job: str, env: Mapping[str, str]) -> JobState:
        self.asked += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.deeds if when <= self.now]:
            self.deeds.pop(when)()

    def follow(self, appended: Mapping[Path, int] | None = None) -> int:
        return follow("7", {}, appended=appended, ask=self.ask, clock=lambda: self.now, sleep=self.sleep)


def test_the_end_is_said_after_the_last_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_text("one\n")
    order: list[str] = []
    monkeypatch.setattr("raycluster_cli.ops.follow.say", order.append)
    monkeypatch.setattr(
        "raycluster_cli.ops.follow.CopiedOutput.copy_rest",
        lambda *_: order.append("the rest"),
    )
    done = JobState("COMPLETED", output=str(path))
    assert Script([JobState("COMPLETING", output=str(path)), done], {}).follow() == 0
    assert [text.partition(" (")[0] for text in order] == ["the rest", "job 7 completed"]


def test_what_the_batch_script_writes_to_stderr_is_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    names = {"output": str(out), "errors": str(err)}
    deeds = {0.2: lambda: out.write_text("result\n"), 0.4: lambda: err.write_text("Traceback\n")}
    running, ended = JobState("RUNNING", **names), JobState("FAILED", exit_code=1, **names)
    assert Script([running, running, ended], deeds).follow() == 1
    said = capfd.readouterr()
    assert said.out == "result\n"
    assert "Traceback\nraycluster: job 7 ended: failed" in said.err
    one = dict.fromkeys(names, str(out))
    assert Script([JobState("RUNNING", **one), JobState("COMPLETED", **one)], {}).follow() == 0
    assert capfd.readouterr().out == "result\n", "one file is copied once"


def test_output_that_only_the_node_sees(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = str(tmp_path / "none" / "x.out")
    running = JobState("RUNNING", output=name, errors=name, host="n1")
    ended = JobState("COMPLETED", output=name, errors=name, host="n1")
    assert Script([running] * 9 + [ended], {}).follow() == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 4
    assert (
        f"not visible on this host. If it is on a disk of n1: raycluster exec 7 -- tail -n +1 -f {name}"
        in said[1]
    )
    assert said[2].startswith("raycluster: job 7 completed")
    assert f"{name} is not visible on this host" in said[3]


def test_a_job_that_ended_in_the_queue_misses_no_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting, ended = (JobState(state, output=str(tmp_path / "x.out")) for state in ("PENDING", "CANCELLED"))
    assert Script([waiting, waiting, ended], {}).follow() == 143
    assert "not visible" not in capfd.readouterr().err


def test_output_that_nobody_wants_is_not_missed(capfd: pytest.CaptureFixture[str]) -> None:
    """sbatch --output=/dev/null: it is there before the job starts, and does not change."""
    waiting, running = (JobState(state, output="/dev/null") for state in ("PENDING", "RUNNING"))
    assert Script([waiting, *[running] * 9, JobState("COMPLETED", output="/dev/null")], {}).follow() == 0
    assert "not visible" not in capfd.readouterr().err


def test_a_file_of_an_earlier_job_is_not_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out"
    path.write_text("of the last job, and longer\n")
    waiting, running = (
        JobState("PENDING", "Resources", output=str(path)),
        JobState("RUNNING", output=str(path)),
    )
    deeds = {2.0: lambda: path.write_text("new\n")}
    assert (
        Script([waiting, waiting, running, running, JobState("COMPLETED", output=str(path))], deeds).follow()
        == 0
    )
    assert capfd.readouterr().out == "new\n"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_a_file_that_the_job_appends_to_is_shown_from_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], known: bool, waits: bool
) -> None:
    """sbatch --open-mode=append; the name is known before the job unless it has a pattern."""
    path = tmp_path / "out"
    path.write_text("of the last job\n")
    waiting, running, ended = (
        JobState(state, output=str(path)) for state in ("PENDING", "RUNNING", "COMPLETED")
    )

    def write() -> None:
        with path.open("a") as file:
            file.write("new\n")

    sizes = {path: path.stat().st_size} if known else {}
    script = Script([*[waiting] * waits, running, running, ended], {0.1: write})
    assert script.follow(appended=sizes) == 0
    assert capfd.readouterr().out == ("new\n" if known or waits else "of the last job\nnew\n")


def test_output_that_appears_is_shown_within_a_second(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The state of a job that waits for long is asked for every five seconds."""
    path = tmp_path / "out"
    waiting = JobState("PENDING", "Resources", output=str(path))
    shown = []

    class Watched(Script):
        def ask(self, job: str, env: Mapping[str, str]) -> JobState:
            return self.states[0] if self.now < 60 else self.states[1] if self.now < 90 else self.states[2]

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if not shown and capfd.readouterr().out:
                shown.append(self.now)

    later = [JobState("RUNNING", output=str(path)), JobState("COMPLETED", output=str(path))]
    assert Watched([waiting, *later], {60.0: lambda: path.write_text("1\n")}).follow() == 0
    assert 60 <= shown[0] < 61


def test_a_tail_of_a_file_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    tail = Tail(path)
    assert tail.read() == b""
    path.write_bytes(b"one\n")
    assert (tail.read(), tail.read()) == (b"one\n", b"")
    with path.open("ab") as file:
        file.write(b"two\n")
    assert tail.read() == b"two\n"
    path.write_bytes(b"3\n")  # Slurm empties the file of a requeued job
    assert tail.read() == b"3\n"
    other = tmp_path / "other"
    other.write_bytes(b"4\n5\n")
    other.rename(path)
    assert tail.read() == b"4\n5\n"


def test_a_job_that_slurm_forgot() -> None:
    clock = Clock()
    with pytest.raises(RayclusterError, match="for a minute"):
        follow("7", {}, ask=states(None), clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (JobState("COMPLETED"), 0),
        (JobState("FAILED", exit_code=3), 3),
        (JobState("CANCELLED", signal=15), 143),
        (JobState("TIMEOUT"), 143),
        (JobState("NODE_FAIL"), 1),
        (JobState("OUT_OF_MEMORY", signal=9), 137),
    ],
)
def test_codes(state: JobState, code: int) -> None:
    assert state.shell_code == code


def test_scontrol() -> None:
    text = (
        "JobId=7 JobName=a b JobState=PENDING Reason=Priority Dependency=(null) Restarts=1 ExitCode=0:0 "
        "NodeList=(null) Command=/x y/z.sh StdOut=/home/x y/a=b-7.out Power="
    )
    assert parse_job(text) == JobState("PENDING", "Priority", output="/home/x y/a=b-7.out", restarts=1)
    # slurmctld leaves what the node fills in (seen with Slurm 22.05)
    text = "JobId=7 JobState={} UserId=ada(1) NodeList={} StdErr=/e-%t StdOut=/a/%N-%4j.out Power="
    waits = parse_job(text.format("PENDING", "(null)"))
    assert (waits.output, waits.errors) == ("", "/e-0")
    runs = parse_job(text.format("RUNNING", "n[1-2] BatchHost=n1.x.org NumNodes=2"))
    assert (runs.output, runs.errors) == ("/a/n1-0007.out", "/e-0")
