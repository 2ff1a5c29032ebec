"""Daft's runner on Ray."""

import socket

import daft
import ray

ray.init()
daft.set_runner_ray()


@daft.udf(return_dtype=daft.DataType.string())
def where(numbers: daft.Series) -> list[str]:
    """The host for each row."""
    return [socket.gethostname()] * len(numbers)


frame = daft.from_pydict({"number": list(range(300))}).into_partitions(12)
rows = frame.with_column("host", where(daft.col("number"))).to_pydict()
assert len(rows["host"]) == 300
print("LIBRARY daft", daft.__version__, "NODES", len(set(rows["host"])))
