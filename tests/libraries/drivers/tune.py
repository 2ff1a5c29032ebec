"""Tune's trials run on all nodes."""

import socket
import tempfile
import time

import ray
from ray import tune


def trial(config: dict[str, int]) -> None:
    """One trial, slow enough that no node does all."""
    time.sleep(2)
    tune.report({"score": config["x"] ** 2, "host": socket.gethostname()})


ray.init()
shared = tempfile.mkdtemp(dir="/home/admin")
tuner = tune.Tuner(
    trial,
    param_space={"x": tune.grid_search(list(range(12)))},
    tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=12),
    run_config=tune.RunConfig(storage_path=shared, name="run", verbose=0),
)
trials = tuner.fit()
assert trials.get_best_result().metrics["score"] == 121
print("LIBRARY tune", ray.__version__, "NODES", len({one.metrics["host"] for one in trials}))
