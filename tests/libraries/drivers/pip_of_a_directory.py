"""A runtime environment with pip: its package comes from a directory of wheels, without an index."""

import os
import socket
import tempfile
import time
import zipfile
from pathlib import Path

import ray

wheels = Path(tempfile.mkdtemp(prefix="wheels-", dir=Path.home()))
about = "tiny_wheel-1.0.dist-info"
with zipfile.ZipFile(wheels / "tiny_wheel-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tiny_wheel.py", "ANSWER = 7\n")
    wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n")
    wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{about}/RECORD", "")

pip = {"packages": ["tiny-wheel"], "pip_install_options": ["--no-index", f"--find-links={wheels}"]}
ray.init(runtime_env={"pip": pip})


@ray.remote(scheduling_strategy="SPREAD")
def answer() -> tuple[str, int]:
    """Host, and what the package says."""
    import tiny_wheel

    time.sleep(1)
    return socket.gethostname(), tiny_wheel.ANSWER


found = ray.get([answer.remote() for _ in range(12)], timeout=200)
assert {said for _, said in found} == {7}, found
assert "PIP_INDEX_URL" not in os.environ
print("LIBRARY pip of a directory", ray.__version__, "NODES", len({host for host, _ in found}))
