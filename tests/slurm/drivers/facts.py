"""Prints what this task's node grants, as one line of JSON; needs no Ray."""

import json
import os

from raycluster_cli.node.grants import read_host
from raycluster_cli.slurm.allocation import Allocation

print(json.dumps(read_host(os.environ, Allocation.from_environ(os.environ)).as_dict()))
