"""Flows of other libraries in a common form, each as its authors would have it, with the networks that are asked for.

Every one has layers of networks D -> hidden... -> parameters with ReLU, and an order of the columns that is reversed
(autoregressive) or a half that changes (couplings) between layers. What a library wraps differently is built from its
own parts, so that networks and numbers of parameters are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import torch
from torch import Tensor, nn

KINDS = ("realnvp", "maf", "spline-coupling", "spline-autoregressive")


class Peer(NamedTuple):
    """A density: what is trained, log p(x) in nats, (N,), and n draws, (n, D)."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]

    @property
    def size(self) -> int:
        """Number of parameters, masked ones included."""
        return sum(p.numel() for p in self.module.parameters())


class Shape(NamedTuple):
    """What is built: D columns, layers, hidden units of every network, bins of splines on [-bound, bound]."""

    dims: int
    layers: int = 5
    hidden: tuple[int, ...] = (128, 128)
    bins: int = 8
    bound: float = 5.0


def versions() -> dict[str, str]:
    """Of the libraries that are here."""
    found = {}
    for name in ("zuko", "nflows", "normflows", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def zuko(kind: str, shape: Shape) -> Peer:
    """zuko: all four kinds."""
    from zuko import flows
    from zuko.transforms import MonotonicRQSTransform

    common = {"features": shape.dims, "transforms": shape.layers, "hidden_features": shape.hidden}
    b = shape.bins

    def spline(*parameters: Tensor) -> MonotonicRQSTransform:
        return MonotonicRQSTransform(*parameters, bound=shape.bound)

    of_spline = {"univariate": spline, "shapes": [(b,), (b,), (b - 1,)]}
    if kind == "realnvp":
        flow = flows.RealNVP(**common)
    elif kind == "spline-coupling":
        flow = flows.NICE(**common, **of_spline)
    elif kind == "maf":
        flow = flows.MAF(**common)
    else:
        flow = flows.MAF(**common, **of_spline)  # as flows.NSF, with the bound that is asked for
    return Peer(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(kind: str, shape: Shape) -> Peer:
    """nflows: all four kinds, from its transforms."""
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import MLP

    class Network(MLP):
        """Its multilayer perceptron, with the arguments and the attribute that its couplings ask for."""

        hidden_features = shape.hidden[-1]

        def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(inputs)

    def network(inputs: int, outputs: int) -> nn.Module:
        return Network([inputs], [outputs], list(shape.hidden))

    made = {
        "features": shape.dims,
        "hidden_features": shape.hidden[0],
        "num_blocks": len(shape.hidden) - 1,
        "use_residual_blocks": False,
    }
    spline = {"num_bins": shape.bins, "tails": "linear", "tail_bound": shape.bound}
    alternating = torch.ones(shape.dims)
    alternating[::2] = -1
    layers: list[nn.Module] = []
    for i in range(shape.layers):
        mask = alternating * (-1) ** i
        if kind == "realnvp":
            layers.append(transforms.AffineCouplingTransform(mask, network))
        elif kind == "spline-coupling":
            layers.append(transforms.PiecewiseRationalQuadraticCouplingTransform(mask, network, **spline))
        else:
            layers.append(transforms.ReversePermutation(shape.dims))
            if kind == "maf":
                layers.append(transforms.MaskedAffineAutoregressiveTransform(**made))
            else:
                layers.append(transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**made, **spline))
    flow = Flow(transforms.CompositeTransform(layers), StandardNormal([shape.dims]))
    return Peer(flow, flow.log_prob, flow.sample)


def normflows(kind: str, shape: Shape) -> Peer:
    """normflows: all four kinds, from its flows; the fast direction of what is autoregressive is that of log p."""
    import normflows as nf
    from normflows.flows.neural_spline.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressive
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
    from normflows.utils.masks import create_alternating_binary_mask

    class Network(nf.nets.MLP):
        """Its multilayer perceptron, with the arguments and the attribute that its spline couplings ask for."""

        hidden_features = shape.hidden[-1]

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(x)

    class Density(nf.flows.Flow):
        """A transform whose forward leads from data to base, as its splines are written, the other way round."""

        def __init__(self, transform: nn.Module):
            super().__init__()
            self.transform = transform

        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.transform.inverse(z)

        def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.transform(z)

    made = {
        "features": shape.dims,
        "hidden_features": shape.hidden[0],
        "num_blocks": len(shape.hidden) - 1,
        "use_residual_blocks": False,
    }
    spline = {"num_bins": shape.bins, "tails": "linear", "tail_bound": shape.bound}
    half = (shape.dims + 1) // 2
    flows: list[nn.Module] = []
    for i in range(shape.layers):
        if kind == "realnvp":
            sizes = [half, *shape.hidden, 2 * (shape.dims - half)]
            flows += [nf.flows.AffineCouplingBlock(nf.nets.MLP(sizes)), nf.flows.Permute(shape.dims, "swap")]
        elif kind == "spline-coupling":
            mask = create_alternating_binary_mask(shape.dims, even=bool(i % 2))
            coupling = PiecewiseRationalQuadraticCoupling(
                mask, lambda a, b: Network([a, *shape.hidden, b]), **spline, apply_unconditional_transform=False
            )
            flows.append(Density(coupling))
        else:
            if kind == "maf":
                transform = nf.flows.MaskedAffineAutoregressive(**made)
            else:
                transform = MaskedPiecewiseRationalQuadraticAutoregressive(
                    **made, **spline, activation=nn.ReLU(), permute_mask=False, init_identity=True
                )
            flows += [Density(transform), Flip()]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(shape.dims, trainable=False), flows)
    return Peer(model, model.log_prob, lambda n: model.sample(n)[0])


class Flip(nn.Module):
    """The columns in reverse order, as a flow of normflows."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z.flip(1), z.new_zeros(len(z))

    inverse = forward


LIBRARIES: dict[str, Callable[[str, Shape], Peer]] = {"zuko": zuko, "nflows": nflows, "normflows": normflows}


def without_checks() -> None:
    """No validation of arguments in torch's distributions, for the whole process: it costs, and helps nobody here."""
    torch.distributions.Distribution.set_default_validate_args(False)


def peers(kind: str, shape: Shape) -> dict[str, Peer]:
    """Those that are installed, by library."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, build in LIBRARIES.items():
            try:
                found[name] = build(kind, shape)
            except ImportError:
                print(f'{name} is not installed: pip install -e ".[bench]"')
    return found
