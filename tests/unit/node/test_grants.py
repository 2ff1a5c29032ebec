"""The whole of what a node grants, and its JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

from raycluster_cli.node.figures import MIB
from raycluster_cli.node.grants import read_host

from ..trees import write
from .hosts import GIB, facts
from .test_gpus import NVIDIA


def test_all_figures_stand_in_the_json(tmp_path: Path) -> None:
    write(tmp_path, NVIDIA)
    found = facts(tmp_path, "22.05/gpus-gres.task1")
    data = json.loads(json.dumps(found.as_dict()))
    assert data["cpus"]["value"] == 1 and data["cpus"]["ray_would_assume"] == 64
    assert data["memory_bytes"]["value"] == 1500 * MIB
    assert data["gpus"]["visible_devices"] == ["0", "1"] and data["gpus"]["vendor"] == "nvidia"
    assert {"value": 4, "source": "nvidia driver"} in data["gpus"]["candidates"]
    assert data["shm_bytes"]["free"] == 3 * GIB


def test_this_machine(tmp_path: Path) -> None:
    found = read_host(dict(os.environ), None)
    assert 1 <= found.cpus.value <= (os.cpu_count() or 1)
    assert found.memory_bytes.value > 0
