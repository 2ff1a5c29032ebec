"""data-juicer's Ray executor: a filter and an operator of one's own, worked on by all nodes.

data-juicer gives each task 1,000 rows or more: with few rows one node does all.
"""

import json
import pathlib
import tempfile
from typing import Any

import data_juicer
from data_juicer.config import init_configs
from data_juicer.core.executor.ray_executor import RayExecutor

place = pathlib.Path(tempfile.mkdtemp(prefix="juicer-", dir=pathlib.Path.home()))  # that all nodes see
OPERATOR = """
import socket, time
from data_juicer.ops.base_op import OPERATORS, Mapper

@OPERATORS.register_module("host_mapper")
class HostMapper(Mapper):
    def process_single(self, sample):
        time.sleep(0.002)
        sample["host"] = socket.gethostname()
        return sample
"""
(place / "host_mapper.py").write_text(OPERATOR)
rows = [
    {"text": "short" if number % 2 else f"a text of more words, number {number}"} for number in range(24_000)
]
for part in range(24):
    (place / f"in-{part}.jsonl").write_text("\n".join(map(json.dumps, rows[part::24])))
recipe: dict[str, Any] = {
    "project_name": "raycluster",
    "executor_type": "ray",
    "ray_address": "auto",
    "dataset_path": str(place),
    "export_path": str(place / "out"),
    "work_dir": str(place / "work"),
    "override_num_blocks": 24,
    "custom_operator_paths": [str(place / "host_mapper.py")],
    "process": [{"text_length_filter": {"min_len": 10}}, {"host_mapper": {}}],
}
(place / "recipe.yaml").write_text(json.dumps(recipe))
found = RayExecutor(init_configs(["--config", str(place / "recipe.yaml")])).run()
done = found.data.take_all() if hasattr(found, "data") else found.take_all()
assert len(done) == 12_000, len(done)
print("LIBRARY data-juicer", data_juicer.__version__, "NODES", len({row["host"] for row in done}))
