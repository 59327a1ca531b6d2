"""Sampling of autoregressive models: every activation computed once, against a full pass for each element.

    python benchmarks/autoregressive_sampling.py [--rounds 10] [--kinds pixelcnn,made,transformer]
        [--out benchmarks/results]

- pixelcnn: 28 × 28 binary pictures, 64 channels, 7 layers, 16 at once;
- made: D = 784, 2,000 hidden units, 100 at once;
- transformer: 256 tokens out of 256, 4 layers of width 128, one at once.

The naive sampler takes D full passes, with products of matrices as PyTorch takes them by itself. It is timed on every
so many of them, spread evenly (`share` says how many), and the rest is taken to cost the same: a full pass does not
depend on what has been drawn. For the transformer, whose context grows, naive means a pass over the context so far.
Both draw the same numbers from the same noise, as the tests check. Untrained weights: the work does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness import arguments, as_pytorch_does, interleave, keep
from jensen.cli.memory import keep_freed_memory
from jensen.conditionals.autoregressive import Autoregressive
from jensen.conditionals.heads import Support
from jensen.core import seeded
from jensen.nets.causal import SequenceNet
from jensen.registry import Choice, configure, find

KINDS: dict[
    str, tuple[Support, int, dict[str, Any], int]
] = {  # data, rows at once, settings, one pass in so many timed
    "pixelcnn": (Support("binary", (1, 28, 28)), 16, {"width": 64, "layers": 7}, 98),
    "made": (Support("binary", (784,)), 100, {"hidden": [2000]}, 49),
    "transformer": (Support("levels", (256,), levels=256), 1, {"width": 128, "layers": 4, "heads": 4}, 8),
}
LIKELIHOODS = {"binary": "bernoulli", "levels": "categorical"}


def conditional(kind: str) -> Autoregressive:
    support, _, settings, _ = KINDS[kind]
    likelihood, chosen = find("likelihood", LIKELIHOODS[support.kind]), find("causal", kind)
    with seeded(0):
        head = Choice(likelihood, configure(likelihood, {}))(support)
        net = Choice(chosen, configure(chosen, settings))(support, head.per_element, 0)
    return Autoregressive(net, head).eval()


@torch.no_grad()
def a_naive_pass(of: Autoregressive, x: Tensor, step: int) -> None:
    """What drawing the element of that step costs when everything is computed again."""
    if isinstance(of.network, SequenceNet):  # only what there is so far
        h = of.network.embed(x[:, :step]) if step else of.network.first.expand(len(x), 1, -1)
        of.network.output(of.network.core(h)[:, -1])
    else:
        of.factors(x)


def contestants(kind: str) -> tuple[dict[str, Callable[[], int]], float]:
    """Ours, and the naive sampler on a share of its steps, each returning how many data it drew."""
    support, rows, _, every = KINDS[kind]
    of = conditional(kind)
    x = torch.zeros(rows, *support.shape)
    steps = range(every // 2, of.network.dims, every)
    share = len(steps) / of.network.dims

    def ours() -> int:
        dist = of()
        dist.from_noise(dist.noise(x.shape))
        return rows

    def naive() -> int:
        for step in steps:
            a_naive_pass(of, x, step)
        return rows * share  # pyright: ignore[reportReturnType]  # of a sample that much

    return {"jensen": ours, "naive": as_pytorch_does(naive)}, share


def main() -> None:
    options = arguments(__doc__, rounds=10, kinds=",".join(KINDS))
    keep_freed_memory()
    for kind in options.kinds.split(","):
        both, share = contestants(kind)
        began = time.perf_counter()
        both["jensen"]()
        print(f"\n{kind}: {time.perf_counter() - began:.2f} s for {KINDS[kind][1]} at once")
        table = interleave(both, options.rounds, unit="data/s")

        path = options.out / f"sampling_{kind}.json" if options.out else None
        about = {"shape": KINDS[kind][0].shape, "rows": KINDS[kind][1], "settings": KINDS[kind][2], "share": share}
        keep(path, table, "jensen", {**about, "seed": 0})


if __name__ == "__main__":
    main()
