"""papermill runs a notebook as the driver; its cells are in a process of their own, the kernel."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat

CELLS = """
import ray
ray.init()
---
import socket, time

@ray.remote(scheduling_strategy="SPREAD")
def host():
    time.sleep(1)
    return socket.gethostname()

hosts = set(ray.get([host.remote() for _ in range(12)], timeout=90))
---
print("HOSTS", *sorted(hosts))
"""

place = Path(os.environ["TMPDIR"])
cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---")]
kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), place / "given.ipynb")
command = [sys.executable, "-m", "papermill", "given.ipynb", "done.ipynb", "--log-output"]
subprocess.run(command, cwd=place, check=True)
done = nbformat.read(place / "done.ipynb", as_version=4)
_, *hosts = done.cells[-1].outputs[0].text.split()
print("LIBRARY papermill", version("papermill"), "NODES", len(hosts))
