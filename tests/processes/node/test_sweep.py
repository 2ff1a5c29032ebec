"""After a crash: real directories, locks and processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.node.directory import ENV_MARK, NodeRoot
from raycluster_cli.node.sweep import Swept, processes_of, sweep_root, sweep_stale, why_part_of
from raycluster_cli.system.proctree import identify, read_stat
from tests.unit.node.roots import LOCAL, NOBODY, needs_root


def sweep(base: Path) -> list[Swept]:
    return sweep_stale({}, only_bases=[base], term_grace_s=0.3)


def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state(pid: int) -> str:
    stat = read_stat(pid)
    return stat.state if stat is not None else ""


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
    keeper.send_signal(signal.SIGSTOP)
    until(lambda: state(keeper.pid) == "T")
    assert sweep(base) == []
    until(lambda: state(keeper.pid) != "T")  # nobody else would continue it
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
