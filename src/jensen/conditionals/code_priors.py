"""Priors of codes: p(k | conditions), cell by cell, with vectors of other codes beside each cell.

p(k | e, c) = Π_g p(k_g | k_<g, e_g, c)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jensen.conditionals.autoregressive import Autoregressive
from jensen.conditionals.flows import Context
from jensen.conditionals.heads import CategoricalHead, Support
from jensen.distributions import Elementwise
from jensen.errors import ConfigError
from jensen.nets.causal import Causal


class Beneath(nn.Module):
    """A context of vectors of codes above, (N, D, *above), that each cell has of its own, and of conditions c.

    Vectors come to the arrangement of the cells below by a network; conditions are the same for all cells.

    Args:
        network: (N, D, *above) to (N, own, *cells).
        own: numbers that each cell then has.
        cells: of the codes below.
        shared: turns the conditions into one context.
    """

    def __init__(self, network: nn.Module, own: int, cells: tuple[int, ...], shared: Context | None):
        super().__init__()
        self.network, self.own, self.shared = network, own, shared
        self.size = own + (shared.size if shared is not None else 0)

    def forward(self, *parents: Tensor) -> Tensor:
        e, *conditions = parents
        own = self.network(e).flatten(1)
        return torch.cat([self.shared(*conditions), own], 1) if self.shared is not None else own


class CodePrior(Autoregressive):
    """p(k | context) that starts as the uniform one; as long as it is, its densities take no network pass."""

    @property
    def uniform(self) -> bool:
        return not any(p.any() for p in self.network.last.parameters())

    def factors(self, x: Tensor, context: Tensor | None = None) -> Elementwise:
        if not torch.is_grad_enabled() and self.uniform:
            like = next(self.network.last.parameters())
            return self.head(like.new_zeros(1, *self.head.parameter_shape).expand(len(x), *self.head.parameter_shape))
        return super().factors(x, context)


def code_prior(
    network: Callable[[Support, int, int], Causal],
    codes: int,
    shape: tuple[int, ...],
    context: Context | Beneath | None = None,
) -> CodePrior:
    """p(k | context) of codes 0..K−1 in cells of that shape, the uniform one before any training.

    Raises:
        ConfigError: the network takes no symbols, or no context that differs from cell to cell.
    """
    head = CategoricalHead(Support("symbol", shape, codes))
    made = network(head.support, head.per_element, context.size if context else 0)
    if isinstance(context, Beneath):
        if made.local is None:
            raise ConfigError("prior: this network takes no vectors of codes above; choose pixelcnn or transformer")
        made.local = context.own
    for parameter in made.last.parameters():
        nn.init.zeros_(parameter)
    return CodePrior(made, head, context)
