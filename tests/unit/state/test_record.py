"""The record on a real file system: leases between processes, reports, and what can be wrong."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import SCHEMA, EndReport, HeadInfo, NodeReport, encode
from raycluster_cli.state import record as module
from raycluster_cli.state.catalogue import list_records, prune, record_of
from raycluster_cli.state.record import Record
from raycluster_cli.system.proctree import ProcessRef, identify

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: to be another user, or to mount")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def record(state: Path) -> Record:
    return Record.create(state, "tux", "123")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- reports ---------------------------------------------------------------------------------------


def test_what_is_written_is_read(record: Record) -> None:
    head = HeadInfo(
        "a1", "10.0.0.1", 20480, driver=("python", "train.py"), ports={"gcs": 20480, "worker_list": [1]}
    )
    report = NodeReport(
        "a1", "head", "joined", phases={"launched": 1.5}, pid=7, create_time=99, exit_code=0, updated=2.5
    )
    end = EndReport(3.5, 7, "driver", "a1", "ended with code 7")
    record.write_head(head)
    record.write_node(report)
    record.write_end(end)
    other = Record.open(record.path)
    assert other.read_head() == head
    assert other.read_node("a1") == report
    assert other.read_nodes() == {"a1": report}
    assert other.read_end() == end
    assert (other.slurm_cluster, other.key, other.name) == ("tux", "123", "")


def test_every_file_has_a_schema_and_is_for_the_user_alone(record: Record) -> None:
    os.umask(old := os.umask(0))
    try:
        os.umask(0)
        record.write_head(HeadInfo("a", "10.0.0.1", 1))
        record.write_node(NodeReport("a", "head", "joined"))
        record.make_token()
        record.append_event("began")
        record.log_dir("a")
    finally:
        os.umask(old)
    assert json.loads((record.path / "head.json").read_text())["schema"] == SCHEMA
    for directory in (record.path.parent.parent, record.path.parent, record.path, record.path / "nodes"):
        assert mode(directory) == 0o700
    for name in ("head.json", "nodes/a.json", "token", "events.log"):
        assert mode(record.path / name) == 0o600


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_their_default(record: Record) -> None:
    newer = {"schema": 9, "host": "a", "address_ip": "::1", "port": 5, "colour": {"red": 1}}
    (record.path / "head.json").write_text(json.dumps(newer))
    assert record.read_head() == HeadInfo("a", "::1", 5)
    assert HeadInfo("a", "::1", 5).address == "[::1]:5"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', '{"host": "a"}', '{"host": 3, "address_ip": "x", "port": 1}'),
        *(
            '{"host": "a", "address_ip": "x", "port": true}',
            '{"host": "a", "address_ip": "x", "port": 1, "driver": 3}',
        ),
    ],
)
def test_a_file_that_is_empty_partial_or_not_ours_reads_as_none(record: Record, text: str) -> None:
    (record.path / "head.json").write_text(text)
    assert record.read_head() is None


def test_what_is_missing_reads_as_none(record: Record) -> None:
    assert record.read_head() is record.read_end() is record.read_node("a") is record.stop_requested() is None
    assert record.read_token() is None
    assert record.read_nodes() == {}
    assert record.read_events() == []
    gone = Record(record.path / "gone", "tux", "1", "")
    assert gone.read_nodes() == {}
    assert not gone.append_event("nobody hears this")


def test_a_stale_handle_is_asked_again_after_the_directory_was_opened(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write_end(EndReport(1.0, 0))
    calls: list[str] = []
    real = os.open

    def stale_once(path: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        calls.append(Path(path).name)
        if calls == ["end.json"]:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, flags, mode)

    monkeypatch.setattr(module.os, "open", stale_once)
    assert record.read_end() == EndReport(1.0, 0)
    assert calls == ["end.json", "123", "end.json"]


def test_a_link_or_fifo_in_place_of_a_report_is_not_followed(record: Record, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"host": "a", "address_ip": "x", "port": 1}')
    (record.path / "head.json").symlink_to(tmp_path / "elsewhere")
    assert record.read_head() is None
    os.mkfifo(record.path / "end.json")
    assert record.read_end() is None  # and does not hang


def test_readers_never_see_half_a_report_while_it_is_replaced(record: Record) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from raycluster_cli.state.record import Record
        from raycluster_cli.model.record import NodeReport
        record = Record.open(Path(sys.argv[1]))
        until = time.monotonic() + 0.6
        n = 0
        while time.monotonic() < until:
            n += 1
            record.write_node(NodeReport("a", "worker", "joined", message="x" * (n % 5000)))
        print(n)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(record.path)], stdout=subprocess.PIPE
    )
    seen = 0
    while writer.poll() is None:
        report = record.read_node("a")
        assert report is not None or seen == 0
        seen += report is not None
    assert seen > 10
    assert writer.returncode == 0
    assert [path.name for path in (record.path / "nodes").iterdir()] == ["a.json"]


def test_a_thousand_nodes_are_listed_and_no_report_is_opened_twice(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1000):
        (record.path / "nodes" / f"n{n:04}.json").write_bytes(
            encode(NodeReport(f"n{n:04}", "worker", "joined", phases={"launched": 1.0})).encode()
        )
    assert len(record.read_nodes()) == 1000
    monkeypatch.setattr(module, "read_bytes", lambda path: pytest.fail(f"{path} is opened again"))
    assert len(record.read_nodes()) == 1000


def test_an_unchanged_report_is_not_opened_again_and_a_changed_one_is(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write_node(NodeReport("a", "worker", "launched"))
    record.write_node(NodeReport("b", "worker", "launched"))
    record.read_nodes()
    opened: list[str] = []
    real = module.read_bytes
    monkeypatch.setattr(module, "read_bytes", lambda path: opened.append(path.name) or real(path))
    record.write_node(NodeReport("b", "worker", "joined"))
    assert record.read_nodes()["b"].phase == "joined"
    assert opened == ["b.json"]
    (record.path / "nodes" / "a.json").write_text("{")  # as a reader may see it on a slow file system
    assert record.read_nodes()["a"].phase == "launched"


# -- the place of the head -----------------------------------------------------------------------


def test_a_second_head_is_told_who_the_first_is(record: Record) -> None:
    claim = record.take_lease(host="a1")
    with pytest.raises(
        UsageError, match=rf"already has a head: raycluster on a1, pid {os.getpid()}, since \d{{4}}-"
    ):
        Record.open(record.path).take_lease(host="a2")
    assert record.leases.holder() == claim
    assert claim.create_time == identify(os.getpid()).start_ticks  # type: ignore[union-attr]


def test_of_many_heads_at_once_exactly_one_wins(record: Record) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from raycluster_cli.state.record import Record
        from raycluster_cli.model.errors import UsageError
        record = Record.open(Path(sys.argv[1]))
        print("ready", flush=True); sys.stdin.readline()
        try:
            record.take_lease(); print("head", flush=True); sys.stdin.readline()
        except UsageError:
            print("refused", flush=True)
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(record.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
    said = [child.stdout.readline().strip() for child in children if child.stdout]
    assert sorted(said) == ["head"] + ["refused"] * 5
    winner = children[said.index("head")]
    winner.kill()  # dies without a word
    for child in children:
        child.communicate()
    record.take_lease()  # its process is gone, so the place is free at once
    assert len(list(record.path.glob("head.claim.*"))) == 2


def test_a_pid_that_is_another_process_by_now_does_not_hold_the_place(record: Record) -> None:
    record.take_lease()
    claim = record.path / "head.claim.1"
    values = json.loads(claim.read_text())
    claim.write_text(json.dumps({**values, "create_time": values["create_time"] - 5}))
    Record.open(record.path).take_lease()


def test_a_head_on_another_kernel_is_gone_only_when_it_has_not_beaten_for_long(record: Record) -> None:
    record.take_lease(host="a1")
    claim = record.path / "head.claim.1"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "boot_id": "another", "pid": 1}))
    second = Record.open(record.path)
    os.utime(claim, (time.time() - 170, time.time() - 170))
    with pytest.raises(UsageError, match="on a1"):
        second.take_lease()
    os.utime(claim, (time.time() - 190, time.time() - 190))
    record.leases.beat()
    with pytest.raises(UsageError, match="on a1"):
        second.take_lease()
    os.utime(claim, (time.time() - 190, time.time() - 190))
    second.take_lease(host="a2")
    holder = record.leases.holder()
    assert holder is not None and holder.host == "a2"


def test_the_next_cluster_of_the_same_key_starts_afresh(record: Record) -> None:
    record.take_lease()
    token = record.make_token()
    record.write_head(HeadInfo("a", "10.0.0.1", 1, identity="old"))
    record.write_node(NodeReport("a", "head", "gone"))
    record.write_node(NodeReport("b", "worker", "joined"))
    record.append_event("old")
    record.request_stop("enough")
    record.tell_loss("ab12")
    time.sleep(0.02)
    record.write_end(EndReport(1.0, 0))
    time.sleep(0.02)
    record.write_node(NodeReport("c", "worker", "waiting for head"))  # of the next cluster, before its head
    record.write_node(NodeReport("d", "worker", "gone"))  # of the old one, late

    assert record.read_live_head() is None
    again = Record.create(record.path.parent.parent, "tux", "123")
    again.take_lease()
    assert again.read_head() is again.read_end() is again.stop_requested() is again.read_token() is None
    assert set(again.read_nodes()) == {"c"}
    assert again.read_events() == again.lost_node_ids() == []
    assert again.make_token() != token
    earlier = record.path / "earlier" / "1"
    assert json.loads((earlier / "head.json").read_text())["identity"] == "old"
    assert {path.stem for path in (earlier / "nodes").iterdir()} == {"a", "b", "d"}
    assert not (earlier / "token").exists()


def test_where_hard_links_are_missing_the_claim_is_still_exclusive(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", no_links)
    record.take_lease(host="a1")
    with pytest.raises(UsageError, match="on a1"):
        Record.open(record.path).take_lease()


def test_the_alive_check_gets_pid_and_start(record: Record) -> None:
    claim = record.take_lease()
    asked: list[ProcessRef] = []
    with pytest.raises(UsageError):
        Record.open(record.path).take_lease(alive=lambda ref: asked.append(ref) or True)  # type: ignore[func-returns-value]
    assert asked == [ProcessRef(claim.pid, claim.create_time)]


# -- stop and losses ------------------------------------------------------------------------------


def test_a_node_tells_of_its_dead_raylet(record: Record) -> None:
    assert record.lost_node_ids() == []
    assert record.tell_loss("ab12")
    assert record.tell_loss("ab12")
    assert record.lost_node_ids() == ["ab12"]


def test_a_loss_that_cannot_be_told_is_no_error(tmp_path: Path) -> None:
    gone = Record(tmp_path / "gone", "local", "1", "")
    assert not gone.tell_loss("ab12")
    assert gone.lost_node_ids() == []


def test_the_first_who_asks_for_the_end_stands(record: Record) -> None:
    record.request_stop("tired", by="ann@login1")
    record.request_stop("me too", by="bob@login2")
    asked = Record.open(record.path).stop_requested()
    assert asked is not None and (asked.by, asked.reason) == ("ann@login1", "tired")


# -- places that will not do ---------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".", "..", "a+b", "-x", "x" * 101, "a\n"])
def test_a_key_that_is_no_file_name_is_refused(state: Path, key: str) -> None:
    with pytest.raises(UsageError, match="cannot be used in a file name"):
        Record.create(state, "tux", key)


def test_a_link_in_place_of_the_record_is_refused(state: Path, tmp_path: Path) -> None:
    Record.create(state, "tux", "1")
    (tmp_path / "trap").mkdir()
    (state / "tux" / "2").symlink_to(tmp_path / "trap")
    with pytest.raises(UsageError, match="not a directory"):
        Record.create(state, "tux", "2")


def test_a_state_dir_that_others_can_write_is_refused_with_the_remedy(state: Path) -> None:
    state.mkdir()
    state.chmod(0o775)
    with pytest.raises(UsageError, match="chmod go-w"):
        Record.create(state, "tux", "1")
    state.chmod(0o755)
    Record.create(state, "tux", "1")


def test_a_home_behind_a_link_is_fine(state: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    assert (
        Record.create(tmp_path / "home" / ".raycluster", "", "1").path
        == tmp_path / "real/.raycluster/local/1"
    )


def test_a_file_in_place_of_the_state_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        Record.create(tmp_path / "file", "tux", "1")
    with pytest.raises(UsageError, match="--state-dir"):
        Record.create(tmp_path / "file" / "below", "tux", "1")


@needs_root
def test_a_directory_of_somebody_else_is_refused(state: Path) -> None:
    Record.create(state, "tux", "1")
    os.chown(state / "tux" / "1", NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"belongs to nobody, not to root; .* token"):
        Record.create(state, "tux", "1")
    with pytest.raises(UsageError, match="belongs to nobody"):
        Record.open(state / "tux" / "1")
    assert list_records(state) == []


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody can reach, as a home may be (pytest's own cannot be)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(call: Callable[[], str]) -> str:
    """What ``call`` returns when another user calls it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write, call().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@needs_root
def test_another_user_reads_neither_token_nor_record(open_dir: Path) -> None:
    record = Record.create(open_dir / ".raycluster", "tux", "1")
    record.make_token()
    record.write_head(HeadInfo("a", "10.0.0.1", 1))

    def spy() -> str:
        seen = []
        for path in (record.token_path, record.path / "head.json", record.path, open_dir / ".raycluster"):
            try:
                _ = list(path.iterdir()) if path.is_dir() else path.read_text()
                seen.append(f"{path} was read")
            except PermissionError:
                seen.append("refused")
        return " ".join(
            [*seen, str(record.read_head()), str(record.read_token()), str(list_records(open_dir))]
        )

    assert as_nobody(spy) == "refused refused refused refused None None []"


@needs_root
def test_a_directory_that_cannot_be_written_says_so(open_dir: Path) -> None:
    def create() -> str:
        with pytest.raises(UsageError) as caught:
            Record.create(open_dir / "state", "tux", "1")
        return str(caught.value)

    said = as_nobody(create)
    assert f"cannot make {open_dir}/state: Permission denied" in said
    assert "--state-dir" in said


@needs_root
def test_a_full_disk_is_told_with_a_remedy_and_leaves_no_litter(tmp_path: Path) -> None:
    code = """
        import os, subprocess, sys
        from pathlib import Path
        from raycluster_cli.model.errors import RayclusterError
        from raycluster_cli.state.record import Record
        from raycluster_cli.model.record import NodeReport
        base = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", base], check=True)
        record = Record.create(base / "s", "tux", "1")
        record.write_node(NodeReport("a", "worker", "launched"))
        with open(base / "filler", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096): pass
            except OSError: pass
        try: record.write_node(NodeReport("a", "worker", "joined", message="y" * 9000))
        except RayclusterError as error: print(type(error).__name__, error)
        names = sorted(os.listdir(record.path / "nodes"))
        print(record.read_node("a").phase, names, record.append_event("x" * 9000))
        subprocess.run(["mount", "-o", "remount,ro", base], check=True)
        try: record.write_node(NodeReport("a", "worker", "joined"))
        except RayclusterError as error: print(type(error).__name__, error)
    """
    repository = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=repository, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("RayclusterError") and "No space left" in lines[0] and "Free space" in lines[0]
    assert lines[1] == "launched ['a.json'] False"
    assert lines[2].startswith("UsageError") and "Read-only file system" in lines[2]


# -- finding -------------------------------------------------------------------------------------


def keys(state: Path, *leaves: str) -> dict[str, Record]:
    made = {}
    for n, leaf in enumerate(leaves):
        cluster, _, leaf_name = leaf.rpartition("/")
        key, _, name = leaf_name.partition("+")
        made[leaf] = Record.create(state, cluster or "tux", key, name)
        os.utime(made[leaf].path, (1000 + n, 1000 + n))
    return made


def test_find_by_all_the_names_that_a_person_may_use(state: Path) -> None:
    made = keys(state, "100", "123", "123.r2", "123.r10", "200+left", "200+right", "other/300")
    same = {leaf: leaf for leaf in made if leaf != "123"}
    others = {"tux/100": "100", "123": "123.r10", "300": "other/300", "right": "200+right"}
    expected = {**same, **others}
    for asked, leaf in expected.items():
        assert record_of(state, asked).path == made[leaf].path, asked
    assert record_of(state, str(made["100"].path)).key == "100"


def test_find_prefers_what_still_runs_and_asks_when_several_do(state: Path) -> None:
    made = keys(state, "200+left", "200+right")
    with pytest.raises(UsageError, match=r"matches several clusters: tux/200\+right, tux/200\+left"):
        record_of(state, "200")
    made["200+left"].write_end(EndReport(1.0, 0))
    assert record_of(state, "200").path == made["200+right"].path


def test_find_by_alias_takes_the_newest(state: Path) -> None:
    made = keys(state, "100", "101", "102")
    made["100"].write_head(HeadInfo("a", "10.0.0.1", 1, aliases=("99_1", "train")))
    made["101"].write_head(HeadInfo("a", "10.0.0.1", 1, aliases=("99_2", "train")))
    for n, leaf in enumerate(made):
        os.utime(made[leaf].path, (5000 + n, 5000 + n))
    assert record_of(state, "99_1").key == "100"
    assert record_of(state, "train").key == "101"


def test_find_without_a_match_names_what_there_is(state: Path) -> None:
    keys(state, "1", "2")
    with pytest.raises(
        UsageError,
        match=r"no record of '3' was found in .*; the newest records there: 2, 1\. `raycluster status`",
    ):
        record_of(state, "3")
    with pytest.raises(UsageError, match="the newest records there: none"):
        record_of(state / "missing", "3")


def test_records_are_listed_newest_first_without_opening_a_file(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(state, "5", "3", "other/4")
    (state / "tux" / "stray file").write_text("")
    monkeypatch.setattr(module.os, "open", None)
    assert [record.path.name for record in list_records(state)] == ["4", "3", "5"]


def test_old_records_are_pruned_and_old_ones_that_still_beat_are_not(state: Path) -> None:
    made = keys(state, "1", "2", "3")
    made["2"].take_lease()
    now = time.time()
    for leaf in ("1", "2"):
        for path in [*made[leaf].path.rglob("*"), made[leaf].path]:
            os.utime(path, (now - 40 * 86400, now - 40 * 86400))
    os.utime(made["3"].path)
    made["2"].leases.beat()
    old = made["2"].path.stat().st_mtime
    assert now - old > 39 * 86400
    assert prune(state) == [made["1"].path]
    assert {record.key for record in list_records(state)} == {"2", "3"}


def test_prune_takes_the_oldest_and_only_so_many(state: Path) -> None:
    keys(state, "1", "2", "3")
    for n in (1, 2, 3):
        os.utime(state / "tux" / str(n) / "nodes", (1000, 1000))
    assert [path.name for path in prune(state, limit=2)] == ["1", "2"]
