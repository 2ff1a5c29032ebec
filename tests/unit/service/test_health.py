"""Whether a server is well: its health check, and Ray Serve's own status."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.status import EndDetail
from raycluster_cli.service.health import Health, NeverReady
from raycluster_cli.service.probe import NoAnswer, Probe
from raycluster_cli.service.serve import ServeReports, judge, shortened

#: The messages are those of Ray Serve 2.60.
TRACEBACK = "Error:\n\x1b[36mray::ServeReplica:w:Model.initialize()\x1b[39m\n  File \"a.py\"\nKeyError: 'm'"
FAILED_TEXT = "The deployment failed to start 3 times in a row. This may be due to a problem. " + TRACEBACK


def app(status: str, message: str = "", *deployments: tuple[str, str]) -> dict[str, Any]:
    parts = [{"name": "Model", "status": state, "message": text} for state, text in deployments]
    return {"name": "w", "status": status, "message": message, "deployments": parts}


RUNNING = app("RUNNING", "", ("HEALTHY", ""))
DEPLOYING = app("DEPLOYING", "", ("UPDATING", ""))
FAILED = app("DEPLOY_FAILED", "Failed to update the deployments ['Model'].", ("DEPLOY_FAILED", FAILED_TEXT))
UNHEALTHY = app("UNHEALTHY", "The deployments ['Model'] are UNHEALTHY.", ("UNHEALTHY", "A replica died."))

FAILED_WHY = (
    "Ray Serve's application w is DEPLOY_FAILED: deployment Model: "
    "The deployment failed to start 3 times in a row: KeyError: 'm'"
)


@pytest.mark.parametrize(
    ("applications", "ready", "why", "failed"),
    [
        ([RUNNING], False, "", False),
        ([RUNNING], True, "", False),
        ([], False, "Ray Serve has no application yet", False),
        ([], True, "", False),  # the last one was deleted
        ([RUNNING, DEPLOYING], False, "Ray Serve's application w is DEPLOYING", False),
        ([RUNNING, DEPLOYING], True, "", False),  # a new version
        ([RUNNING, FAILED], False, FAILED_WHY, True),
        ([RUNNING, FAILED], True, FAILED_WHY, True),
        ([DEPLOYING, UNHEALTHY], False, "UNHEALTHY: deployment Model: A replica died", False),
        ([UNHEALTHY], True, "UNHEALTHY: deployment Model: A replica died", False),
        ([app("DELETING")], False, "Ray Serve's application w is DELETING", False),
        ([app("NOT_STARTED")], False, "Ray Serve's application w is NOT_STARTED", False),
        ([app("DEPLOY_FAILED", "no module named x")], False, "DEPLOY_FAILED: no module named x", True),
        # A state that a later Serve may have.
        ([app("RESTING")], False, "", False),
    ],
)
def test_what_serves_states_mean(applications: list[Any], ready: bool, why: str, failed: bool) -> None:
    verdict = judge({"applications": applications}, age_s=1.0, ready=ready)
    assert verdict.known
    assert verdict.why.endswith(why) and bool(verdict.why) == bool(why)
    assert verdict.failed == failed


def test_a_controller_that_hangs_stops_writing() -> None:
    verdict = judge({"applications": [RUNNING], "port": 8000}, age_s=31.0, ready=True)
    assert verdict.why == "Ray Serve's controller has not reported for more than 30 s"
    assert judge({"applications": [RUNNING]}, age_s=29.0, ready=True).why == ""


def test_a_message_without_an_end_is_cut() -> None:
    assert len(shortened("x" * 5000)) < 250
    assert shortened(" \n") == ""


@pytest.mark.parametrize(
    "written",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"at": "x", "applications": []}',
        '{"at": 200}',
        '{"at": 200, "applications": [{}]}',
        '{"at": 200, "applications": [1]}',
        '{"at": 200, "error": "RayServeException()"}',
        # of the server before
        '{"at": 99, "applications": []}',
    ],
)
def test_without_a_report_of_this_server_nothing_is_known(tmp_path: Path, written: str | None) -> None:
    path = tmp_path / "serve.json"
    if written is not None:
        path.write_text(written)
    assert not ServeReports(path, lambda: 201.0).verdict(since=100.0, ready=False).known


def found(
    tmp_path: Path, answers: dict[str, str], applications: list[Any] | None, path: str = "", **more: Any
) -> tuple[str, bool]:
    """What a check finds of a server with these answers: (why, never ready); well without a why."""
    report = tmp_path / "serve.json"
    if applications is not None:
        report.write_text(json.dumps({"at": 100.0, "applications": applications, **more}))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).split()
        if words:
            status = answers.get(words[1].decode(), "404 Not Found")
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async def scene() -> tuple[str, bool]:
        server = await asyncio.start_server(answer, "127.0.0.1")
        probe = Probe("127.0.0.1", server.sockets[0].getsockname()[1], path)
        try:
            await Health(probe, ServeReports(report, lambda: 101.0)).check(since=50.0, ready=False)
        except NoAnswer as error:
            is_404 = error.detail is EndDetail.NOT_FOUND
            assert is_404 == (bool(path) and f"GET {path} is answered with 404" in str(error))
            return str(error), isinstance(error, NeverReady)
        finally:
            server.close()
            assert probe.own_ports, "its connections are known as ours"
        return "", False

    return asyncio.run(scene())


WELL = {"/-/healthz": "200 OK", "/health": "200 OK"}
SICK = {"/-/healthz": "503 Service Unavailable", "/health": "503 Service Unavailable"}


@pytest.mark.parametrize(
    ("answers", "applications", "path", "expected"),
    [
        # Not Serve: a TCP connection is enough.
        (SICK, None, "", ("", False)),
        (WELL, [RUNNING], "", ("", False)),
        (SICK, [RUNNING], "", ("GET /-/healthz is answered with 503 Service Unavailable", False)),
        # Its proxy answers also where the application failed.
        (WELL, [FAILED], "", (FAILED_WHY, True)),
        (SICK, [FAILED], "", (FAILED_WHY, True)),
        # A path that the user gives decides, and Serve explains.
        (WELL, [FAILED], "/health", ("", False)),
        (SICK, [RUNNING], "/health", ("GET /health is answered with 503 Service Unavailable", False)),
        (
            SICK,
            [FAILED],
            "/health",
            (f"{FAILED_WHY} (GET /health is answered with 503 Service Unavailable)", True),
        ),
    ],
)
def test_the_check_and_serves_state(
    tmp_path: Path,
    answers: dict[str, str],
    applications: list[Any] | None,
    path: str,
    expected: tuple[str, bool],
) -> None:
    assert found(tmp_path, answers, applications, path) == expected


@pytest.mark.parametrize(
    "facts",
    [{"tls": True}, {"proxies": 0}, {"port": 8124, "proxies": 1}],
    ids=["TLS", "a program calls its deployments", "a program listens in front of it"],
)
def test_what_is_not_serves_proxy_is_asked_by_a_connection(tmp_path: Path, facts: dict[str, Any]) -> None:
    assert found(tmp_path, SICK, [RUNNING], **facts) == ("", False)
    assert found(tmp_path, WELL, [FAILED], **facts)[1]


def test_serve_on_another_port_says_which_to_give(tmp_path: Path) -> None:
    why, _ = found(tmp_path, SICK, [RUNNING], "/health", port=8124)
    assert why.endswith("503 Service Unavailable; Ray Serve listens on port 8124: give --service-port 8124")
