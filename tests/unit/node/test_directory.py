"""Node roots with real directories, locks and processes; other file systems by their mountinfo."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.node.directory import ENV_MARK, NodeRoot, make_node_root
from raycluster_cli.node.places import Mount, mount_of, mountinfo, parse_mountinfo
from raycluster_cli.node.sweep import Swept, processes_of, sweep_root, sweep_stale, why_part_of
from raycluster_cli.system.proctree import identify
from raycluster_cli.system.removal import remove_tree

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: to be another user, or to mount")
LOCAL = "1 0 8:1 / / rw - ext4 /dev/sda rw\n"


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory of this test alone: pytest's own are too long for a root."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def make(base: Path) -> Iterator[Callable[..., NodeRoot]]:
    made: list[NodeRoot] = []

    def one(key: str = "1", **options: object) -> NodeRoot:
        values: dict[str, object] = {"env": {}, "role": "worker", "base": base, "mounts": lambda: LOCAL}
        made.append(make_node_root(key, **{**values, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for each in made:
        each.remove()


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Children that do not outlive the test."""
    made: list[subprocess.Popen[bytes]] = []

    def one(*argv: str, **options: object) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options))  # type: ignore[call-overload]
        return made[-1]

    yield one
    for each in made:
        each.kill()
        each.wait()


def sweep(base: Path) -> list[Swept]:
    return sweep_stale({}, only_bases=[base], term_grace_s=0.3)


def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- making --------------------------------------------------------------------------------------


def test_a_root_is_private_short_and_locked(make: Callable[..., NodeRoot], base: Path) -> None:
    os.umask(old := os.umask(0))
    try:
        os.umask(0o007)
        root = make("12.r1", role="head")
    finally:
        os.umask(old)
    assert root.path.parent == base
    assert root.path.name.startswith(f"rc-{os.geteuid()}-")
    assert stat.S_IMODE(root.path.stat().st_mode) == 0o700
    assert len(str(root.ray_dir)) <= 39
    assert {path.name for path in root.path.iterdir()} == {"about.json", "logs", "r"}
    about = json.loads((root.path / "about.json").read_text())
    assert (about["key"], about["role"], about["pid"]) == ("12.r1", "head", os.getpid())
    assert root.warnings == ()
    # Ray's longest socket below it still has room.
    name = "session_2026-11-23_04-12-33_123456_4194304/sockets/plasma_store.9"
    with socket.socket(socket.AF_UNIX) as sock:
        longest = root.path.parent / ("r" * (39 - len(str(base)) - 1)) / name
        longest.parent.mkdir(parents=True)
        sock.bind(str(longest))


def test_two_roots_at_once_are_two_directories(make: Callable[..., NodeRoot]) -> None:
    assert make("1").path != make("1").path


def test_the_token_is_for_the_user_alone(make: Callable[..., NodeRoot]) -> None:
    root = make()
    assert root.write_token("secret") == root.token_path
    root.write_token("another")
    assert root.token_path.read_text() == "another"
    assert stat.S_IMODE(root.token_path.stat().st_mode) == 0o600


def test_remove_leaves_nothing_and_may_be_repeated(make: Callable[..., NodeRoot]) -> None:
    root = make()
    root.journal("raylet", os.getpid())
    assert root.remove() == []
    assert not root.path.exists()
    assert root.remove() == []


# -- where ---------------------------------------------------------------------------------------


def test_mountinfo_is_read_with_its_escapes_and_options() -> None:
    text = (
        "36 35 98:0 / /my\\040tmp ro,noatime shared:1 master:2 - nfs4 srv:/x rw,vers=4\n"
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "broken line\n"
        "37 1 0:5 / /s rw - tmpfs none ro\n"
    )
    expected = [Mount("/my tmp", "nfs4", True), Mount("/", "ext4"), Mount("/s", "tmpfs", True)]
    assert parse_mountinfo(text) == expected


def test_the_mount_of_a_path_is_the_longest_and_the_last() -> None:
    mounts = [Mount("/", "ext4"), Mount("/a", "xfs"), Mount("/a/b", "nfs"), Mount("/a", "tmpfs")]
    found = {path: mount_of(path, mounts).type for path in ("/", "/ab", "/a", "/a/x", "/a/b/c")}
    assert found == {"/": "ext4", "/ab": "ext4", "/a": "tmpfs", "/a/x": "tmpfs", "/a/b/c": "nfs"}
    assert mount_of("/x", []).type == "unknown"


def test_the_real_mountinfo_knows_this_file_system(base: Path) -> None:
    mounts = parse_mountinfo(mountinfo())
    assert mount_of(str(base), mounts).type == mount_of("/tmp", mounts).type != "unknown"


def test_tmpdir_is_used_when_it_will_do(base: Path) -> None:
    (base / "mine").mkdir(mode=0o700)
    root = make_node_root("1", env={"TMPDIR": str(base / "mine")}, role="head", fallbacks=[base])
    assert root.path.parent == base / "mine"
    root.remove()
    env = {"TMPDIR": str(base / "mine"), "RAY_TMPDIR": str(base)}
    root = make_node_root("1", env=env, role="head", fallbacks=[])
    assert root.path.parent == base
    root.remove()


@pytest.mark.parametrize(
    ("tmpdir", "warned"),
    [
        ("missing", "there is no such directory; using"),
        ("a-directory-with-a-rather-long-name", ""),  # as many sites have it: nothing to worry about
        ("file", "it is not a directory"),
        ("open", "without the sticky bit"),
    ],
)
def test_a_tmpdir_that_will_not_do_is_passed_over(base: Path, tmpdir: str, warned: str) -> None:
    (base / "a-directory-with-a-rather-long-name").mkdir()
    (base / "file").write_text("")
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    root = make_node_root("1", env={"TMPDIR": str(base / tmpdir)}, role="worker", fallbacks=[base])
    assert root.path.parent == base
    assert len(root.warnings) == bool(warned)
    assert all(warned in warning for warning in root.warnings)
    root.remove()


def test_a_sticky_directory_that_all_can_write_is_fine(base: Path, make: Callable[..., NodeRoot]) -> None:
    base.chmod(0o1777)
    assert make().path.parent == base


def test_a_link_is_followed_to_where_it_leads(base: Path, make: Callable[..., NodeRoot]) -> None:
    (base / "real").mkdir()
    (base / "link").symlink_to(base / "real")
    assert make(base=base / "link").path.parent == base / "real"


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "fuse.sshfs", "beegfs"])
def test_a_network_file_system_is_avoided_and_refused_when_given(base: Path, kind: str) -> None:
    mounts = f"{LOCAL}2 1 0:9 / {base}/net rw - {kind} srv:/x rw\n"
    # The directory is not even there: nothing may be asked of a server that could be dead.
    env = {"TMPDIR": f"{base}/net/tmp"}
    root = make_node_root("1", env=env, role="worker", fallbacks=[base], mounts=lambda: mounts)
    assert root.path.parent == base
    root.remove()
    with pytest.raises(UsageError, match=rf"below {base}/net/x: it is on a network file system \({kind}\)"):
        make_node_root("1", env={}, role="worker", base=base / "net" / "x", mounts=lambda: mounts)


def test_a_link_into_a_network_file_system_is_seen(base: Path) -> None:
    (base / "net").mkdir()
    (base / "link").symlink_to(base / "net")
    mounts = f"{LOCAL}2 1 0:9 / {base}/net rw - nfs4 srv:/x rw\n"
    with pytest.raises(UsageError, match="network file system"):
        make_node_root("1", env={}, role="worker", base=base / "link", mounts=lambda: mounts)


def test_an_unknown_file_system_is_taken_last_with_a_warning(base: Path) -> None:
    (base / "odd").mkdir()
    (base / "known").mkdir()
    mounts = f"{LOCAL}2 1 0:9 / {base}/odd rw - newfs none rw\n"

    def made(fallbacks: list[Path]) -> NodeRoot:
        return make_node_root("1", env={}, role="worker", fallbacks=fallbacks, mounts=lambda: mounts)

    root = made([base / "odd", base / "known"])
    assert (root.path.parent, root.warnings) == (base / "known", ())
    root.remove()
    root = made([base / "odd"])
    assert "type newfs, which may not be local" in root.warnings[0]
    root.remove()


def test_memory_as_the_last_place_is_told(base: Path) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    root = make_node_root("1", env={"TMPDIR": f"{base}/missing"}, role="worker", fallbacks=[Path("/dev/shm")])
    assert any("use the job's memory" in warning for warning in root.warnings)
    assert any("no such directory" in warning for warning in root.warnings)
    root.remove()


def test_when_nothing_will_do_each_place_is_named_with_its_reason(base: Path) -> None:
    (base / "file").write_text("")
    with pytest.raises(RayclusterError) as caught:
        make_node_root(
            "1", env={"TMPDIR": "relative"}, role="worker", fallbacks=[base / "missing", base / "file"]
        )
    assert "relative: it is not an absolute path" in str(caught.value)
    assert f"{base}/missing: there is no such directory; {base}/file: it is not a directory" in str(
        caught.value
    )
    assert "--temp-dir" in caught.value.hint


def test_a_given_place_that_is_too_long_says_how_long_it_may_be(base: Path) -> None:
    long = base / ("x" * 30)
    long.mkdir()
    with pytest.raises(UsageError, match=rf"is {len(str(long))} bytes long, and at most \d+ leave room"):
        make_node_root("1", env={}, role="head", base=long)


def test_bytes_count_not_letters(base: Path) -> None:
    wide = base / ("ü" * 7)
    wide.mkdir()
    with pytest.raises(UsageError, match="bytes long"):
        make_node_root("1", env={}, role="head", base=wide)


@needs_root
def test_a_place_of_somebody_else_is_refused(base: Path) -> None:
    (base / "bob").mkdir()
    os.chown(base / "bob", NOBODY, NOBODY)
    with pytest.raises(UsageError, match=r"belongs to another user \(uid 65534\)"):
        make_node_root("1", env={}, role="head", base=base / "bob")


@needs_root
def test_a_full_and_a_read_only_tmp_are_passed_over(base: Path) -> None:
    code = """
        import subprocess, sys
        from pathlib import Path
        from raycluster_cli.model.errors import UsageError
        from raycluster_cli.node.directory import make_node_root
        base = Path(sys.argv[1])
        for name, size in (("full", "32m"), ("files", "200m,nr_inodes=20"), ("ro", "200m"), ("ok", "200m")):
            (base / name).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", base / name], check=True)
        subprocess.run(["mount", "-o", "remount,ro", base / "ro"], check=True)
        for name in ("full", "files", "ro"):
            try: make_node_root("1", env={}, role="head", base=base / name)
            except UsageError as error: print(error)
        places = [base / name for name in ("full", "files", "ro", "ok")]
        root = make_node_root("1", env={}, role="head", fallbacks=places)
        print(root.path.parent.name, len(root.warnings), root.remove())
    """
    repository = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", textwrap.dedent(code), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=repository, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert "it is full (32 MiB free, 64 needed)" in lines[0]
    assert "more files possible" in lines[1]
    assert "it is read-only" in lines[2]
    assert lines[3] == "ok 3 []"


# -- removal -------------------------------------------------------------------------------------


def test_removal_does_not_follow_links_and_opens_closed_directories(base: Path) -> None:
    (base / "precious").mkdir()
    (base / "precious" / "file").write_text("stay")
    tree = base / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(base / "precious")
    (tree / "a" / "b" / "file").write_text("go")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "socket"))
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0o500)
    assert remove_tree(tree) == []
    assert not tree.exists()
    assert (base / "precious" / "file").read_text() == "stay"


def test_removal_of_a_link_or_of_nothing(base: Path) -> None:
    (base / "precious").mkdir()
    (base / "link").symlink_to(base / "precious")
    assert remove_tree(base / "link") != []
    assert (base / "precious").is_dir()
    assert remove_tree(base / "missing") == []


@needs_root
def test_removal_stays_on_its_file_system(base: Path) -> None:
    code = """
        import subprocess, sys
        from pathlib import Path
        from raycluster_cli.system.removal import remove_tree
        tree = Path(sys.argv[1]) / "tree"
        (tree / "mnt").mkdir(parents=True)
        (tree / "file").write_text("")
        subprocess.run(["mount", "-t", "tmpfs", "none", tree / "mnt"], check=True)
        (tree / "mnt" / "precious").write_text("")
        print(remove_tree(tree), (tree / "mnt" / "precious").exists(), (tree / "file").exists())
    """
    repository = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", textwrap.dedent(code), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=repository, check=False)
    expected = f"['{base}/tree/mnt: another file system is mounted there'] True False\n"
    assert done.stdout == expected, done.stderr


# -- after a crash -------------------------------------------------------------------------------


def test_a_root_in_use_is_left_alone(make: Callable[..., NodeRoot], base: Path) -> None:
    root = make()
    assert sweep(base) == []
    assert sweep_root(root.path) is None
    assert root.path.exists()


def test_a_stale_root_is_removed_and_told(make: Callable[..., NodeRoot], base: Path) -> None:
    root = make("77")
    root.close()
    swept = sweep(base)
    assert [(each.path, each.key, each.ended, each.left) for each in swept] == [(root.path, "77", (), ())]
    assert not root.path.exists()
    assert sweep(base) == []


def test_the_lock_lives_as_long_as_any_fork_of_its_holder(base: Path) -> None:
    """The kernel drops it with the last of them, however they die."""
    code = """
        import os, sys, time
        from pathlib import Path
        from raycluster_cli.node.directory import make_node_root
        root = make_node_root("1", env={}, role="head", base=Path(sys.argv[1]))
        if child := os.fork():
            print(root.path, child, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(base)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    path, text = parent.stdout.readline().split()
    child = int(text)
    parent.stdout.close()
    parent.kill()
    parent.wait()
    assert sweep(base) == []
    os.kill(child, 9)
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())
    assert [str(each.path) for each in sweep(base)] == [path]


def test_processes_of_a_stale_root_are_ended_and_onlookers_are_not(
    make: Callable[..., NodeRoot], base: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    root, other = make("stale"), make("alive")
    below = str(root.path)
    log = root.path / "logs" / "raylet.out"
    log.write_text("")
    (root.path / "bin").mkdir()
    (root.path / "bin" / "sleep").write_bytes(Path("/bin/sleep").read_bytes())
    (root.path / "bin" / "sleep").chmod(0o700)
    plain = {"PATH": os.environ["PATH"]}
    idle = ["sleep", "60"]
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]
    mark = {**plain, ENV_MARK: below}
    with log.open("a") as out:
        ours = {
            "journal": spawn(*idle, env=plain),
            "environment": spawn(*idle, env=mark),
            "stubborn": spawn(*stubborn, env=mark),
            "command line": spawn("sh", "-c", "sleep 60; :", "x", f"--temp-dir={below}", env=plain),
            "open file": spawn(*idle, stdout=out, env=plain),
            "program": spawn(f"{below}/bin/sleep", "60", env=plain),
            "working directory": spawn(*idle, cwd=below, start_new_session=True, env=plain),
        }
    others = {
        "reader": spawn("tail", "-f", str(log), stdout=subprocess.DEVNULL, env=plain),
        "neighbour": spawn(*idle, env={**plain, ENV_MARK: str(other.path)}),
        "namesake": spawn("sh", "-c", "sleep 60; :", "x", f"--temp-dir={below}0", env=plain),
        "stranger": spawn(*idle, env=plain),
    }
    root.journal("raylet", ours["journal"].pid)
    root.journal("reused", others["stranger"].pid, 12345)  # another process had this pid then
    root.journal("gone", 4_000_000)
    until(lambda: all(Path(f"/proc/{p.pid}/exe").resolve().name != "python" for p in ours.values()))
    for name in ("environment", "command line", "open file", "program", "working directory"):
        assert why_part_of(ours[name].pid, below) == name
    for name, process in others.items():
        assert why_part_of(process.pid, below) == "", name

    root.close()
    swept = sweep(base)
    assert [(each.path, each.left) for each in swept] == [(root.path, ())]
    assert {p.pid for p in ours.values()} <= {each.pid for each in swept[0].ended}
    assert all(process.wait(1.0) < 0 for process in ours.values())
    assert all(process.poll() is None for process in others.values())
    assert not root.path.exists() and other.path.exists()


def test_a_job_that_the_crashed_one_submitted_inherits_the_mark_and_is_not_taken_for_it(
    make: Callable[..., NodeRoot], base: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    root = make(env={"SLURM_JOB_ID": "10"})
    env = {"PATH": os.environ["PATH"], ENV_MARK: str(root.path)}
    same = spawn("sleep", "60", env={**env, "SLURM_JOB_ID": "10"})
    scrubbed = spawn("sleep", "60", env=env)
    submitted = spawn("sleep", "60", env={**env, "SLURM_JOB_ID": "11"})
    root.close()
    assert {each.pid for each in sweep(base)[0].ended} == {same.pid, scrubbed.pid}
    assert submitted.poll() is None


def test_the_keeper_itself_may_sweep_what_it_keeps(make: Callable[..., NodeRoot]) -> None:
    root = make(keeper=identify(os.getpid()))
    root.close()
    assert sweep_root(root.path) is not None


def test_a_person_with_a_terminal_may_sit_in_a_stale_root(make: Callable[..., NodeRoot], base: Path) -> None:
    root = make()
    leader, follower = os.openpty()
    code = """
        import fcntl, os, sys, termios, time
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.write(1, b"sitting")
        time.sleep(60)
    """
    shell = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=follower,
        stdout=subprocess.PIPE,
        cwd=root.path,
    )
    try:
        assert shell.stdout is not None and shell.stdout.read(7) == b"sitting"
        root.close()
        assert [each.ended for each in sweep(base)] == [()]
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.communicate()
        os.close(leader)
        os.close(follower)


def test_children_without_a_sign_of_their_own_are_found_by_descent(
    make: Callable[..., NodeRoot], base: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    root = make()
    pid_file = base / "pid"
    # The middle one ends on SIGTERM and leaves an orphan that does not, with no sign of the root on it.
    inner = f"trap '' TERM; echo $$ >{pid_file}; while :; do sleep 0.05; done"
    middle = spawn(
        *("sh", "-c", 'env -i PATH="$PATH" setsid sh -c "$0" & wait', inner),
        env={"PATH": os.environ["PATH"], ENV_MARK: str(root.path)},
    )
    until(lambda: pid_file.exists() and pid_file.read_text().strip())
    orphan = int(pid_file.read_text())
    assert why_part_of(orphan, str(root.path)) == ""
    assert {middle.pid, orphan} <= {each.pid for each in processes_of(root.path)}
    root.close()
    swept = sweep(base)
    assert orphan in {each.pid for each in swept[0].ended} and swept[0].left == ()
    assert middle.wait(1.0) in (-15, -9)


def test_the_sweeper_and_its_ancestors_are_spared(make: Callable[..., NodeRoot], base: Path) -> None:
    root = make()
    code = """
        import sys
        from pathlib import Path
        from raycluster_cli.node.sweep import sweep_stale
        print([len(each.ended) for each in sweep_stale({}, only_bases=[Path(sys.argv[1])])])
    """
    root.close()
    env = {**os.environ, ENV_MARK: str(root.path)}
    command = ["sh", "-c", '"$0" -c "$1" "$2"; exit', sys.executable, textwrap.dedent(code), str(base)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "[0]\n"), done.stderr


def test_a_zombie_counts_as_gone(make: Callable[..., NodeRoot], base: Path) -> None:
    root = make()
    child = subprocess.Popen(["true"])
    root.journal("raylet", child.pid)
    until(lambda: "Z" in Path(f"/proc/{child.pid}/stat").read_text())
    root.close()
    assert [(each.ended, each.left) for each in sweep(base)] == [((), ())]
    child.wait()


def test_a_journal_of_another_boot_is_not_believed(
    make: Callable[..., NodeRoot], base: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    root = make()
    child = spawn("sleep", "60", env={"PATH": os.environ["PATH"]})
    root.journal("raylet", child.pid)
    about = json.loads((root.path / "about.json").read_text())
    (root.path / "about.json").write_text(json.dumps({**about, "boot_id": "before the power failure"}))
    root.close()
    assert [each.ended for each in sweep(base)] == [()]
    assert child.poll() is None


def test_a_root_whose_files_were_tidied_away_is_still_in_use(
    make: Callable[..., NodeRoot], base: Path
) -> None:
    root = make()
    for path in root.path.rglob("*"):
        if path.is_file():
            path.unlink()
    os.utime(root.path, (1000, 1000))
    assert sweep(base) == []


def test_a_root_whose_keeper_lives_is_left_to_it(
    make: Callable[..., NodeRoot], base: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    keeper = spawn("sleep", "60")
    root = make(keeper=identify(keeper.pid))
    root.close()  # its supervisor was killed, and the keeper saves the logs
    assert sweep(base) == []
    keeper.kill()
    keeper.wait()
    assert [each.path for each in sweep(base)] == [root.path]


def test_a_root_that_is_just_being_made_is_left_alone(make: Callable[..., NodeRoot], base: Path) -> None:
    young = base / f"rc-{os.geteuid()}-0123abcd"
    young.mkdir(mode=0o700)
    assert sweep(base) == []
    os.utime(young, (time.time() - 100, time.time() - 100))
    assert [each.path for each in sweep(base)] == [young]


@pytest.mark.parametrize(
    "name", ["rc-{uid}-0123ABCD", "rc-{uid}-0123abcd0", "rc-{uid}-", "rc-99999-0123abcd", "x"]
)
def test_what_is_not_called_like_a_root_is_left_alone(base: Path, name: str) -> None:
    path = base / name.format(uid=os.geteuid())
    path.mkdir()
    os.utime(path, (1000, 1000))
    assert sweep(base) == []
    assert path.exists()


def test_a_link_called_like_a_root_is_left_alone(base: Path) -> None:
    (base / "precious").mkdir()
    (base / f"rc-{os.geteuid()}-0123abcd").symlink_to(base / "precious")
    assert sweep(base) == []
    assert (base / "precious").is_dir()


@needs_root
def test_a_root_of_another_user_is_left_alone(base: Path) -> None:
    path = base / f"rc-{os.geteuid()}-0123abcd"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    os.utime(path, (1000, 1000))
    assert sweep(base) == []
    assert path.exists()


def test_a_base_on_a_network_file_system_is_not_even_listed(
    make: Callable[..., NodeRoot], base: Path
) -> None:
    make().close()
    mounts = f"{LOCAL}2 1 0:9 / {base} rw - nfs4 srv:/x rw\n"
    assert sweep_stale({}, only_bases=[base], mounts=lambda: mounts) == []


def test_two_sweeps_at_once_do_the_work_once(make: Callable[..., NodeRoot], base: Path) -> None:
    for _ in range(5):
        make().close()
    code = """
        import sys
        from pathlib import Path
        from raycluster_cli.node.sweep import sweep_stale
        print("ready", flush=True); sys.stdin.readline()
        swept = sweep_stale({}, only_bases=[Path(sys.argv[1])])
        print(len(swept), [each.left for each in swept if each.left])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(base)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    said = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        said.append(child.communicate()[0].split(maxsplit=1))
    assert sum(int(number) for number, _ in said) == 5
    assert all(left.strip() == "[]" for _, left in said)
    assert list(base.iterdir()) == []
