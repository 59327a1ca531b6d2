"""Priors made of the posterior: the mixture of q(z | u) over a few data u, learned or taken from the training data.

    p(z) = Σ_k π_k q(z | u_k)        or Σ_k π_k q(z | u_k, c_k) where q looks at conditions too

Of all priors the one that makes the bound tightest, given q, is the aggregated posterior (1/N) Σ_n q(z | x_n). Some of
its data approximate it, and pseudo-inputs that are learned do so without overfitting.

Tomczak and Welling, "VAE with a VampPrior", 2018, arXiv:1705.07120; Hoffman and Johnson, "ELBO surgery", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.flows import Columns, Labels, Picture
from jensen.conditionals.heads import Support
from jensen.distributions import Mixture
from jensen.errors import ConfigError
from jensen.registry import component

NOISE = 0.05  # standard deviations of an element, by which pseudo-inputs that start apart differ
Components = Annotated[int, Field(ge=1)]


class Aggregated(nn.Module):
    """p(z) = Σ_k π_k q(z | u_k) for the inference conditional of the model itself.

    It is complete once `take` has given it that conditional, and starts from data (`initialize_from`). Outside of
    training, where no gradient is asked for, the u_k are encoded once for the weights as they stand. In training they
    never are: networks may drop what they please, and fused optimizers change weights without a trace.

    Args:
        components: K.
        learned: whether the u_k are parameters (pseudo-inputs), or stay the data that they start as.
        start: "data": each u_k a datum of its own; "mean": all near the mean of the data.
        weighted: whether π is learned; else 1/K.
    """

    needs_posterior = True
    sampling = "mixture"
    inputs: Tensor
    logits: Tensor

    def __init__(
        self,
        components: int,
        learned: bool,
        start: Literal["data", "mean"] = "data",
        weighted: bool = False,
    ):
        super().__init__()
        self.components, self.learned, self.start = components, learned, start
        self.starting_rows = components
        if weighted:
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components), persistent=False)
        self.given: tuple[str, ...] = ()
        self._q: tuple[nn.Module, Support] | None = None  # in a tuple: it is q's, and no part of p
        self._view: tuple[nn.Module | None, tuple[str, ...]] = None, ("x",)
        self._cached: tuple[Any, Distribution] | None = None

    def take(
        self,
        posterior: nn.Module,
        support: Support,
        given: Mapping[str, Labels | Columns | Picture] | None = None,
        view: nn.Module | None = None,
        reads: Sequence[str] = ("x",),
    ) -> None:
        """Be made of q(z | x), for data of that support; or of q(z | v), the support being that of a view v of what
        `reads` names.

        Where q(z | x, c) looks at more, at which elements of x are there or at conditions, each u_k has its own, which
        stay those of a datum.

        Raises:
            ConfigError: the data are symbols or mixed columns, between which nothing can be learned.
        """
        if self.learned and (support.columns or support.kind == "symbol"):
            what = "rows of mixed columns" if support.columns else "symbols"
            raise ConfigError(f"prior: {what} cannot be learned as pseudo-inputs; take prior=aggregated")
        self._q, self._view = (posterior, support), (view, tuple(reads))
        inputs = torch.zeros(self.components, *support.shape)
        if self.learned:
            self.inputs = nn.Parameter(inputs)
        else:
            self.register_buffer("inputs", inputs)
        if support.gaps:
            self.register_buffer("given_seen", torch.ones(self.components, *support.shape, dtype=torch.bool))
        for name, part in (given or {}).items():
            self.register_buffer(f"given_{name}", torch.zeros(self.components, *part.event_shape, dtype=part.dtype))
        self.given = (*support.parents[1:], *(given or {}))

    @torch.no_grad()
    def initialize_from(self, data: Mapping[str, Tensor]) -> None:
        """Let the u_k start from data `x`, (n, *event), NaN where they were not seen: rows chosen at random, or near
        their mean. What they stand under is that of rows chosen at random. Rows with a `weight` are drawn by it.
        """
        view, reads = self._view
        x = data["x"] if view is None else view(*(data[name] for name in reads))
        if "weight" in data:
            chosen = data["weight"].multinomial(self.components, replacement=True)
        else:
            chosen = torch.randperm(len(x))[torch.arange(self.components) % len(x)].to(x.device)
        if self.start == "data":
            start = x[chosen].to(self.inputs)
        else:
            x = x.to(self.inputs)
            noise = torch.randn(self.inputs.shape, dtype=self.inputs.dtype, device=self.inputs.device)
            mean = x.nanmean(0)
            start = mean + NOISE * (x - mean).square().nanmean(0).sqrt() * noise
        self.inputs.copy_(start.nan_to_num())
        for name in self.given:
            getattr(self, f"given_{name}").copy_(data[name][chosen])

    def forward(self) -> Mixture:
        if self._q is None:
            raise ConfigError("prior: made of a posterior q(z | x), which this model does not have")
        if self.training or torch.is_grad_enabled():
            return Mixture(self.logits, self._posteriors())
        weights = [(p.data_ptr(), p._version, p.dtype) for p in (self.inputs, *self._q[0].parameters())]
        key = weights, [getattr(part, "precision", None) for part in self._q[0].modules()]
        if self._cached is None or self._cached[0] != key:
            self._cached = key, self._posteriors()
        return Mixture(self.logits, self._cached[1])

    def train(self, mode: bool = True) -> Aggregated:
        self._cached = None
        return super().train(mode)

    def _posteriors(self) -> Any:
        """q(z | u_k) for all k, of batch shape (K,)."""
        assert self._q is not None
        posterior, support = self._q
        inputs = within(self.inputs, support) if self.learned else self.inputs
        return posterior(inputs, *(getattr(self, f"given_{name}") for name in self.given))

    @property
    def pseudo_inputs(self) -> Tensor:
        """The u_k as q sees them, (K, *event)."""
        assert self._q is not None
        return within(self.inputs, self._q[1]).detach()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


class _Held(torch.autograd.Function):
    """x clamped to [lower, upper], whose gradient at a bound is zero only where descent would leave by it.

    `clamp` has none there at all, and binary data are at their bounds: pseudo-inputs that start from them never moved.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: float, upper: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = lower, upper
        return x.clamp(lower, upper)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (lower, upper), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        leaves = ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))
        return gradient.masked_fill(leaves, 0), None, None


def within(x: Tensor, support: Support) -> Tensor:
    """x, held where data of that support can be; between whole numbers is allowed."""
    if support.kind in ("binary", "levels"):
        return cast(Tensor, _Held.apply(x, 0.0, (support.levels or 2) - 1.0))
    return cast(Tensor, _Held.apply(x, 0.0, math.inf)) if support.kind == "count" else x


def completed(
    prior: nn.Module,
    posterior: nn.Module,
    support: Support,
    given: Mapping[str, Labels | Columns | Picture] | None = None,
    view: nn.Module | None = None,
    reads: Sequence[str] = ("x",),
) -> nn.Module:
    """A prior as it is; one that is made of the posterior takes it. See `Aggregated.take`."""
    if isinstance(prior, Aggregated):
        prior.take(posterior, support, given, view, reads)
    return prior


@component("prior", "vamp", paper="Tomczak and Welling 2018, arXiv:1705.07120")
def vamp(
    latents: tuple[int, ...],
    *,
    components: Components = 500,
    start: Literal["data", "mean"] = "data",
    weighted: bool = False,
) -> nn.Module:
    """VampPrior: a mixture of the posteriors of learned pseudo-inputs.

    Settings:
        components: K pseudo-inputs, each encoded once a step.
        start: where pseudo-inputs start: each at a datum of its own, or all near the mean of the data.
        weighted: whether the weights of the mixture are learned too; else all are 1/K.
    """
    return Aggregated(components, True, start, weighted)


@component("prior", "aggregated", paper="Hoffman and Johnson 2016; Tomczak and Welling 2018, arXiv:1705.07120")
def aggregated(latents: tuple[int, ...], *, components: Components = 500, weighted: bool = False) -> nn.Module:
    """The aggregated posterior of some training data, which stay as they are.

    With as many components as there are training data it is exact, and every datum may remember itself.

    Settings:
        components: K training data, drawn at random, each encoded once a step.
        weighted: whether the weights of the mixture are learned; else all are 1/K.
    """
    return Aggregated(components, False, "data", weighted)
