"""A pipeline of NeMo-Curator on its executors for Ray: one task after the other, on all nodes."""

import socket
import sys
import time
from dataclasses import dataclass, field

import nemo_curator
import pandas
from nemo_curator.backends.ray_actor_pool import RayActorPoolExecutor
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.backends.xenna import XennaExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import DocumentBatch

EXECUTORS = {"data": RayDataExecutor, "pool": RayActorPoolExecutor, "xenna": XennaExecutor}


@dataclass
class Where(ProcessingStage[DocumentBatch, DocumentBatch]):  # type: ignore[misc]
    """Adds the host to each batch."""

    name: str = "where"
    resources: Resources = field(default_factory=lambda: Resources(cpus=1.0))
    batch_size: int = 1

    def inputs(self) -> tuple[list[str], list[str]]:
        """What a batch must have."""
        return ["data"], ["text"]

    def outputs(self) -> tuple[list[str], list[str]]:
        """What it has afterwards."""
        return ["data"], ["text", "host"]

    def process(self, task: DocumentBatch) -> DocumentBatch:
        """One batch."""
        time.sleep(1)
        frame = task.to_pandas().assign(host=socket.gethostname())
        return DocumentBatch(dataset_name=task.dataset_name, data=frame)


def batches() -> list[DocumentBatch]:
    frames = (pandas.DataFrame({"text": [f"document {number}"]}) for number in range(30))
    return [DocumentBatch(dataset_name="documents", data=frame) for frame in frames]


counts = []
for name in sys.argv[1:] or EXECUTORS:
    done = Pipeline(name="where", stages=[Where()]).run(EXECUTORS[name](), initial_tasks=batches())
    assert len(done) == 30, len(done)
    hosts = {host for task in done for host in task.to_pandas()["host"]}
    print("EXECUTOR", name, *sorted(hosts), flush=True)
    counts.append(len(hosts))
print("LIBRARY NeMo-Curator", nemo_curator.__version__, "NODES", min(counts))
