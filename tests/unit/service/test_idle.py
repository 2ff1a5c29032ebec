"""When a server counts as idle."""

from __future__ import annotations

import asyncio
import socket

import pytest

from raycluster_cli.service.clients import Clients
from raycluster_cli.service.idle import IdleWatch
from raycluster_cli.service.probe import NoAnswer, Probe
from raycluster_cli.service.work import Work, work_of


class Metrics(Probe):
    """A server whose metrics are made up; None: it has none."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1)
        self.running: int | None = None
        self.done = 0
        self.asked = 0

    async def get(self, path: str, *, body: bool = True) -> tuple[str, bytes]:
        self.asked += 1
        if self.running is None:
            return "404 Not Found", b""
        running = f'vllm:num_requests_running{{model="m"}} {self.running}.0'
        return "200 OK", f"{running}\nvllm:request_success_total {self.done}.0\n".encode()


class Played:
    """A watch in virtual time."""

    def __init__(self, idle_s: float = 20.0) -> None:
        self.now = 100.0
        self.clients = 0
        self.metrics = Metrics()
        self.watch = IdleWatch(self.metrics, idle_s, clients=lambda: self.clients, clock=lambda: self.now)

    def run(self, seconds: float) -> float | None:
        """Look twice a second for so long; when it was over, after how many seconds."""

        async def work() -> float | None:
            for number in range(int(seconds * 2)):
                if await self.watch.over_s() is not None:
                    return number / 2
                self.now += 0.5
            return None

        return asyncio.run(work())


def test_it_is_over_after_the_time_without_clients() -> None:
    assert Played().run(60) == 20.0


def test_a_connected_client_is_work() -> None:
    played = Played()
    played.clients = 1
    assert played.run(60) is None
    played.clients = 0
    assert played.run(60) == 19.5  # since the last look that found one


def test_requests_that_run_or_wait_are_work_without_a_connection() -> None:
    played = Played()
    played.metrics.running = 1
    assert played.run(60) is None
    played.metrics.running = 0
    assert played.run(60) is not None


def test_a_short_request_between_two_looks_is_work() -> None:
    played = Played()
    played.metrics.running = 0
    assert played.run(15) is None
    played.metrics.done += 1
    assert played.run(15) is None


def test_a_request_in_the_last_moment_counts() -> None:
    played = Played()
    played.metrics.running = 0
    assert played.run(19.5) is None
    played.metrics.done += 1
    assert played.run(2) is None


def test_a_server_without_metrics_is_asked_once() -> None:
    played = Played()
    played.run(60)
    assert played.metrics.asked == 1


def test_metrics_that_are_not_answered_are_asked_again() -> None:
    class Busy(Metrics):
        async def get(self, path: str, *, body: bool = True) -> tuple[str, bytes]:
            self.asked += 1
            raise NoAnswer("GET /metrics is not answered within 10 s")

    played = Played()
    played.watch = IdleWatch(Busy(), 20.0, clients=lambda: 0, clock=lambda: played.now)
    assert played.run(60) == 20.0


def test_it_is_looked_at_more_often_when_the_time_is_short() -> None:
    assert Played(2.0).watch.rest_s == 0.25
    assert Played(3600.0).watch.rest_s == 0.5


def test_sglangs_metrics_are_known_too() -> None:
    lines = (
        'sglang:num_running_reqs{m="a"} 1.0',
        "sglang:num_queue_reqs 2.0",
        "sglang:prompt_tokens_total 5",
    )
    assert work_of("\n".join(lines)) == Work(3.0, 5.0)


def test_connections_as_the_kernel_lists_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert Clients(port, list).count() == 0
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert Clients(port, list).count() == 1
            own = client.getsockname()[1]
            assert Clients(port, lambda: [own]).count() == 0


@pytest.mark.parametrize("closes_first", ["server", "client"])
def test_a_connection_between_two_looks_is_work(closes_first: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = Clients(server.getsockname()[1], list)
        assert clients.count() == 0
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        first, second = (accepted, client) if closes_first == "server" else (client, accepted)
        first.close()
        second.close()
        assert clients.count() == 1
        assert clients.count() == 0


def test_health_checks_are_no_clients() -> None:
    """Also those that are over for a while: the kernel keeps them for a minute."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def work() -> list[int]:
        server = await asyncio.start_server(answer, "127.0.0.1")
        probe = Probe("127.0.0.1", server.sockets[0].getsockname()[1])
        clients = Clients(probe.port, lambda: probe.own_ports)
        found = []
        for _ in range(3):
            for _ in range(50):
                await probe.check()
            await asyncio.sleep(0.1)
            found.append(clients.count())
        server.close()
        return found

    assert asyncio.run(work()) == [0, 0, 0]


#: What `vllm serve` 0.32.0 (for CPUs) answers after one request for 8 tokens; the lines about requests.
VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="tiny"} 0.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="deferred"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 5.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 8.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 0.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 1.0
"""


def test_the_metrics_of_vllm() -> None:
    assert work_of(VLLM) == Work(1.0, 14.0)
