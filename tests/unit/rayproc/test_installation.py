"""Which Ray a node has, without importing it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from raycluster_cli.rayproc.installation import find_installation, ray_variables


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that fails when it is imported."""
    package = tmp_path / "ray"
    raylet = package / "core/src/ray/raylet/raylet"
    raylet.parent.mkdir(parents=True)
    raylet.write_bytes(bytes(range(256)) * 100)
    (package / "__init__.py").write_text("raise ImportError")
    (package / "_version.py").write_text('commit = "abc123"\nversion = "9.9.0"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return package


def test_versions_size_and_paths_are_in_it(ray: Path) -> None:
    found = find_installation({"PATH": "/nowhere"})
    assert found.startswith("ray 9.9.0 abc123 raylet 25600 ")
    assert f"{sys.executable} {ray} " in found
    assert found == find_installation({"PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("_version.py", b'commit = "abc124"\nversion = "9.9.0"\n'),
        ("core/src/ray/raylet/raylet", bytes(range(256)) * 99 + bytes(256)),
        ("core/src/ray/raylet/raylet", bytes(range(256)) * 99),
    ],
)
def test_another_build_is_another_installation(ray: Path, path: str, data: bytes) -> None:
    before = find_installation({"PATH": "/nowhere"})
    (ray / path).write_bytes(data)
    after = find_installation({"PATH": "/nowhere"})
    assert after and after != before


def test_the_first_package_of_the_path_counts(
    ray: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As for `import ray`: a directory of that name that is no package is passed over."""
    for number, files in enumerate(((), ("__init__.py",))):
        first = tmp_path / str(number) / "ray"
        first.mkdir(parents=True)
        for name in files:
            (first / name).write_text("")
        monkeypatch.syspath_prepend(str(first.parent))
        found = find_installation({})
        assert (f" {ray} " in found) if not files else (found == "")


def test_an_editable_installation_is_found(ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder knows where it is; no directory of the path has it."""

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return spec_from_file_location(name, ray / "__init__.py") if name == "ray" else None

    monkeypatch.setattr(sys, "path", [part for part in sys.path if not Path(part, "ray").exists()])
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert f" {ray} " in find_installation({})


@pytest.mark.parametrize("missing", ["_version.py", "core/src/ray/raylet/raylet"])
def test_a_ray_that_is_not_whole_has_no_name(ray: Path, missing: str) -> None:
    (ray / missing).unlink()
    assert find_installation({}) == ""


@pytest.mark.parametrize(
    ("env", "same"),
    [
        ({"PATH": "/other", "RAYCLUSTER_KEY": "7"}, True),
        ({"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "secret"}, True),
        ({"RAY_BACKEND_LOG_LEVEL": "warning"}, False),
        ({"RAY_gcs_rpc_server_reconnect_timeout_s": "9"}, False),
        ({"LD_PRELOAD": "/lib/x.so"}, False),
        ({"RAY_NODE_TYPE_NAME": "gpu"}, False),
    ],
)
def test_only_variables_that_ray_reads_count(env: dict[str, str], same: bool) -> None:
    assert (ray_variables(env) == ray_variables({"PATH": "/bin"})) is same
