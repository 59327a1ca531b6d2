"""Views as nodes of a model: y = v(x), discrete and deterministic, so that log q(y | x) = 0."""

from __future__ import annotations

from torch import Tensor

from jensen.conditionals.heads import Support
from jensen.core import Deterministic
from jensen.data.views import View
from jensen.errors import ConfigError
from jensen.registry import Choice


class Viewed(Deterministic):
    """q(y | x): all mass on a view of x.

    Attributes:
        support: what y can be.
    """

    discrete = True

    def __init__(self, view: View):
        super().__init__()
        self.view = view
        self.support = Support.of_levels(view.shape, view.levels)

    def forward(self, *parents: Tensor) -> Tensor:
        return self.view(*parents)


def viewed(view: Choice, support: Support) -> Viewed:
    """The node of a view of data of that support.

    Raises:
        ConfigError: these are no pictures, or have no such view.
    """
    if support.kind not in ("binary", "levels"):
        raise ConfigError(f"view: expected pictures in whole levels, got {support.kind} data")
    return Viewed(view(support.shape, support.levels or 2))
