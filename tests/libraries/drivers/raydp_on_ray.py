"""Spark on Ray by RayDP: its executors, in Java, run on all nodes; the driver's JVM joins the cluster too."""

import socket
import time
from collections.abc import Iterable, Iterator

import pyspark
import ray
import raydp

ray.init()
spark = raydp.init_spark(
    "raycluster",
    num_executors=3,
    executor_cores=1,
    executor_memory="700M",
    placement_group_strategy="STRICT_SPREAD",
)


def host(rows: Iterable[int]) -> Iterator[tuple[str, int]]:
    """Where a partition is, and how many rows it has."""
    time.sleep(2)
    yield socket.gethostname(), sum(1 for _ in rows)


found = spark.sparkContext.parallelize(range(300), 9).mapPartitions(host).collect()
assert sum(number for _, number in found) == 300, found
raydp.stop_spark()
print("LIBRARY raydp", raydp.__version__, pyspark.__version__, "NODES", len({name for name, _ in found}))
