"""PyTorch Lightning in Ray Train: one process on each node, which agree on the model by DDP."""

import pathlib
import socket
import tempfile

import pytorch_lightning as lightning
import ray
import ray.train
import torch
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer

ray.init()
nodes = len(ray.nodes())
cpus = int(min(node["Resources"].get("CPU", 0) for node in ray.nodes()))
storage = tempfile.mkdtemp(prefix="lightning-", dir=pathlib.Path.home())


class Line(lightning.LightningModule):
    """y = 2 x, learnt from a few points."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: "list[torch.Tensor]", number: int) -> torch.Tensor:
        (x,) = batch
        return torch.nn.functional.mse_loss(self.layer(x), 2 * x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train() -> None:
    """On each node; reports its host."""
    points = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(-1, 1) / 12)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=nodes,
        max_epochs=1,
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )
    prepare_trainer(trainer).fit(Line(), torch.utils.data.DataLoader(points, batch_size=2))
    (pathlib.Path(storage) / f"host-{socket.gethostname()}").touch()
    ray.train.report({"world": trainer.world_size})


result = TorchTrainer(
    train,
    scaling_config=ray.train.ScalingConfig(num_workers=nodes, resources_per_worker={"CPU": cpus // 2 + 1}),
    run_config=ray.train.RunConfig(name="lightning", storage_path=storage),
).fit()
hosts = list(pathlib.Path(storage).glob("host-*"))
print("LIBRARY lightning", lightning.__version__, "NODES", len(hosts))
