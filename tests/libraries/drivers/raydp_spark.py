"""Spark's executors are actors of Ray, one on each node, by RayDP."""

import socket
import time

import ray
import raydp

ray.init()
nodes = len(ray.nodes())
spark = raydp.init_spark(
    "hosts",
    num_executors=nodes,
    executor_cores=1,
    executor_memory="500M",
    placement_group_strategy="STRICT_SPREAD",
)


def where(_: int) -> str:
    """The host of a task of Spark."""
    time.sleep(0.5)
    return socket.gethostname()


hosts = spark.sparkContext.parallelize(range(24), 24).map(where).distinct().collect()
rows = spark.range(0, 1000).selectExpr("sum(id) AS total").collect()
assert rows[0].total == 499_500, rows
raydp.stop_spark()
print("LIBRARY raydp", raydp.__version__, "NODES", len(hosts))
