"""Fugue's engine on Ray."""

import importlib.metadata
import socket

import fugue.api as fa
import pandas
import ray


def where(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with the host that worked on them."""
    return frame.assign(host=socket.gethostname())


ray.init()
frame = pandas.DataFrame({"number": range(300)})
found = fa.transform(frame, where, schema="*,host:str", engine="ray", partition={"num": 12}, as_local=True)
hosts = set(fa.as_pandas(found)["host"])
assert len(fa.as_pandas(found)) == 300
print("LIBRARY fugue", importlib.metadata.version("fugue"), "NODES", len(hosts))
