"""Devices on whose nodes Ray has to look itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.node.accelerators import NO_DRIVER, Accelerators, find_accelerators, special_devices
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


def driver(root: Path, *models: str) -> None:
    """As the kernel's driver of NVIDIA shows GPUs."""
    for number, model in enumerate(models):
        directory = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        directory.mkdir(parents=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 99\n" if model else "IRQ: 99\n"
        (directory / "information").write_text(text)


@pytest.mark.parametrize(
    ("env", "num_gpus", "models", "gpus"),
    [
        ({}, None, (), ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None, (), NO_DRIVER),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None, ("NVIDIA H200",) * 4, "NVIDIA H200"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0, ("NVIDIA H200",), ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, ("NVIDIA H200",), ""),
        ({}, 1, (), NO_DRIVER),
        ({}, 1, ("NVIDIA A100-SXM4-80GB",), "NVIDIA A100-SXM4-80GB"),
    ],
)
def test_gpus_that_slurm_or_an_option_gives(
    tmp_path: Path, env: dict[str, str], num_gpus: int | None, models: tuple[str, ...], gpus: str
) -> None:
    (tmp_path / "dev").mkdir()
    driver(tmp_path, *models)
    found = find_accelerators(env, Allocation("7", ("n1",)), num_gpus, root=str(tmp_path))
    assert found == Accelerators(gpus=gpus)


@pytest.mark.parametrize(
    ("env", "num_gpus", "models", "doubt"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, 2, ("NVIDIA H200",) * 2, "CUDA_VISIBLE_DEVICES shows fewer GPUs"),
        ({}, 2, ("NVIDIA H200", "NVIDIA L4"), "several models (NVIDIA H200, NVIDIA L4)"),
        ({}, 1, ("",), "does not say of which model"),
        ({"HIP_VISIBLE_DEVICES": "0"}, None, (), "not NVIDIA's (amd)"),
    ],
)
def test_gpus_at_which_ray_has_to_look(
    tmp_path: Path, env: dict[str, str], num_gpus: int | None, models: tuple[str, ...], doubt: str
) -> None:
    (tmp_path / "dev").mkdir()
    driver(tmp_path, *models)
    found = find_accelerators(env, Allocation("7", ("n1",)), num_gpus, root=str(tmp_path))
    assert doubt in found.doubt
    assert not found.gpus


def test_other_accelerators_than_gpus(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    found = find_accelerators({}, None, None, root=str(tmp_path))
    assert found == Accelerators(doubt=f"this node has {tmp_path}/dev/neuron0")
