"""xgboost_ray trains with one actor on each node, which exchange gradients by xgboost's own network."""

import socket
from typing import Any

import numpy
import ray
import xgboost
import xgboost_ray

ray.init()


class Where(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Sends the host of each actor to the driver."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Every actor calls it."""
        xgboost_ray.session.put_queue(socket.gethostname())
        return False


inputs = numpy.random.default_rng(1).random((900, 4))
given = xgboost_ray.RayDMatrix(inputs, (inputs[:, 0] > 0.5).astype(int))
results: dict[str, Any] = {}
additional: dict[str, Any] = {}
xgboost_ray.train(
    {"objective": "binary:logistic", "eval_metric": ["error"], "max_depth": 2},
    given,
    num_boost_round=5,
    evals=[(given, "train")],
    evals_result=results,
    additional_results=additional,
    callbacks=[Where()],
    ray_params=xgboost_ray.RayParams(num_actors=3, cpus_per_actor=2),
)
assert results["train"]["error"][-1] < 0.05, results
assert additional["total_n"] == 900
hosts = {host for hosts in additional["callback_returns"] for host in hosts}
print("LIBRARY xgboost_ray", xgboost_ray.__version__, xgboost.__version__, "NODES", len(hosts))
