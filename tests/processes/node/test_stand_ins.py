"""The port of the runtime environment agent goes from the supervisor to its stand-in, and on to the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raycluster_cli.model.status import Role
from raycluster_cli.node import stand_ins as stand_ins_module
from raycluster_cli.node.stand_ins import AgentStandIns
from raycluster_cli.rayproc.boot import gate_command
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.lazy_agent import wake
from raycluster_cli.rayproc.plan import NodePlan
from tests.processes.rayproc.test_lazy_agent import LAZY, SERVER, ask, free_port, waits_at_gate
from tests.waiting import wait_until

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def a_plan(directory: Path, port: int) -> NodePlan:
    return NodePlan(
        role=Role.WORKER,
        node_ip="127.0.0.1",
        gcs_address="127.0.0.1:1",
        ports={"runtime_env_agent": port},
        temp_dir=str(directory / "r"),
        num_cpus=1,
        memory_bytes=1,
        object_store_bytes=1,
    )


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def raylets_agent(tmp_path: Path, plan: NodePlan) -> Iterator[subprocess.Popen[bytes]]:
    """What a raylet starts as its runtime environment agent: a server, here."""
    (tmp_path / "server.py").write_text(SERVER)
    port = str(plan.ports["runtime_env_agent"])
    server = [sys.executable, "-u", str(tmp_path / "server.py"), "127.0.0.1", port]
    stand_in = [*LAZY, "port", "127.0.0.1", port, plan.runtime_env_socket, "--", *server]
    process = subprocess.Popen([*gate_command(plan.runtime_env_gate), *stand_in], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def test_the_first_connection_is_answered_by_the_agent(tmp_path: Path) -> None:
    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        await stand_ins.hold(plan)
        with raylets_agent(tmp_path, plan) as process:
            stand_ins.listen()
            wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
            for text in (b"POST /one HTTP/1.1\r\n\r\n", b"POST /two HTTP/1.1\r\n\r\n"):
                answer = await asyncio.to_thread(ask, plan.ports["runtime_env_agent"], text)
                assert answer.startswith(f"{process.pid} ") and answer.endswith(text.decode())
        stand_ins.close()

    asyncio.run(test())


def test_several_at_once(tmp_path: Path) -> None:
    """Those that come while the agent starts wait in the socket that it gets."""

    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        await stand_ins.hold(plan)
        stand_ins.listen()
        port = plan.ports["runtime_env_agent"]
        asked = [
            asyncio.ensure_future(asyncio.to_thread(ask, port, b"GET / HTTP/1.1\r\n\r\n")) for _ in range(4)
        ]
        with raylets_agent(tmp_path, plan) as process:  # later than those who ask
            assert {answer.split()[0] for answer in await asyncio.gather(*asked)} == {str(process.pid)}
        stand_ins.close()

    asyncio.run(test())


def test_a_stand_in_that_was_let_go_early_gets_the_port(tmp_path: Path) -> None:
    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        await stand_ins.hold(plan)
        stand_ins.listen()
        with raylets_agent(tmp_path, plan) as process:
            assert wake(plan.runtime_env_gate)
            while stand_ins._port is not None:
                await asyncio.sleep(0.01)
            answer = await asyncio.to_thread(ask, plan.ports["runtime_env_agent"], REQUEST)
            assert answer.startswith(f"{process.pid} ")
        stand_ins.close()

    asyncio.run(asyncio.wait_for(test(), 15))


def test_shells_of_an_earlier_raylet_end_when_the_gates_are_held_again(tmp_path: Path) -> None:
    """They would take what is written to let the next ones go, and the port."""

    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        await stand_ins.hold(plan)
        with raylets_agent(tmp_path, plan) as earlier:
            wait_until(lambda: waits_at_gate(earlier), timeout_s=30, what="the shell waits")
            earlier.send_signal(signal.SIGSTOP)  # it notices nothing of what happens to its gate meanwhile
            assert earlier.stdin is not None
            earlier.stdin.close()
            assert wake(plan.runtime_env_gate)
            await stand_ins.hold(plan)
            stand_ins.listen()
            with raylets_agent(tmp_path, plan) as process:
                wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
                earlier.send_signal(signal.SIGCONT)
                assert await asyncio.to_thread(earlier.wait, 30) == 0
                answer = await asyncio.to_thread(ask, plan.ports["runtime_env_agent"], REQUEST)
                assert answer.startswith(f"{process.pid} ")
        stand_ins.close()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_where_the_port_is_taken_the_stand_in_tries_itself(tmp_path: Path) -> None:
    async def test() -> None:
        taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        plan, stand_ins = a_plan(tmp_path, taken.sockets[0].getsockname()[1]), AgentStandIns()
        await stand_ins.hold(plan)
        with raylets_agent(tmp_path, plan) as process:
            stand_ins.listen()
            assert await asyncio.to_thread(process.wait, 30) == 1  # and says so in its log
        stand_ins.close()
        taken.close()

    asyncio.run(test())


def test_the_port_is_given_back(tmp_path: Path) -> None:
    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        for _ in range(2):
            await stand_ins.hold(plan)
            stand_ins.listen()
            stand_ins.stop_listening()
            (
                await asyncio.start_server(
                    lambda reader, writer: None, plan.node_ip, plan.ports["runtime_env_agent"]
                )
            ).close()
            stand_ins.listen()
            stand_ins.close()

    asyncio.run(test())


def test_a_start_that_is_given_up_keeps_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's file system does not answer, and then it does."""
    answers = threading.Event()
    monkeypatch.setattr(stand_ins_module, "FILES_S", 0.05)
    opened: list[int] = []
    original = stand_ins_module._open_gates

    def late(plan: NodePlan) -> list[int]:
        answers.wait(30)
        opened.extend(original(plan))
        return list(opened)

    monkeypatch.setattr(stand_ins_module, "_open_gates", late)

    async def test() -> None:
        with pytest.raises(StartFailure, match="does not answer"):
            await AgentStandIns().hold(a_plan(tmp_path, free_port()))
        answers.set()
        while not opened or any(is_open(fd) for fd in opened):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(test(), 30))


def test_the_stand_in_is_woken_where_the_fifo_was_removed(tmp_path: Path) -> None:
    """A program that cleans /tmp: the shell still has it open."""

    async def test() -> None:
        plan, stand_ins = a_plan(tmp_path, free_port()), AgentStandIns()
        await stand_ins.hold(plan)
        with raylets_agent(tmp_path, plan) as process:
            wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
            stand_ins.listen()
            os.unlink(plan.runtime_env_gate)
            answer = await asyncio.to_thread(ask, plan.ports["runtime_env_agent"], REQUEST)
            assert answer.startswith(f"{process.pid} ")
        stand_ins.close()

    asyncio.run(test())
