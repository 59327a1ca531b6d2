"""Where to begin: the best normal along an ascent of the target, and whether the target has an end at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jensen.errors import DataError
from jensen.jobs.infer.asked import Bounds
from jensen.objectives.variational import Target

PATH, NEARBY = 30, 20  # points of the ascent that are candidates for a start, and draws that judge each
SCALES = 1e-4, 1e4  # a first guess of a scale is within
LARGEST_CURVATURE = 300  # dimensions, above which no matrix of second derivatives is made
FAR = 30.0, 300.0  # standard deviations at which a target is asked whether it falls off


def first_guess(target: Target, start: Tensor) -> tuple[Tensor, Tensor]:
    """Centre, (D,), and lower triangular scale, (D, D), of the best normal along an ascent of log p̃, on the real line.

    At each point the covariance is the inverse curvature, or where that is none its diagonal, and draws estimate the
    bound.
    """
    target.strict = False
    path, point = [start], nn.Parameter(start.clone())
    value, slope = _value_and_slope(target, start[None])
    if not torch.isfinite(value).all():
        target.strict = True
        target().log_prob(start[None])  # says what is wrong where the target forbids the start
    if not torch.isfinite(slope).all():
        raise DataError(f"the gradient of log_density is not finite where the search starts, {_point(target, start)}")
    optimizer = torch.optim.LBFGS([point], max_iter=3, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -target().log_prob(point[None])[0]
        value.backward()
        return value

    for _ in range(PATH):
        try:
            optimizer.step(loss)
        except (DataError, RuntimeError, ZeroDivisionError):  # it stepped out of what can be computed
            break
        here = point.detach().clone()
        if not torch.isfinite(here).all() or torch.equal(here, path[-1]):
            break
        path.append(here)
    best = (-math.inf, start, torch.eye(len(start), dtype=start.dtype))
    noise = torch.randn(NEARBY, len(start), dtype=start.dtype)
    for here in path if len(start) <= LARGEST_CURVATURE else path[-1:]:
        for tril in _scales(target, here):
            try:
                with torch.no_grad():
                    log_p = target().log_prob(here + noise @ tril.mT)
            except DataError:
                continue
            score = float(log_p.mean() + tril.diagonal().log().sum())
            if math.isfinite(score) and score > best[0]:
                best = (score, here, tril)
    target.strict = True
    return best[1], best[2]


def _scales(target: Target, here: Tensor) -> list[Tensor]:
    """Guesses of a lower triangular scale, (D, D), from the curvature H of log p̃ by differences of slopes.

    The diagonal (−H_dd)^(−½), 1 where the density is not concave; and the root of (−H)⁻¹ where that is positive.
    """
    d, width = len(here), 1e-4 if here.dtype == torch.float64 else 1e-2
    if d > LARGEST_CURVATURE:
        return [torch.eye(d, dtype=here.dtype)]
    steps = width * here.abs().clamp_min(1.0).diag()
    try:
        _, slope = _value_and_slope(target, torch.cat([here + steps, here - steps]))
    except DataError:
        return [torch.eye(d, dtype=here.dtype)]
    ahead, behind = slope.chunk(2)
    curvature = (ahead - behind) / (2 * steps.diagonal()[:, None])
    along = (-curvature.diagonal()).clamp_min(0.0).rsqrt()
    guesses = [torch.where(torch.isfinite(along), along, 1.0).clamp(*SCALES).diag()]
    if torch.isfinite(curvature).all():
        precision = -(curvature + curvature.mT) / 2
        root, failed = torch.linalg.cholesky_ex(precision.double())
        if not failed:
            covariance = torch.cholesky_inverse(root)
            tril, failed = torch.linalg.cholesky_ex((covariance + covariance.mT) / 2)
            inside = SCALES[0] <= float(tril.diagonal().min()) and float(tril.norm(dim=1).max()) <= SCALES[1]
            if not failed and inside:
                guesses.append(tril.to(here.dtype))
    return guesses


def along_axes(tril: Tensor) -> Tensor:
    """The scales along the axes, other dimensions held, as a diagonal matrix: (L Lᵀ)⁻¹_dd^(−½)."""
    inverse = torch.linalg.solve_triangular(tril, torch.eye(len(tril), dtype=tril.dtype), upper=False)
    return inverse.square().sum(0).rsqrt().diag()


def _value_and_slope(target: Target, u: Tensor) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    value = target().log_prob(u)
    (slope,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), slope


def _point(target: Target, u: Tensor) -> str:
    values = target.transform.forward(u[None])[0].tolist()
    return "(" + ", ".join(f"{value:.4g}" for value in values[:6]) + (", ...)" if len(values) > 6 else ")")


@torch.no_grad()
def does_not_fall_off(target: Target, loc: Tensor, scale: Tensor, bounds: list[Bounds]) -> list[str]:
    """Warnings for axes along which p̃(r) r does not decrease at a distance: along them it has no finite integral."""
    target.strict = False
    found = []
    for d in range(len(loc)):
        for sign, way in ((1.0, "upwards"), (-1.0, "downwards")):
            axis = torch.zeros_like(loc)
            axis[d] = sign * scale[d]
            rows = torch.stack([loc + r * axis for r in FAR])
            try:
                near, far = (target().log_prob(rows) + torch.tensor(FAR, dtype=loc.dtype).log()).tolist()
            except DataError:  # beyond what can be computed: nothing is known
                continue
            if math.isfinite(near) and far > near - 0.5:
                where = f"dimension {d}" + ("" if bounds[d] == (None, None) else f" (support {bounds[d]})")
                found.append(
                    f"log_density does not fall off along {where} {way}: its integral there seems infinite, and an "
                    f"improper target has no posterior; a prior, or a support, would make it proper"
                )
                break
    target.strict = True
    return found
