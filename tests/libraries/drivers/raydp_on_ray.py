"""Spark on Ray by RayDP: its executors, in Java, run on all nodes; Ray Data takes its rows from Spark."""

import socket
import time
from collections.abc import Iterable, Iterator

import pyspark
import ray
import raydp

# Ray serializes private fields of Java's own classes, which Java 17 forbids ("InaccessibleObjectException").
PACKAGES = ("lang", "math", "net", "text", "util", "util.concurrent")
OPENS = " ".join(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in PACKAGES)
JAVA = [f"spark.{part}.extraJavaOptions" for part in ("driver", "executor", "ray.raydp_app_master")]

ray.init()
spark = raydp.init_spark(
    "raycluster",
    num_executors=3,
    executor_cores=1,
    executor_memory="700M",
    placement_group_strategy="STRICT_SPREAD",
    configs=dict.fromkeys(JAVA, OPENS),
)


def host(rows: Iterable[int]) -> Iterator[tuple[str, int]]:
    """Where a partition is, and how many rows it has."""
    time.sleep(2)
    yield socket.gethostname(), sum(1 for _ in rows)


found = spark.sparkContext.parallelize(range(300), 9).mapPartitions(host).collect()
assert sum(number for _, number in found) == 300, found
assert ray.data.from_spark(spark.range(300)).sum("id") == sum(range(300))
raydp.stop_spark()
print("LIBRARY raydp", raydp.__version__, pyspark.__version__, "NODES", len({name for name, _ in found}))
