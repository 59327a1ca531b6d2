"""Training throughput of the transformer against the same shape written plainly in PyTorch, as nanoGPT does.

    python benchmarks/transformer_training.py [--rounds 10] [--out benchmarks/results/transformer_training.json]

Characters, 65 of them; 256 in a row, 12 rows a batch; 4 layers of width 128, 4 heads: nanoGPT's example for a laptop.

- **jensen**: the trainer that `jensen train` runs, in the middle of a run, with logging and averaged weights.
- **plain loop**: embedding of characters and positions, blocks with `scaled_dot_product_attention`, cross-entropy, a
  fused Adam, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import arguments, interleave_processes, keep
from jensen.cli.memory import keep_freed_memory
from jensen.conditionals.autoregressive import Autoregressive
from jensen.conditionals.heads import CategoricalHead, Support
from jensen.core import Joint, Model, seeded
from jensen.data import TensorSplit
from jensen.models.transformer import transformer
from jensen.objectives.likelihood import maximum_likelihood
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle

SYMBOLS, LENGTH, BATCH, LAYERS, HEADS, WIDTH, STEPS = 65, 256, 12, 4, 4, 128, 10


def rows(n: int, length: int = LENGTH) -> Tensor:
    """Characters at random, (n, length): the work does not depend on what they say."""
    torch.manual_seed(0)
    return torch.randint(SYMBOLS, (n, length))


def ours() -> Callable[[], int]:
    keep_freed_memory()
    support = Support("levels", (LENGTH,), levels=SYMBOLS)
    with seeded(0):
        head = CategoricalHead(support)
        net = transformer(support, head.per_element, 0, width=WIDTH, layers=LAYERS, heads=HEADS)
        model = Model(Joint({"x": Autoregressive(net, head)}), objective=maximum_likelihood())
    data = rows(STEPS * BATCH).float()
    settings = training_settings({"epochs": 100, "batch_size": BATCH})
    trainer = Trainer(model, TensorSplit(data), TensorSplit(data[:1]), settings)
    epoch = in_the_middle(trainer)

    def work() -> int:
        return LENGTH * epoch()

    return work


class Plain(nn.Module):
    """A decoder-only transformer with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        n, t, _ = h.shape
        q, k, v = (p.view(n, t, HEADS, -1).transpose(1, 2) for p in self.qkv(self.before(h)).split(WIDTH, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, WIDTH)
        h = h + self.out(mixed)
        return h + self.down(F.gelu(self.up(self.between(h))))


def plain() -> Callable[[], int]:
    keep_freed_memory()
    torch.manual_seed(0)
    model, data = Plain(), rows(STEPS * BATCH, LENGTH + 1)  # the first is only seen: LENGTH are predicted, as by ours
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def work() -> int:
        for index in torch.randperm(len(data)).split(BATCH):
            x = data[index]
            logits = model(x[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, SYMBOLS), x[:, 1:].reshape(-1))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return STEPS * BATCH * LENGTH

    return work


def main() -> None:
    options = arguments(__doc__, rounds=10)
    table = interleave_processes({"jensen": (ours, ()), "plain loop": (plain, ())}, options.rounds, unit="tokens/s")
    shape = {"length": LENGTH, "batch": BATCH, "layers": LAYERS, "heads": HEADS, "width": WIDTH, "symbols": SYMBOLS}
    keep(options.out, table, "jensen", {**shape, "seed": 0})


if __name__ == "__main__":
    main()
