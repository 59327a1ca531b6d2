"""Laws of every transform, on fresh, moved and enlarged weights, in float32 and float64.

A transform is under them by a line in `TRANSFORMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from jensen.core import seeded
from jensen.nets import mlp
from jensen.nets.coupling import PictureConditioner
from jensen.nets.masked import MaskedMLP
from jensen.transforms import (
    ActNorm,
    AdditiveMap,
    Affine,
    AffineMap,
    Bounded,
    Circle,
    Columns,
    Composed,
    Continuous,
    Coupling,
    Elementwise,
    Exp,
    Harmonics,
    Inverse,
    LULinear,
    Marginals,
    MaskedAutoregressive,
    Monotone,
    MultiScale,
    Permutation,
    Planar,
    Radial,
    RationalQuadratic,
    Reflections,
    Reshape,
    Rotation,
    Scaling,
    Sigmoid,
    Softplus,
    Solver,
    Squeeze,
    Staged,
    Sylvester,
    Told,
    Transform,
    Triangular,
    Turn,
    interval,
    levels,
)
from jensen.transforms.coupling import Blocks, Partition, alternating, checkerboard, half

INF = math.inf


@dataclass(frozen=True)
class Case:
    """A transform to try.

    Attributes:
        make: builds it.
        context: size of its context, 0 for none.
        spread: standard deviation of the points tried on the real line.
        tolerance: of a round trip in float32, where it is not a matter of rounding alone.
    """

    make: Callable[[], Transform]
    context: int = 0
    spread: float = 1.0
    tolerance: float = 1e-3
    exact: bool = True  # the inverse is a formula, not found by iteration


class Current(nn.Module):
    """A vector field over pictures (1, 1, 2), f(t, z, c) = tanh(W (z, t, c) + b): bounded, however large W."""

    def __init__(self):
        super().__init__()
        self.affine = nn.Linear(5, 2)

    def forward(self, t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        return self.affine(torch.cat([z.flatten(1), t[:, None], context], 1)).tanh().view_as(z)


def coupled(partition: Partition, context: int = 0) -> Coupling:
    """An affine coupling with a small network."""
    inputs, outputs = partition.network_shapes(AffineMap.size, context)
    if len(inputs) == 1:
        network = mlp(inputs, outputs, hidden=[5], activation="tanh")
    else:
        network = PictureConditioner(inputs, outputs, channels=3, blocks=1, kernel=3, activation="tanh")
    return Coupling(partition, network, AffineMap())


def autoregressive(monotone: Monotone, dims: int = 4, **settings: Any) -> MaskedAutoregressive:
    """With a small masked network, the last element first."""
    settings = {"hidden": [7, 5], "activation": "tanh", "order": range(dims - 1, -1, -1), **settings}
    return MaskedAutoregressive(MaskedMLP(dims, monotone.size, **settings), monotone)


def two_scales() -> MultiScale:
    """(1, 4, 4): squeezed and coupled twice, with half of the channels finished in between."""
    upper = Composed([coupled(half((4, 2, 2))), Squeeze((1, 4, 4)), coupled(checkerboard((1, 4, 4)))])
    return MultiScale([upper, Composed([coupled(half((8, 1, 1))), Squeeze((2, 2, 2))])])


def staged(context: int) -> Staged:
    """A direction, then two elements, one of them between bounds, given it."""
    low, period = torch.tensor([-1.5]), torch.tensor([3.5])
    spline = RationalQuadratic(4, -math.pi, math.pi, ends="circular")
    around = Composed([Circle((1,)), Elementwise(spline, (1,), context), Rotation((1,), context), Turn(low, period)])
    onto = Bounded(torch.tensor([-1.0, -INF]), torch.tensor([2.0, INF]))
    rest = Composed([autoregressive(RationalQuadratic(3), 2, context=context + 2), onto])
    return Staged([([1], around), ([2, 0], rest)], [Harmonics(low, period)])


TRANSFORMS: dict[str, Case] = {
    "affine": Case(lambda: Affine((3,), 1.0, torch.tensor([2.0, -2.0, 0.5]))),
    "scaling": Case(lambda: Scaling((3,))),
    "activation normalisation": Case(lambda: ActNorm((3,))),
    "activation normalisation of channels": Case(lambda: ActNorm((2, 3, 2))),
    "sigmoid": Case(lambda: Sigmoid((3,))),
    "softplus": Case(lambda: Softplus((3,))),
    "exp": Case(lambda: Exp((3,))),
    "interval": Case(lambda: interval((3,), -2.0, 5.0)),
    "triangular": Case(lambda: Triangular(torch.ones(3), torch.tensor([[2.0, 0, 0], [1, -0.5, 0], [0.3, 1, 1]]))),
    "columns": Case(lambda: Columns(3, [([0, 2], Exp((2,))), ([1], interval((1,), -2.0, 5.0))])),
    "levels": Case(lambda: levels((1, 2, 2), 256, 0.05), tolerance=1e-2),
    "reshape": Case(lambda: Reshape((4,), (1, 2, 2))),
    "inverse": Case(lambda: Inverse(Softplus((3,)))),
    "coupling of halves": Case(lambda: coupled(half((5,)))),
    "coupling of halves, the first changed": Case(lambda: coupled(half((5,), keep_first=False))),
    "coupling of blocks": Case(lambda: coupled(Blocks((4,), 1), 2), context=2),
    "coupling, alternating": Case(lambda: coupled(alternating((5,), 1))),
    "coupling given a context": Case(lambda: coupled(alternating((4,)), 2), context=2),
    "coupling of channels": Case(lambda: coupled(half((3, 2, 2)))),
    "coupling of a checkerboard": Case(lambda: coupled(checkerboard((2, 2, 4)))),
    "coupling of a checkerboard given a context": Case(lambda: coupled(checkerboard((1, 2, 2), 1), 2), context=2),
    "coupling of an odd checkerboard": Case(lambda: coupled(checkerboard((1, 3, 2)), 2), context=2),
    "autoregressive": Case(lambda: autoregressive(AffineMap())),
    "autoregressive given a context": Case(lambda: autoregressive(AffineMap(), context=2), context=2),
    "autoregressive, with residual blocks": Case(lambda: autoregressive(AffineMap(), hidden=[5, 5], residual=True)),
    "autoregressive of one element": Case(lambda: autoregressive(AffineMap(), 1, context=2), context=2),
    "autoregressive shifts": Case(lambda: autoregressive(AdditiveMap(), hidden=[])),
    "autoregressive splines": Case(lambda: autoregressive(RationalQuadratic(4)), spread=3.0),
    "inverse autoregressive": Case(lambda: Inverse(autoregressive(AffineMap(), context=2)), context=2),
    "permutation": Case(lambda: Permutation((4,), [2, 0, 3, 1])),
    "permutation of channels": Case(lambda: Permutation((3, 1, 2), [2, 0, 1])),
    "triangular factors": Case(lambda: LULinear((4,))),
    "convolution of size one": Case(lambda: LULinear((3, 2, 2))),
    "squeeze": Case(lambda: Squeeze((1, 2, 4))),
    "two scales": Case(two_scales),
    "marginals": Case(lambda: Marginals((2,), 4)),
    "composed": Case(lambda: Composed([Scaling((3,)), Affine((3,), 1.0, -2.0), ActNorm((3,))])),
    "planar": Case(lambda: Planar(3), exact=False),
    "planar, inverted": Case(lambda: Inverse(Planar(3)), exact=False),
    "planar of a line": Case(lambda: Planar(1), exact=False),
    "planar given a context": Case(lambda: Planar(3, 2), context=2, exact=False),
    "planar, twice": Case(lambda: Composed([Planar(3), Planar(3)]), exact=False),
    "radial": Case(lambda: Radial(3)),
    "radial of a line": Case(lambda: Radial(1)),
    "radial given a context": Case(lambda: Radial(3, 2), context=2),
    "sylvester": Case(lambda: Sylvester(4, 2, reflections=3), exact=False),
    "sylvester given a context": Case(lambda: Sylvester(4, 2, reflections=2, context=2), context=2, exact=False),
    "sylvester, triangular": Case(lambda: Sylvester(3, 3, reflections=0, reverse=True), exact=False),
    "spline": Case(lambda: Elementwise(RationalQuadratic(5), (3,)), spread=3.0),
    "spline given a context": Case(lambda: Elementwise(RationalQuadratic(3), (2,), 2), context=2, spread=3.0),
    "spline on an interval": Case(lambda: Elementwise(RationalQuadratic(4, 0.0, 1.0, ends="free"), (1, 2, 2))),
    "spline on a circle": Case(lambda: Elementwise(RationalQuadratic(4, -math.pi, math.pi, ends="circular"), (3,))),
    "rotation": Case(lambda: Rotation((3,))),
    "rotation given a context": Case(lambda: Rotation((2,), 3), context=3),
    "reflections": Case(lambda: Reflections(3, 2)),
    "reflections given a context": Case(lambda: Reflections(3, 2, context=2), context=2),
    "bounded": Case(lambda: Bounded(torch.tensor([-1.0, -2.0, -INF, -INF]), torch.tensor([INF, 3.0, 1.5, INF]))),
    "circle": Case(lambda: Circle((3,))),
    "turn": Case(lambda: Turn(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.5]))),
    "stages, the last given the first": Case(lambda: staged(0)),
    "stages given a context": Case(lambda: staged(2), context=2),
    "told by a network": Case(lambda: Told(nn.Linear(2, 3), Rotation((2,), 3)), context=2),
    "continuous": Case(lambda: Continuous((1, 1, 2), Current(), Solver(rtol=1e-8, atol=1e-8)), context=2, exact=False),
}
WEIGHTS = {"fresh": 0.0, "moved": 0.3, "enlarged": 3.0}

every_transform = pytest.mark.parametrize("name", TRANSFORMS)
every_weight = pytest.mark.parametrize("weights", WEIGHTS)


def built(name: str, weights: str, dtype: torch.dtype = torch.float64) -> Transform:
    with seeded(0):
        transform = TRANSFORMS[name].make().to(dtype).eval()
        with torch.no_grad():
            for p in transform.parameters():
                p.add_(WEIGHTS[weights] * torch.randn(p.shape, dtype=torch.float64).to(dtype))
    return transform


def points(transform: Transform, case: Case, n: int, dtype: torch.dtype, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    """Points of the domain, (n, *event), and contexts."""
    with seeded(seed):
        z = (case.spread * torch.randn(n, *transform.domain_shape, dtype=torch.float64)).to(dtype)
        context = torch.randn(n, case.context, dtype=torch.float64).to(dtype) if case.context else None
    return into(z, transform.domain), context


def into(z: Tensor, support: constraints.Constraint) -> Tensor:
    """Real numbers into a support."""
    if support is constraints.positive:
        return z.exp()
    if support is constraints.unit_interval:
        return z.sigmoid()
    if isinstance(support, constraints.interval):
        return support.lower_bound + (support.upper_bound - support.lower_bound) * z.sigmoid()
    assert support is constraints.real
    return z


@every_weight
@every_transform
def test_there_and_back(name, weights):
    transform, case = built(name, weights), TRANSFORMS[name]
    z, context = points(transform, case, 50, torch.float64)
    with torch.no_grad():
        x, there = transform.forward_and_ladj(z, context)
        again, back = transform.inverse_and_ladj(x, context)
        alone = transform(z, context)  # by its own way: a solver steps otherwise where no density is asked for
    assert tuple(x.shape[1:]) == transform.codomain_shape
    assert bool(transform.codomain.check(x).all())
    loose, same = (1e-6, 1e-9) if case.exact else (1e-5, 1e-5)
    torch.testing.assert_close(alone, x, rtol=same, atol=same)
    torch.testing.assert_close(again, z, rtol=loose, atol=loose)
    torch.testing.assert_close((there + back).expand(50), torch.zeros(50, dtype=x.dtype), rtol=0, atol=10 * loose)


@every_weight
@every_transform
def test_back_and_there(name, weights):
    transform, case = built(name, weights), TRANSFORMS[name]
    z, context = points(transform, case, 50, torch.float64)
    with torch.no_grad():
        x = transform(z, context)
        again = transform(transform.inverse(x, context), context)
    torch.testing.assert_close(again, x, rtol=1e-6, atol=1e-6)


@every_weight
@every_transform
def test_log_determinant_is_that_of_the_jacobian(name, weights):
    """Against autograd's Jacobian, row by row, in both directions."""
    transform, case = built(name, weights), TRANSFORMS[name]
    z, context = points(transform, case, 6, torch.float64)
    dims = math.prod(transform.domain_shape)
    with torch.no_grad():
        x = transform(z, context)
    for start, direction in ((z, transform.forward_and_ladj), (x, transform.inverse_and_ladj)):
        ladj = direction(start, context)[1].detach().expand(6)
        for i in range(6):
            row = None if context is None else context[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(
                lambda v, row=row, direction=direction: direction(v.unsqueeze(0), row)[0].squeeze(0), start[i]
            )
            truth = torch.linalg.slogdet(jacobian.reshape(dims, dims))[1]
            torch.testing.assert_close(ladj[i], truth, rtol=1e-5, atol=1e-5)


@every_weight
@every_transform
def test_round_trip_in_single_precision(name, weights):
    transform, case = built(name, weights, torch.float32), TRANSFORMS[name]
    z, context = points(transform, case, 50, torch.float32)
    with torch.no_grad():
        x, ladj = transform.forward_and_ladj(z, context)
        again = transform(transform.inverse(x, context), context)
    assert torch.isfinite(x).all() and torch.isfinite(ladj).all()
    torch.testing.assert_close(again, x, rtol=case.tolerance, atol=case.tolerance)


@every_weight
@every_transform
def test_gradients_are_finite(name, weights):
    """Through both directions, also at points far out."""
    transform, case = built(name, weights, torch.float32), TRANSFORMS[name]
    z, context = points(transform, case, 20, torch.float32)
    if transform.domain is constraints.real:
        z[0], z[1] = 30.0, -30.0
    with torch.no_grad():
        x = transform(z, context)
    for start, direction in ((z, transform.forward_and_ladj), (x, transform.inverse_and_ladj)):
        start = start.clone().requires_grad_()
        value, ladj = direction(start, context)
        (value.square().mean() + ladj.mean()).backward()
        grads = [start.grad, *(p.grad for p in transform.parameters() if p.grad is not None)]
        assert all(torch.isfinite(g).all() for g in grads if g is not None)


def test_every_transform_is_under_these_laws():
    import jensen.transforms as package

    exported = {v for v in vars(package).values() if isinstance(v, type) and issubclass(v, Transform)}
    seen: set[type] = set()
    for case in TRANSFORMS.values():
        seen |= {type(m) for m in case.make().modules()}
    assert exported - {Transform} <= seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exponential_does_not_overflow(dtype):
    """A draw at infinity would have no density: a mixture's other parts are asked for it too."""
    x, ladj = Exp((1,)).forward_and_ladj(torch.tensor([[1e4], [1.0]], dtype=dtype))
    assert torch.isfinite(x).all() and torch.isfinite(ladj).all()
    assert torch.isfinite(Exp((1,)).inverse_and_ladj(x)[1]).all()


# Worked truths of the lectures


def test_a_normal_scaled_and_shifted_is_a_normal():
    """z ~ N(0, 1), x = 0.75 z + 1 is N(1, 0.75²)."""
    from jensen.conditionals.transformed import Transformed
    from jensen.distributions import StandardNormal

    base = StandardNormal(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    p = Transformed(base, Affine((1,), 1.0, 0.75).double())
    x = torch.linspace(-3, 4, 50, dtype=torch.float64)[:, None]
    truth = torch.distributions.Normal(1.0, 0.75).log_prob(x[:, 0])
    torch.testing.assert_close(p.log_prob(x), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [[2.0, 2.0], [2.0, -2.0]])
def test_doubling_both_axes_divides_the_density_by_four(scale):
    from jensen.conditionals.transformed import Transformed
    from jensen.distributions import StandardNormal

    base = StandardNormal(torch.zeros(2), torch.ones(2))
    p = Transformed(base, Affine((2,), 0.0, torch.tensor(scale)))
    z = torch.randn(10, 2)
    ratio = (p.log_prob(z * torch.tensor(scale)) - base.log_prob(z)).exp()
    torch.testing.assert_close(ratio, torch.full((10,), 0.25))
