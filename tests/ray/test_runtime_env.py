"""Ray's runtime_env where nothing can be downloaded: what the guide to drivers says works."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.ray.local import START_S, local

DRIVER = """
import os, sys
import ray
where, kind = sys.argv[1:]
value = {
    "working_dir": f"{where}/work",
    "py_modules": [f"{where}/module"],
    "wheel": [f"{where}/tiny_wheel-1.0-py3-none-any.whl"],
    "env_vars": {"MARK": "seen"},
    "py_executable": sys.executable,
}[kind]
ray.init(logging_level="ERROR", runtime_env={"py_modules" if kind == "wheel" else kind: value})

@ray.remote(num_cpus=1)
def task():
    if kind == "env_vars":
        return os.environ["MARK"]
    name = {"working_dir": "in_work", "py_modules": "module", "wheel": "tiny_wheel"}.get(kind, "json")
    return __import__(name).__name__

print("TASK", ray.get(task.remote(), timeout=90), flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("working_dir", "in_work"),
        ("py_modules", "module"),
        ("wheel", "tiny_wheel"),
        ("env_vars", "seen"),
        ("py_executable", "json"),
    ],
)
def test_without_a_package_index(tmp_path: Path, kind: str, said: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/in_work.py").touch()
    (tmp_path / "module").mkdir()
    (tmp_path / "module/__init__.py").touch()
    with zipfile.ZipFile(tmp_path / "tiny_wheel-1.0-py3-none-any.whl", "w") as wheel:
        about = "tiny_wheel-1.0.dist-info"
        wheel.writestr("tiny_wheel.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    with local() as place:
        driver = (sys.executable, "-c", DRIVER, str(tmp_path), kind)
        assert place.start(0, *driver).wait(2 * START_S) == 0, place.output
        assert f"TASK {said}\n" in place.output
        place.assert_nothing_left()
