"""The driver and all of its processes, with real ones: who is told, who is waited for, who is killed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.supervisor.driver import (
    Driver,
    find_driver,
    find_driver_within,
    left_running_warning,
    uv_note,
)
from raycluster_cli.system.process import Child, Reaper, Signals
from raycluster_cli.system.proctree import (
    PR_SET_CHILD_SUBREAPER,
    become_subreaper,
    descendants,
    identify,
    is_running,
    send_signal,
)
from raycluster_cli.system.waiting import within
from tests.unit.loops import in_loop

DEADLINE_S = 30.0
TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1

#: Writes "ready" and then what it gets, a line each; with an argument it saves for so long after SIGTERM.
PROGRAM = """
import os, signal, sys, time
path, save_s = sys.argv[1], float(sys.argv[2])

def say(text):
    with open(path, "a") as file:
        file.write(text + "\\n")

def got(number, frame):
    say(signal.Signals(number).name)
    if number == signal.SIGTERM and save_s >= 0:
        time.sleep(save_s)
        say("saved")
        os._exit(3)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, got)
say("ready")
for _ in range(6000):  # a test that breaks off leaves it no longer than a minute
    time.sleep(0.01)
"""


class Scene:
    """A supervisor that is this test's process, its driver, and the files that the programs write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reaper = Reaper()
        self.signals = Signals(kept=True)
        (directory / "program.py").write_text(PROGRAM)

    def program(self, name: str, save_s: float = 0.0) -> str:
        """A shell command that runs the program, which writes to a file of this name."""
        return f"{sys.executable} -S {self.directory}/program.py {self.directory}/{name} {save_s}"

    def start(self, script: str, *, own_session: bool = True) -> Driver:
        self.reaper.attach(asyncio.get_running_loop())
        env = {"PATH": os.environ["PATH"]}
        return Driver.start(["sh", "-c", script], env, self.reaper, self.signals, own_session=own_session)

    def stranger(self, name: str) -> Child:
        """A process of the supervisor's that is not the driver's: as Ray's daemons are."""
        return self.reaper.spawn(self.program(name, -1).split(), name)

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    async def until(self, condition: Callable[[], object]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        await within(poll(), DEADLINE_S)

    async def ready(self, *names: str) -> None:
        await self.until(lambda: all("ready" in self.lines(name) for name in names))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    become_subreaper()
    before = {stat.ref for stat in descendants(os.getpid())}
    yield Scene(tmp_path)
    for stat in descendants(os.getpid()):  # of a test that failed
        if stat.ref not in before:
            send_signal(stat.ref, signal.SIGKILL)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.mark.parametrize("own_session", [True, False])
@in_loop
async def test_the_last_process_gets_the_grace(scene: Scene, own_session: bool) -> None:
    """The shell ends at once; the program that it ran saves its work."""
    driver = scene.start(f"{scene.program('train', 0.3)}; echo done", own_session=own_session)
    await scene.ready("train")
    assert await driver.stop(TERM, DEADLINE_S) == -TERM
    assert scene.lines("train") == ["ready", "SIGTERM", "saved"]
    assert not driver.processes()


@in_loop
async def test_what_does_not_end_within_the_grace_is_killed(scene: Scene) -> None:
    driver = scene.start(f"trap 'exit 5' TERM; {scene.program('train', -1)} & wait")
    await scene.ready("train")
    assert await driver.stop(TERM, 0.2) == 5
    assert scene.lines("train") == ["ready", "SIGTERM"]
    assert not driver.processes()


ORPHANS = {
    "in the session": "({program} &)",
    "in a session of its own": "(setsid {program} &)",
    "without its environment": "(env -i {program} &)",
}


@pytest.mark.parametrize("how", ORPHANS)
@in_loop
async def test_orphans_are_found_and_told_and_ray_is_not(scene: Scene, how: str) -> None:
    orphan = ORPHANS[how].format(program=scene.program("daemon", 0.1))
    driver = scene.start(f"{orphan}; {scene.program('train')}")
    raylet = scene.stranger("raylet")
    await scene.ready("train", "daemon", "raylet")
    assert len(driver.processes()) == 3  # the shell, train, daemon
    await driver.stop(TERM, DEADLINE_S)
    assert scene.lines("daemon") == ["ready", "SIGTERM", "saved"]
    assert scene.lines("raylet") == ["ready"]
    await raylet.stop(0.0)


@in_loop
async def test_an_orphan_seen_before_is_known_without_session_and_environment(scene: Scene) -> None:
    driver = scene.start(f"env -i setsid {scene.program('daemon')} & exec {scene.program('train')}")
    await scene.ready("daemon", "train")
    assert len(driver.processes()) == 2
    driver.child.send(signal.SIGKILL)
    await within(driver.child.exited, DEADLINE_S)
    await driver.stop(TERM, DEADLINE_S)
    assert scene.lines("daemon") == ["ready", "SIGTERM", "saved"]


@pytest.mark.parametrize("code", [0, 4])
@in_loop
async def test_programs_left_running_by_a_driver_that_ended_are_told(scene: Scene, code: int) -> None:
    """They are reported where the driver has not failed."""
    driver = scene.start(f"{scene.program('train', 0.1)} & exit {code}")
    await scene.ready("train")
    assert await within(driver.child.exited, DEADLINE_S) == code
    left: list[str] = []
    driver.on_left_running = left.extend
    assert await driver.stop_left_running(DEADLINE_S) == code
    assert scene.lines("train") == ["ready", "SIGTERM", "saved"]
    assert ["train" in line for line in left] == ([True] if code == 0 else [])


@in_loop
async def test_programs_left_running_that_the_same_signal_reached_are_not_told_again(scene: Scene) -> None:
    """Slurm signals the driver's processes before the supervisor: the driver's end may be seen first."""
    driver = scene.start(f"{scene.program('train', 0.3)}; exit 4")
    await scene.ready("train")
    for stat in driver.processes():
        send_signal(stat.ref, TERM)
    assert await within(driver.child.exited, DEADLINE_S) == -TERM
    told: list[str] = []
    driver.on_left_running = told.extend
    end = asyncio.ensure_future(driver.stop_left_running(DEADLINE_S))
    await asyncio.sleep(0)
    for relayed in (False, True):
        scene.signals.record(TERM, relayed=relayed)
    assert await end == -TERM
    assert not told, "no warning of programs that are ending"
    assert scene.lines("train") == ["ready", "SIGTERM", "saved"]


@in_loop
async def test_a_driver_that_left_nothing_is_not_waited_for(scene: Scene) -> None:
    driver = scene.start("exit 4")
    await within(driver.child.exited, DEADLINE_S)
    assert await driver.stop_left_running(DEADLINE_S) == 4
    assert await driver.stop(TERM, DEADLINE_S) == 4


@pytest.mark.parametrize(
    ("got", "own_session", "sent"),
    [
        ((), True, True),
        (("keeper",), True, True),
        (("supervisor",), True, True),
        (("keeper", "supervisor"), True, False),
        (("keeper", "supervisor"), False, False),
    ],
)
@in_loop
async def test_a_signal_is_delivered_once(
    scene: Scene, got: tuple[str, ...], own_session: bool, sent: bool
) -> None:
    """What keeper and supervisor both got has reached the driver without us."""
    driver = scene.start(f"exec {scene.program('train')}", own_session=own_session)
    await scene.ready("train")
    for who in got:
        scene.signals.record(INT, relayed=who == "keeper")
    driver.tell(INT)
    driver.tell(USR1)  # after it, to know that the other has had its time
    await scene.until(lambda: "SIGUSR1" in scene.lines("train"))
    if sent:
        await scene.until(lambda: "SIGINT" in scene.lines("train"))
    await driver.stop(TERM, DEADLINE_S)
    assert scene.lines("train").count("SIGINT") == sent


@in_loop
async def test_a_signal_that_reached_the_terminals_group_is_sent_to_the_others(scene: Scene) -> None:
    driver = scene.start(f"setsid {scene.program('far')} & exec {scene.program('near')}", own_session=False)
    await scene.ready("far", "near")
    for relayed in (True, False):
        scene.signals.record(INT, relayed=relayed)
    driver.tell(INT)
    await scene.until(lambda: "SIGINT" in scene.lines("far"))
    await driver.stop(TERM, DEADLINE_S)
    assert scene.lines("near") == ["ready", "SIGTERM", "saved"]


@in_loop
async def test_sigusr1_goes_to_those_that_handle_it(scene: Scene) -> None:
    """Not to the shell, which it would kill."""
    driver = scene.start(f"{scene.program('train')}; exit 6")
    await scene.ready("train")
    driver.tell(USR1)
    await scene.until(lambda: "SIGUSR1" in scene.lines("train"))
    for stat in driver.processes():
        if stat.pid != driver.child.pid:
            send_signal(stat.ref, TERM)
    assert await within(driver.child.exited, DEADLINE_S) == 6


@in_loop
async def test_sigusr1_that_nothing_handles_goes_to_the_driver(scene: Scene) -> None:
    driver = scene.start("exec sleep 600")
    await scene.until(lambda: driver.processes()[0].name == "sleep")
    driver.tell(USR1)
    assert await within(driver.child.exited, DEADLINE_S) == -USR1


@in_loop
async def test_a_signal_from_before_the_driver_did_not_reach_it(scene: Scene) -> None:
    for relayed in (True, False):
        scene.signals.record(TERM, relayed=relayed)
    driver = scene.start(f"exec {scene.program('train')}")
    await scene.ready("train")
    assert await driver.stop(TERM, DEADLINE_S) == 3


@in_loop
async def test_kill_cuts_a_stop_short(scene: Scene) -> None:
    driver = scene.start(f"{scene.program('train', -1)} & exec {scene.program('other', -1)}")
    await scene.ready("train", "other")
    stop = asyncio.ensure_future(driver.stop(TERM, 1000.0))
    await scene.until(lambda: "SIGTERM" in scene.lines("train") and "SIGTERM" in scene.lines("other"))
    assert await driver.kill() == -signal.SIGKILL
    assert await within(stop, DEADLINE_S) == -signal.SIGKILL
    assert not driver.processes()


@in_loop
async def test_a_stop_whose_caller_was_cancelled_goes_on(scene: Scene) -> None:
    driver = scene.start(f"exec {scene.program('train', 0.2)}")
    await scene.ready("train")
    caller = asyncio.ensure_future(driver.stop(TERM, DEADLINE_S))
    await scene.until(lambda: "SIGTERM" in scene.lines("train"))
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    assert await driver.stop(TERM, DEADLINE_S) == 3
    assert scene.lines("train") == ["ready", "SIGTERM", "saved"]


@in_loop
async def test_a_script_that_signals_its_group_hits_only_itself(scene: Scene) -> None:
    driver = scene.start("kill 0; sleep 60")
    assert await within(driver.child.exited, DEADLINE_S) == -TERM


@pytest.mark.parametrize(
    ("program", "message", "hint"),
    [
        ("no-such-program", "was not found in PATH", "python train.py"),
        ("./nothing", "does not exist", "a path that exists"),
        ("{directory}/train.py", "is not executable", "-- python"),
        ("{directory}", "is a directory", "-- python train.py"),
        ("sh train.sh", "one word, with a space in it", "-- sh train.sh"),
        (" ", "was not found in PATH", "python train.py"),
        ("{directory}/old.sh", "needs '/no/such/sh', which does not exist", "first line of the script"),
        ("{directory}/dos.sh", r"needs '/bin/sh\\r', which does not exist", "sed -i 's/\\r$//' /"),
    ],
)
def test_a_program_that_cannot_be_run(tmp_path: Path, program: str, message: str, hint: str) -> None:
    (tmp_path / "train.py").write_text("")
    for name, first in (("old.sh", "#! /no/such/sh -e"), ("dos.sh", "#!/bin/sh\r")):
        (tmp_path / name).write_text(f"{first}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(UsageError, match=message) as caught:
        find_driver([program.format(directory=tmp_path)], {"PATH": "/usr/bin:/bin"})
    assert hint in caught.value.hint


@pytest.mark.parametrize("env", [{}, {"PATH": "/bin", "SLURM_EXPORT_ENV": "NONE"}])
def test_a_step_without_the_scripts_environment_is_told_how_to_get_it(env: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="did not get the batch script's environment") as caught:
        find_driver(["no-such-program"], env)
    assert "srun --export=ALL" in caught.value.hint


@pytest.mark.parametrize(
    ("argv", "env", "told"),
    [
        (["/opt/bin/uv", "run", "--offline", "train.py"], {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, True),
        (["uv", "run", "train.py"], {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}, False),
        (["uv", "pip", "list"], {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, False),
        (["python", "run"], {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, False),
    ],
)
def test_users_of_uv_run_are_told_where_their_tasks_run(
    argv: list[str], env: dict[str, str], told: bool
) -> None:
    assert bool(uv_note(argv, env)) == told


def test_what_is_said_of_programs_left_running() -> None:
    assert left_running_warning(["sleep 300"]) == (
        "the driver's command has ended, but a program that it started still ran: sleep 300. It is ended "
        "with the cluster. For the cluster to wait for it, start it in the foreground, or end the "
        "script with `wait`."
    )
    assert left_running_warning(["a", "b", "c"]) == (
        "the driver's command has ended, but 3 programs that it started still ran: a and 2 more. They are "
        "ended with the cluster. For the cluster to wait for them, start them in the foreground, or end "
        "the script with `wait`."
    )


@in_loop
async def test_a_driver_on_a_file_system_that_does_not_respond() -> None:
    released = threading.Event()

    def hangs(argv: Sequence[str], env: Mapping[str, str]) -> str:
        return str(released.wait(60))

    try:
        with pytest.raises(UsageError, match=r"'train' was not found within 0.01 s: a file system does not"):
            await find_driver_within(["train"], {}, timeout_s=0.01, find=hangs)
    finally:
        released.set()
    assert await find_driver_within(["sh", "-c", "true"], {"PATH": "/bin"}) == "/bin/sh"


#: Runs a driver as the supervisor does, in the terminal that it was given.
IN_TERMINAL = """
import asyncio, os, sys
from raycluster_cli.supervisor.driver import Driver
from raycluster_cli.system.process import Reaper, Signals

async def main():
    reaper = Reaper()
    reaper.attach(asyncio.get_running_loop())
    check = (
        "import os; print('GROUP', os.tcgetpgrp(0) == os.getpgrp() == os.getpgid(os.getppid()));"
        "print('READ', input())"
    )
    driver = Driver.start([sys.executable, "-S", "-c", check], dict(os.environ), reaper, Signals())
    print("CODE", await driver.child.exited, flush=True)

asyncio.run(main())
"""


def test_in_a_terminal_the_driver_reads_what_is_typed() -> None:
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", IN_TERMINAL])
    ref = identify(pid)
    os.write(terminal, b"hello\n")
    text = b""
    try:
        while chunk := os.read(terminal, 4096):
            text += chunk
    except OSError:
        pass  # the terminal's last process has ended
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"GROUP True" in text, text
    assert b"READ hello" in text
    assert b"CODE 0" in text
    assert ref is None or not is_running(ref)
