"""A node from its start to its end, with a stand-in companion that speaks the real protocol.  No Ray."""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import shutil
import signal
import stat
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import IMPORTED, RAYLET, Role
from raycluster_cli.node.ray_node import RayNode
from raycluster_cli.node.setup import NodeSetup
from raycluster_cli.node.start_spec import StartSpec
from raycluster_cli.rayproc.boot import gate_command
from raycluster_cli.rayproc.client import read_client
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.listed_node import ListedNode
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.system.process import Child, Reaper
from raycluster_cli.system.proctree import PR_SET_CHILD_SUBREAPER, become_subreaper, descendants
from raycluster_cli.system.report import Report

#: In place of raycluster_cli.rayproc.companion.  Daemons are spawned by a process that ends, as Ray's are.
COMPANION = """
import json, os, subprocess, sys
def say(**event): print(json.dumps(event), flush=True)
def daemon(*command):
    read, write = os.pipe()
    if os.fork() == 0:
        log = os.open(os.environ["GCS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        child = subprocess.Popen(command or ["sleep", "60"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not open(f"/proc/{child.pid}/cmdline").read(): pass  # Popen returns before it has its arguments
        os.write(write, str(child.pid).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read, 100))
GCS = '''
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True: server.accept()
'''
DASHBOARD = '''
import os, socket, struct, sys
server = socket.socket()
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
server.setblocking(True)
while True:
    connection, _ = server.accept()
    try:
        if b"HTTP/1.0" in connection.recv(1000) and os.environ.get("RESETS"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            continue
        connection.sendall(b"HTTP/1.0 200 from %d\\\\r\\\\n\\\\r\\\\n" % os.getpid())
    except ConnectionError:
        pass
    connection.close()
'''
say(event="ready", ray_version="9.9.0", python_version="3.10.1", import_s=0.1, imported=5.0, pid=os.getpid())
for line in sys.stdin:
    c = json.loads(line)
    id, do = c.get("id"), c["do"]
    if do == "start":
        plan = c["plan"]
        if plan["identity"] == "wrong":
            say(event="failed", kind="wrong cluster", message="not ours", id=id)
            continue
        gate = plan["temp_dir"] + "/agent.gate"
        agent = ["/bin/sh", "-c", os.environ["GATE"], gate, "touch", os.environ["MARK"]]
        pids = {"raylet": daemon("/bin/sh", "-c", '"$@" & exec sleep 60', "raylet", *agent)}
        if plan["role"] == "head":
            host, port = plan["gcs_address"].rsplit(":", 1)
            pids["gcs_server"] = daemon(sys.executable, "-c", GCS, host, port)
        logs = plan["temp_dir"] + "/session/logs"
        os.makedirs(logs, exist_ok=True)
        daemons = [{"name": n, "pid": p} for n, p in pids.items()]
        say(event="started", how="node", processes=daemons, session="s",
            session_dir=plan["temp_dir"] + "/session", node_id="n", cluster_id="c",
            gcs_address=plan["gcs_address"], phases={"raylet spawned": 6.0}, agents_wait=True, id=id)
    elif do == "start_extra":
        if os.environ.get("NO_EXTRA"):
            say(event="failed", kind="ray", message="no module", id=id)
        elif c["what"] == "dashboard":
            script = c["plan"]["temp_dir"] + "/dashboard.py"
            open(script, "w").write(DASHBOARD)
            port = str(c["plan"]["ports"]["dashboard"])
            say(event="extra", command=[sys.executable, "-u", script, port], id=id)
        else:
            say(event="extra", processes=[{"name": c["what"], "pid": daemon()}], id=id)
    elif do == "watch":
        say(event="nodes", changed=[{"node_id": "n", "alive": True}], total=1, id=id)
    elif do == "drain":
        say(event="drained", results={n: {"accepted": True, "refusal": ""} for n in c["nodes"]}, id=id)
    elif do == "usage":
        say(event="watcher_ended", code=-9)
"""

SETTINGS = Settings(num_cpus=1, memory="1G", object_store_memory="100M", log_monitor=False)


class Scene:
    """One node, what it reported, and the deaths that it told of."""

    def __init__(self, base: Path, settings: Settings, role: Role, env: Mapping[str, str]) -> None:
        self.base = base
        self.reaper = Reaper()
        self.reaper.attach(asyncio.get_running_loop())
        self.out = io.StringIO()
        self.died: list[tuple[str, int]] = []
        self.failures: list[tuple[str, str]] = []
        self.agent_started = False
        """Whether the raylet's agent ever started; known in the end."""
        report = Report(stream=self.out, verbose=True)
        setup = NodeSetup(
            role=role,
            settings=settings,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(base),
                "TMPDIR": str(base / "t"),
                "GCS_LOG": str(base / "gcs.log"),
                "GATE": gate_command("")[2],
                "MARK": str(base / "agent started"),
                "RAYCLUSTER_TOKEN": "secret",
                **env,
            },
            allocation=None,
            host="n1",
            node_ip="127.0.0.1",
            key=f"test-{os.getpid()}",
            report=report,
        )
        self.node = RayNode(setup, reaper=self.reaper, report=report, on_death=self._died)
        self.node.on_failure = lambda what, error: self.failures.append((what, repr(error)))
        self.node.token = "secret"

    def _died(self, child: Child, code: int) -> None:
        self.died.append((child.name, code))

    async def begin(self) -> None:
        await self.node.prepare()
        self.node.begin_import()
        await self.node.measure(route_to=None)
        self.node.claim_ports({})

    async def start(self, **more: Any) -> None:
        if self.node.role is Role.WORKER:
            more.setdefault("gcs_address", "127.0.0.1:20000")
        await self.node.start(30, StartSpec("ours", **more))


@asynccontextmanager
async def scene(role: Role = Role.HEAD, settings: Settings = SETTINGS, **env: str) -> AsyncIterator[Scene]:
    """A node that is begun; in the end it leaves no process and no directory."""
    base = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))
    package = base / "raycluster_cli" / "rayproc"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "companion.py").write_text(textwrap.dedent(COMPANION))
    (base / "t").mkdir()
    become_subreaper()
    one = Scene(base, settings, role, env)
    try:
        await one.begin()
        yield one
    finally:
        await one.node.stop(asyncio.Event())
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert descendants(os.getpid()) == []
        assert os.listdir(base / "t") == []
        one.agent_started = (base / "agent started").exists()
        shutil.rmtree(base)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_head_from_start_to_end() -> None:
    async def test() -> None:
        async with scene() as one:
            node = one.node
            assert await node.version(30) == "9.9.0"
            await one.start(expected_nodes=3)
            assert set(node.children) == {"raylet", "gcs_server"}
            assert node.started is not None and node.started.node_id == "n"
            assert node.steps == {IMPORTED: 5.0, RAYLET: 6.0}
            journal = (node.root.path / "processes").read_text()
            for name in ("companion", "raylet", "gcs_server"):
                assert f" {name}\n" in journal
            assert stat.S_IMODE((node.root.path / "client.json").stat().st_mode) == 0o600
            assert "secret" not in (node.root.path / "client.json").read_text()
            client = read_client(node.root.path, {"HOME": "/h"}, "n1")
            assert client["RAY_ADDRESS"] == f"127.0.0.1:{node.gcs_port}"
            driver = node.client_environment()
            assert "secret" not in driver.values()
            assert Path(driver["RAY_AUTH_TOKEN_PATH"]) == node.root.token_path
            assert set(node.client_variables()) >= {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
            assert "PATH" not in node.client_variables()
            assert node.log_of("raylet") == f"{node.started.session_dir}/logs/raylet.err"
        assert one.died == [] and one.failures == []
        assert not one.agent_started  # not even for the raylet's last moments
        assert "warning" not in one.out.getvalue()

    run(test)


def test_a_worker_drops_its_companion_once_ray_runs() -> None:
    async def test() -> None:
        async with scene(Role.WORKER) as one:
            assert one.node.companion is not None
            companion = one.node.companion.child
            await one.start()
            assert one.node.companion is None
            assert companion.exited.done()
            assert one.node.plan.gcs_address == "127.0.0.1:20000"
            await one.node.drain(["n"], "over", 1.0)  # not a worker's to do: nothing happens

    run(test)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_end_of_ray_is_reported(name: str) -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            one.node.children[name].send(signal.SIGKILL)
            await until(lambda: one.died)
            assert one.died == [(name, -signal.SIGKILL)]

    run(test)


def test_a_failed_start_leaves_nothing_and_another_one_works() -> None:
    async def test() -> None:
        async with scene() as one:
            with pytest.raises(StartFailure, match="not ours"):
                await one.node.start(30, StartSpec("wrong"))
            assert one.node.companion is None
            assert one.node.children == {}
            await one.start()
            assert "raylet" in one.node.children

    run(test)


def test_after_a_reset_ray_is_started_with_another_raylets_port() -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            ports, raylet = one.node.port_map(), one.node.children["raylet"]
            await one.node.reset()
            assert not raylet.running
            assert one.node.started is None and one.node.children == {}
            assert not (one.node.root.path / "client.json").exists()
            await one.start()
            assert one.node.port_map()["node_manager"] != ports["node_manager"]
            assert one.node.port_map()["gcs"] == ports["gcs"]
            assert one.died == []
            one.node.children["raylet"].send(signal.SIGKILL)
            await until(lambda: one.died)

    run(test)


def test_where_a_template_fails_the_next_raylet_has_its_gates_for_itself() -> None:
    async def test() -> None:
        async with scene(Role.WORKER) as one:
            left: list[Child] = []

            async def fail(template: object, plan: NodePlan, timeout_s: float) -> None:
                left.append(one.reaper.spawn([*gate_command(plan.runtime_env_gate), "true"], "shell"))
                while "3" in (fds := os.listdir(f"/proc/{left[0].pid}/fd")) or "4" not in fds:
                    await asyncio.sleep(0.01)

            one.node.templates.start = fail  # type: ignore[method-assign]
            await one.node.start(30, StartSpec("ours", gcs_address="127.0.0.1:20000"), object())  # type: ignore[arg-type]
            assert await left[0].exited == 0

    run(test)


def test_the_gcs_alone_is_started_again_at_its_port() -> None:
    async def test() -> None:
        async with scene(settings=replace(SETTINGS, head_recovery=True)) as one:
            await one.start()
            first = one.node.children["gcs_server"]
            command = Path(f"/proc/{first.pid}/cmdline").read_bytes()  # noqa: ASYNC240
            await first.stop(0)
            await until(lambda: one.died)
            await one.node.restart_gcs()
            again = one.node.children["gcs_server"]
            assert again.pid != first.pid
            assert Path(f"/proc/{again.pid}/cmdline").read_bytes() == command  # noqa: ASYNC240
            again.send(signal.SIGKILL)
            await until(lambda: len(one.died) == 2)

    run(test)


def test_a_gcs_that_does_not_start_again_says_where_its_log_is() -> None:
    async def test() -> None:
        async with scene(settings=replace(SETTINGS, head_recovery=True)) as one:
            await one.start()
            launch = one.node._gcs_launch
            assert launch is not None
            one.node._gcs_launch = launch.but(argv=("/bin/false",))
            await one.node.children["gcs_server"].stop(0)
            with pytest.raises(RayclusterError, match="did not start again") as caught:
                await one.node.restart_gcs()
            assert str(one.base / "gcs.log") in caught.value.hint

    run(test)


def test_nodes_are_watched_until_the_watcher_ends() -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            seen: list[str] = []

            def changed(nodes: Sequence[ListedNode]) -> None:
                seen.extend(node.node_id for node in nodes)

            over = await one.node.watch(changed, 3)
            assert seen == ["n"]
            await one.node.drain(["n"], "over", 30.0)
            assert seen == ["n", "n"]  # the drain watches more closely
            assert not over.done()
            assert one.node.companion is not None
            with pytest.raises(StartFailure):
                await one.node.companion.usage(30)  # the stand-in's watcher ends
            assert over.done()
            again = await one.node.watch(changed, 3)
            assert len(seen) == 3  # the first listener is gone
            one.node.companion.kill()
            await again

    run(test)


def test_the_dashboard_and_the_log_monitor_start_while_the_driver_runs() -> None:
    async def test() -> None:
        async with scene(settings=replace(SETTINGS, log_monitor=True, dashboard=True)) as one:
            addresses: list[str] = []
            one.node.dashboard.on_up = addresses.append
            await one.start()
            assert "dashboard" not in one.node.children
            one.node.start_extras()
            one.node.start_extras()  # once only
            await until(lambda: "log_monitor" in one.node.children)
            await until(lambda: addresses)
            assert addresses == [f"127.0.0.1:{one.node.port_map()['dashboard']}"]
            one.node.children["log_monitor"].send(signal.SIGKILL)
            await until(lambda: "the cluster continues" in one.out.getvalue())
            assert one.died == []

    run(test)


async def ask_dashboard(one: Scene) -> str:
    """The first line of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", one.node.port_map()["dashboard"])
    writer.write(b"GET /api/version HTTP/1.1\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return line.decode().strip()


def test_the_dashboard_starts_at_the_first_connection_and_answers_it() -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            one.node.start_extras()
            assert "dashboard" not in one.node.children
            answers = await asyncio.gather(ask_dashboard(one), ask_dashboard(one))
            pid = one.node.children["dashboard"].pid
            assert answers == [f"HTTP/1.0 200 from {pid}"] * 2
            await until(lambda: "dashboard: http://127.0.0.1:" in one.out.getvalue())
            assert await ask_dashboard(one) == f"HTTP/1.0 200 from {pid}"

    run(test)


def test_where_the_dashboard_cannot_start_the_answer_says_why() -> None:
    async def test() -> None:
        async with scene(NO_EXTRA="1") as one:
            await one.start()
            for _ in range(2):
                assert await ask_dashboard(one) == "HTTP/1.1 503 the dashboard did not start on n1: no module"
            assert one.out.getvalue().count("the dashboard did not start on n1: no module") == 1
            assert "dashboard" not in one.node.children

    run(test)


def test_a_dashboard_that_ends_soon_is_not_started_again() -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            await ask_dashboard(one)
            one.node.children["dashboard"].send(signal.SIGKILL)
            await one.node.children["dashboard"].exited
            answer = await ask_dashboard(one)
            assert answer.startswith("HTTP/1.1 503 the dashboard on n1 was killed by SIGKILL"), answer
            assert one.died == []

    run(test)


def test_a_dashboard_that_runs_keeps_its_port_whatever_it_answers_first() -> None:
    async def test() -> None:
        async with scene(RESETS="1") as one:
            await one.start()
            assert "200" in await ask_dashboard(one)
            await until(lambda: "the dashboard on n1 closes connections" in one.out.getvalue())
            assert "200" in await ask_dashboard(one)
            assert one.failures == []

    run(test)


def test_other_users_of_the_node_do_not_start_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            with monkeypatch.context() as changed:
                changed.setattr("raycluster_cli.node.dashboard.connected_users", lambda port: {4711})
                answer = await ask_dashboard(one)
                assert answer.startswith("HTTP/1.1 403 "), answer
            assert "dashboard" not in one.node.children
            assert "200" in await ask_dashboard(one)

    run(test)


def test_a_raylet_that_is_started_again_finds_the_port_of_the_dashboard_held() -> None:
    async def test() -> None:
        async with scene() as one:
            await one.start()
            await ask_dashboard(one)
            await one.node.reset()
            one.node.begin_import()
            await one.node.start(30, StartSpec("ours"))
            assert "dashboard" not in one.node.children
            assert "200" in await ask_dashboard(one)

    run(test)


def test_a_log_monitor_that_does_not_start_is_reported() -> None:
    async def test() -> None:
        async with scene(settings=replace(SETTINGS, log_monitor=True), NO_EXTRA="1") as one:
            await one.start()
            one.node.start_extras()
            await until(lambda: "the log monitor did not start on n1: no module" in one.out.getvalue())

    run(test)


def test_an_exception_in_the_background_is_not_lost() -> None:
    def fail(address: str) -> None:
        raise ValueError("a bug")

    async def test() -> None:
        async with scene(settings=replace(SETTINGS, dashboard=True)) as one:
            one.node.dashboard.on_up = fail
            await one.start()
            one.node.start_extras()
            await until(lambda: one.failures)
            assert one.failures == [("starting the dashboard", "ValueError('a bug')")]

    run(test)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("x: Drain raylet RPC .. Drain reason message: over\n", "over"), ("Killed\n", None), (None, None)],
)
def test_why_the_head_drained_us(text: str | None, reason: str | None) -> None:
    async def test() -> None:
        async with scene() as one:
            assert await one.node.drain_message() is None
            await one.start()
            if text is not None:
                (one.node.root.ray_dir / "session/logs/raylet.out").write_text(text)
            assert await one.node.drain_message() == reason

    run(test)
