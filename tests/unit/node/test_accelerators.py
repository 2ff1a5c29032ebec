"""Devices on whose nodes Ray has to look itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.node.accelerators import special_devices


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
