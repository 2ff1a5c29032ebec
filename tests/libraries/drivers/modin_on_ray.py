"""Modin attaches to the cluster and counts on its worker processes."""

import modin
import modin.pandas as pd
import numpy
import ray

frame = pd.DataFrame(numpy.arange(3_000_000).reshape(-1, 6), columns=list("abcdef"))
total = int(frame.sum().sum())
assert total == sum(range(3_000_000)), total
alive = sum(node["Alive"] for node in ray.nodes())
print("LIBRARY modin", modin.__version__, "NODES", alive)
