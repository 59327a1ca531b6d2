"""Sampling speed of a WaveNet of 30 layers: each element computed once, against full passes, in turn.

    python benchmarks/wavenet_sampling.py [--rounds 5] [--rows 1] [--samples 4000] [--steps 12] [--note WORDS]
        [--out benchmarks/results/wavenet_sampling.json] [--quick]

Three blocks of dilations 1, 2, ..., 512, widths 32 and 64, 256 levels, float32. The walk draws all samples. Full passes
would take minutes, so that a round measures so many steps of them, spread evenly: "full passes" run the network on the
whole clip for one sample, as `Autoregression.from_noise_naively` does; "prefix passes" on no more than the sample can
depend on, what is known and within the receptive field. All draw from the same noise; at the measured steps the passes
must draw what the walk drew, in float64. They take products of matrices as PyTorch does by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness import arguments, as_pytorch_does, interleave, keep
from jensen.conditionals.autoregressive import Autoregression
from jensen.data import Schema
from jensen.nets.causal import Dilated, SequenceNet
from jensen.registry import build

SEED = 0
SETTINGS = {"width": 32, "skip": 64, "blocks": 3, "layers": 10, "positions": False, "likelihood": "categorical"}


def made(samples: int) -> Autoregression:
    torch.manual_seed(SEED)
    factor = build("wavenet", Schema.of_sound(samples, 8000), SETTINGS).p["x"].module.eval()
    with torch.no_grad():
        for p in factor.parameters():  # as uneven as after training, so that the past matters
            p.mul_(1.5)
    return factor()


def full_pass(density: Autoregression, x: Tensor, u: Tensor, t: int) -> Tensor:
    """Sample t of rows x, (rows, T), by a pass over the whole clip."""
    return density.of.factors(x).quantile(u)[:, t]


def prefix_pass(density: Autoregression, x: Tensor, u: Tensor, t: int) -> Tensor:
    """Sample t by a pass over what it depends on."""
    network = density.of.network
    assert isinstance(network, SequenceNet) and isinstance(network.core, Dilated)
    start = max(0, t - network.core.receptive_field)  # the first vector of a pass stands for none, and is not seen then
    last = network(x[:, start : t + 1])[:, :, -1]
    return density.of.elements()(t)(last).quantile(u[:, t : t + 1])[:, 0]


@torch.no_grad()
def agree(samples: int, rows: int, steps: list[int]) -> None:
    density = made(samples)
    density.of.double()
    u = density.noise((rows, samples))
    x = density.from_noise(u)
    for one in (full_pass, prefix_pass):
        for t in steps:
            assert torch.equal(one(density, x, u, t), x[:, t]), f"{one.__name__} differs at step {t}"
    print(f"the passes draw what the walk drew, {len(x.unique())} different levels, at {len(steps)} steps")


def main() -> None:
    options = arguments(__doc__, rounds=5, rows=1, samples=4000, steps=12, note="", quick=False)
    rounds, samples = (1, 200) if options.quick else (options.rounds, options.samples)
    steps = [int((i + 0.5) * samples / options.steps) for i in range(options.steps)]
    agree(samples, options.rows, steps)
    density = made(samples)
    u = density.noise((options.rows, samples))
    x = density.from_noise(u)

    @torch.no_grad()
    def walk() -> int:
        return density.from_noise(u).numel()

    def by_passes(one: Callable[..., Tensor]) -> Callable[[], int]:
        @torch.no_grad()
        def work() -> int:
            return sum(one(density, x, u, t).numel() for t in steps)

        return work

    contestants: dict[str, Callable[[], int]] = {
        "walk": walk,
        "prefix passes": as_pytorch_does(by_passes(prefix_pass)),
        "full passes": as_pytorch_does(by_passes(full_pass)),
    }
    table = interleave(contestants, rounds, unit="samples/s")
    core: Any = density.of.network.core  # pyright: ignore
    extra = {
        "seed": SEED,
        "settings": SETTINGS,
        "layers": len(core.dilations),
        "receptive_field": core.receptive_field,
        "rows": options.rows,
        "samples": samples,
        "steps_measured_of_passes": steps,
        "note": options.note,
    }
    keep(options.out, table, "walk", extra)


if __name__ == "__main__":
    main()
