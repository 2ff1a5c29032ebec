"""A start imports only what it uses: each module more costs time and memory on every node."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_only_a_run_with_a_server_imports_what_servers_need() -> None:
    code = "import sys, raycluster_cli.supervisor.head, raycluster_cli.cli.plain; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "raycluster_cli.policy.head" in found
    servers = ("service", "model.service", "model.time_span", "policy.service", "supervisor.server")
    assert found.isdisjoint(f"raycluster_cli.{name}" for name in servers)


def test_only_a_cluster_that_can_grow_imports_what_worker_groups_need() -> None:
    code = "import sys, raycluster_cli.supervisor.head, raycluster_cli.supervisor.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    growing = ("config", "autoscale", "model.worker_group", "state.worker_jobs", "supervisor.worker_groups")
    assert found.isdisjoint([*(f"raycluster_cli.{name}" for name in growing), "tomllib", "tomli"])


def test_only_a_head_with_worker_groups_imports_what_the_autoscaler_needs() -> None:
    code = "import sys, raycluster_cli.supervisor.head, raycluster_cli.cli.plain; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "raycluster_cli.supervisor.head_guards" in found
    assert not [name for name in found if name.startswith("raycluster_cli.autoscale")]
    assert found.isdisjoint({"raycluster_cli.supervisor.autoscaler", "raycluster_cli.model.node_type"})


@pytest.mark.parametrize(
    "module", ["supervisor.launch", "cli.plain", "supervisor.head", "supervisor.worker", "supervisor.local"]
)
def test_a_supervisor_imports_nothing_large(module: str) -> None:
    heavy = {"ray", "rich", "typer", "shutil", "tempfile", "argparse"}
    code = f"import sys, raycluster_cli.{module}; print(*(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_supervisor_does_without_ssl() -> None:
    code = """
import sys
from raycluster_cli.supervisor.launch import import_asyncio_without_ssl
import_asyncio_without_ssl()
import asyncio, raycluster_cli.supervisor.head, raycluster_cli.supervisor.worker
print(*{"ssl", "_ssl"} & {*sys.modules})
import ssl
print(ssl.SSLContext.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["", "SSLContext", ""]


def test_the_keeper_is_made_before_anything_large_is_imported() -> None:
    """It forks off the supervisor, so what is imported by then stays in its memory."""
    heavy = {"asyncio", "ssl", "shutil", "socket", "subprocess"}
    code = f"import sys, raycluster_cli.supervisor.keeper; print(*(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
