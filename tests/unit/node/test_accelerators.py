"""Devices on whose nodes Ray has to look itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.node.accelerators import accelerator, special_devices
from raycluster_cli.slurm.allocation import Allocation


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["null", "shm", "kfd", "nvidia0", "dri", "vfio/vfio", "accel/accel0"], ""),
        (["null", "accel0"], "accel0"),
        (["vfio/vfio", "vfio/12"], "vfio/12"),
        (["accel/accel0", "accel/accel_controlD0"], "accel/accel_controlD0"),
        (["neuron3"], "neuron3"),
        (["davinci0", "davinci_manager"], "davinci0"),
        (["regulus-npu0"], "regulus-npu0"),
        (["tenstorrent/0"], "tenstorrent"),
    ],
)
def test_what_is_neither_cpu_nor_gpu_is_named(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said = special_devices(str(tmp_path))
    assert said == (f"this node has {tmp_path}/{found}" if found else "")


def test_a_dev_that_cannot_be_read_is_a_doubt(tmp_path: Path) -> None:
    assert "cannot be read" in special_devices(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("env", "num_gpus", "found"),
    [
        ({}, None, ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None, "this node has GPUs"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0, ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, ""),
        ({}, 1, "this node has GPUs"),
    ],
)
def test_gpus_that_slurm_or_an_option_gives(
    tmp_path: Path, env: dict[str, str], num_gpus: int | None, found: str
) -> None:
    (tmp_path / "dev").mkdir()
    assert accelerator(env, Allocation("7", ("n1",)), num_gpus, root=str(tmp_path)) == found


def test_other_accelerators_than_gpus(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    assert accelerator({}, None, None, root=str(tmp_path)) == f"this node has {tmp_path}/dev/neuron0"
