"""Hydra sweeps over a parameter with hydra-ray-launcher: each job of the sweep is a task of Ray.

`python hydra_sweep.py --multirun hydra/launcher=ray +hydra.launcher.ray.remote.num_cpus=2 +x=1,2,3`
"""

import pathlib
import socket
import tempfile
import time
from importlib.metadata import version

import hydra
import ray
from omegaconf import DictConfig

# The launcher calls ray.init with a size of the object store, which no existing cluster takes; it does not
# call it where Ray is connected already.
ray.init()
hosts = tempfile.mkdtemp(prefix="hydra-", dir=pathlib.Path.home())


@hydra.main(version_base=None, config_path=None)
def job(config: DictConfig) -> None:
    """One job; it leaves the name of its host."""
    time.sleep(1)
    (pathlib.Path(config.hosts) / f"{socket.gethostname()}-{config.x}").touch()


if __name__ == "__main__":
    import sys

    sys.argv += [f"+hosts={hosts}", f"hydra.sweep.dir={hosts}/sweep"]
    job()
    found = {path.name.split("-")[0] for path in pathlib.Path(hosts).glob("*-*")}
    print("LIBRARY hydra-ray-launcher", version("hydra-ray-launcher"), "NODES", len(found))
