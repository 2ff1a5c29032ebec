"""LocalCluster and its child: a shell script that does what `raycluster run --local` may do."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli import (
    HeadStartError,
    LocalCluster,
    RayclusterError,
    UsageError,
    WorkersMissingError,
)
from raycluster_cli.api import local_cluster
from tests.unit.records_by_hand import write_record
from tests.waiting import wait_until

Start = Callable[..., LocalCluster]

#: It writes to the program, and waits for its end.
TELL, WAIT = ">&$RAYCLUSTER_PARENT_FD", "read said <&$RAYCLUSTER_PARENT_FD"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes a cluster whose child runs a script; a record of a cluster that runs is there or not."""
    made: list[LocalCluster] = []

    def one(script: str, *, running: bool = False, **options: object) -> LocalCluster:
        monkeypatch.setattr(
            local_cluster, "raycluster_command", lambda *words: ["bash", "-c", script, "raycluster", *words]
        )
        if running:
            write_record(tmp_path / "state", 2, key="local-1", name="tune", cluster="local")
        given = {"settings": {"name": "tune"}, "progress": None, **options}
        cluster = LocalCluster(1, state_dir=tmp_path / "state", **given)  # type: ignore[arg-type]
        made.append(cluster)
        return cluster

    yield one
    for cluster in made:
        cluster._end_at_once()
        if cluster._child is not None:
            cluster._child.kill()
            cluster._child.wait(10)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("exit 2", UsageError, "the local cluster ended: its exit code is 2."),
        ("echo Hello; echo 'raycluster: error: no Ray' >&2; exit 3", HeadStartError, "ended: no Ray"),
        (
            f'echo \'{{"message": "n2 is missing"}}\' {TELL}; exit 4',
            WorkersMissingError,
            "ended: n2 is missing",
        ),
        (f'echo \'{{"message": "n2 is\' {TELL}; echo no; exit 1', RayclusterError, "ended: no"),
        ("kill -9 $$", RayclusterError, "ended: its exit code is -9."),
        (f'sleep 30 & echo \'{{"message": "a"}}\' {TELL}; kill $!; exit 1', RayclusterError, "ended: a"),
    ],
)
def test_why_it_did_not_start(make: Start, script: str, kind: type[RayclusterError], message: str) -> None:
    with pytest.raises(kind, match=message) as found:
        make(script).start()
    assert type(found.value) is kind


def test_a_command_that_is_not_there(make: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make("")
    cluster._argv[0] = "/nowhere/raycluster"
    with pytest.raises(RayclusterError, match=r"^/nowhere/raycluster cannot be started: No such file"):
        cluster.start()
    assert not cluster.is_started


def test_no_place_for_its_output(make: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(RayclusterError, match=r"cannot be made: No space left on device\. TMPDIR"):
        make("").start()


def test_what_it_is_called_with_and_named_by_default(make: Start, tmp_path: Path) -> None:
    words = f"--state-dir={tmp_path / 'state'}"
    cluster = make(f'echo "$@" >{tmp_path}/words', settings={"min_workers": 1, "profile": ""})
    with pytest.raises(RayclusterError):
        cluster.start()
    said = (tmp_path / "words").read_text().split()
    assert said[:2] == ["run", "--local=1"]
    assert words in said
    assert "--min-workers=1" in said
    assert [word for word in said if word.startswith("--name=py-")] != []
    assert said[-1] == "--"


ENDS = {
    "told": (f"echo >up; {WAIT}; echo $said >end", 30.0, []),
    "SIGTERM": ("trap 'kill $!; echo term >end; exit 0' TERM; sleep 600 & echo >up; wait", 0.3, ["SIGTERM"]),
    "SIGKILL": (
        "trap '' TERM; echo ignored >end; echo >up; while :; do sleep 0.1; done",
        *(0.3, ["SIGTERM", "SIGKILL"]),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_it_ends(make: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    script, wait_s, signals = ENDS[name]
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with make(script, running=True, stop_timeout_s=wait_s, progress=said.append) as cluster:
        assert cluster.job_id == "local-1+tune"
        assert cluster.status().ready_nodes == 2
        wait_until((tmp_path / "up").exists, timeout_s=60, what="the child")
        said.clear()
    assert [text.rpartition(" ")[2] for text in said] == signals
    assert cluster._child is not None
    assert cluster._child.returncode == (0 if name != "SIGKILL" else -9)
    assert (tmp_path / "end").read_text() in ("done\n", "term\n", "ignored\n")
    cluster.stop()  # it has ended


def test_one_that_even_sigkill_does_not_end_is_left(make: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs in a call of the kernel; here no signal is sent to it."""
    monkeypatch.setattr(local_cluster, "KILL_WAIT_S", 0.2)
    cluster = make("exec sleep 600", running=True, stop_timeout_s=0.1).start()
    child = cluster._child
    assert child is not None
    with monkeypatch.context() as patched, pytest.raises(RayclusterError, match="killed and has not ended"):
        patched.setattr(child, "send_signal", lambda number: None)
        cluster.stop()


LINES = "raycluster: a\nthe driver's\nraycluster: b\n"


@pytest.mark.parametrize(
    ("component", "lines", "expected"),
    [
        ("", 100, LINES),
        ("", 2, "the driver's\nraycluster: b\n"),
        ("", 0, ""),
        ("", -1, LINES),
        ("raycluster", 100, "raycluster: a\nraycluster: b\n"),
        ("raycluster", 1, "raycluster: b\n"),
        ("driver", 100, "the driver's\n"),
    ],
)
def test_its_output(make: Start, component: str, lines: int, expected: str) -> None:
    cluster = make(f'printf "{LINES}"; echo {TELL}; {WAIT}', running=True)
    assert cluster.logs() == ""
    cluster.start()
    assert cluster._link is not None
    assert cluster._link.recv(1) == b"\n"  # it has written
    assert cluster.logs(component, lines=lines) == expected
    cluster.stop()
    assert cluster.logs(component, lines=lines) == expected  # also after its end


def test_a_component_that_it_does_not_have(make: Start) -> None:
    with pytest.raises(UsageError, match=r"'dashboard' is no component; there are driver"):
        make("").logs("dashboard")


def test_a_process_that_this_program_forked_does_not_keep_it(make: Start, tmp_path: Path) -> None:
    """As multiprocessing does; the program is killed, and that process lives on."""
    end = tmp_path / "end"
    cluster = make(f'{WAIT}; echo "told $said" >{end}')
    cluster._begin()
    assert cluster._link is not None
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    try:
        cluster._link.close()  # as the kernel does
        wait_until(end.exists, timeout_s=20, what="the end of the cluster")
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)
