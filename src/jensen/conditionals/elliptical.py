"""Components about a centre each: normal densities and Student's t."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from jensen.conditionals.components import LEAST, Components, Explain, Sums
from jensen.conditionals.heads import Support, inverse_softplus
from jensen.conditionals.partly_seen import DensePart, DiagonalPart
from jensen.distributions import DiagonalNormal, Elementwise, StudentT
from jensen.errors import ConfigError

NEAR = 1e4  # least scales from a centre to the origin, up to which squares may be expanded: eight digits remain
LEARNED_FROM = 0.05  # share of the columns' variances from which a prior is learned
MANY = 64  # dimensions, beyond which their products are too many to be kept
MATRICES = 2**20  # numbers in covariances of rows with gaps that are worked on at once


@dataclass(frozen=True)
class Whole:
    """Rows without gaps: y, (K, D, N), or what all components share, (D + P, N), and ‖y‖², (K, N)."""

    y: Tensor
    square: Tensor
    dims: int
    dense: bool

    def sums(self, weight: Tensor, share: Tensor, inverse: Tensor) -> Sums:
        if self.y.dim() == 2:  # x and its products, counted about the origin
            return {"x": weight @ self.y.mT}
        weighed = self.y * weight[:, None]
        yy = weighed @ self.y.mT if self.dense else (weighed * self.y).sum(2)
        return {"y": weighed.sum(2), "yy": yy}


class Elliptical(Components):
    r"""Normal densities, or Student's t, about a centre each.

        p_k(x) = N(x; μ_k, Σ_k)        or        t_ν(x; μ_k, Σ_k) = ∫ N(x; μ_k, Σ_k / g) Gamma(g; ν/2, ν/2) dg

    with Σ_k = L_k L_kᵀ, or one Σ for all ("tied"), or diagonal, or σ²_k I. Data are seen in each component's own
    coordinates, y = L⁻¹ (x − μ), and counted there, so that nothing large is subtracted from anything large; or, where
    no digits that matter are lost by it, counted once for all components, by x and the products of its elements.

    The floor under Σ is that of its eigenvalues, min_scale², when set from data (then the maximum among all such Σ is
    found by raising eigenvalues), and of the diagonal of L otherwise: either bounds the likelihood.

    Args:
        covariance: "full", "tied", "diagonal" or "spherical".
        min_scale: the floor, in standard deviations; of pictures in half the range of grey.
        student: whether tails are heavy.
        df: ν; None learns one for each component, between 2 and 1000.
        prior_data: ν₀, data that each Σ has besides its own, so that it is the maximum of a posterior,
            Σ_k = (S_k + ν₀ Ψ) / (n_k + ν₀); None for D + 2.
        prior_variance: v of Ψ = v diag(s²), theirs, s² the variances of the columns; None learns Ψ, which all
            components share: see `_learn_prior`.

    Student's t: Peel and McLachlan, "Robust mixture modelling using the t distribution", 2000.
    """

    least_df, most_df, start_df = 2.0, 1000.0, 10.0
    column_variance: Tensor
    shared: Tensor

    def __init__(
        self,
        components: int,
        support: Support,
        covariance: str = "full",
        min_scale: float = 1e-3,
        student: bool = False,
        df: float | None = None,
        prior_data: float | None = 0.0,
        prior_variance: float | None = 0.05,
    ):
        super().__init__(components, support)
        if min_scale >= 1:
            raise ConfigError(f"min_scale: expected less than 1, where the scale starts, got {min_scale}")
        self.covariance, self.min_scale, self.student, self.given_df = covariance, min_scale, student, df
        self.dense = covariance in ("full", "tied")
        k, d = components, self.dims
        self.prior_data = d + 2.0 if prior_data is None else prior_data
        self.prior_variance, self.learns_prior = prior_variance or LEARNED_FROM, prior_variance is None
        if self.prior_data > 0:
            self.register_buffer("column_variance", torch.ones(d, dtype=torch.float64))
        if self.learns_prior:
            if self.prior_data == 0 or covariance == "tied":
                what = "prior_data above 0" if self.prior_data == 0 else "a covariance for each component, got 'tied'"
                raise ConfigError(f"prior_variance: to be learned it takes {what}")
            self.register_buffer("shared", torch.zeros_like(self._usual))
        shared = 1 if covariance == "tied" else k
        self.loc = nn.Parameter(torch.zeros(k, d, dtype=torch.float64))
        self.raw_scale = nn.Parameter(torch.zeros(shared, 1 if covariance == "spherical" else d, dtype=torch.float64))
        if self.dense and d > 1:
            self.lower = nn.Parameter(torch.zeros(shared, d * (d - 1) // 2, dtype=torch.float64))
        if student and df is None:
            self.raw_df = nn.Parameter(torch.zeros(k, dtype=torch.float64))

    # Parameters

    @property
    def scales(self) -> Tensor:
        """The diagonal of L, (K or 1, D or 1), in the units of the data."""
        return self._scale * self.support.unit

    @property
    def _scale(self) -> Tensor:
        return self.min_scale + softplus(self.raw_scale + inverse_softplus(1.0 - self.min_scale))

    @property
    def root(self) -> Tensor:
        """L, (K or 1, D, D), where Σ is not diagonal."""
        return self._triangle(self._scale)

    def _triangle(self, diagonal: Tensor) -> Tensor:
        root = torch.diag_embed(diagonal)
        if self.dims > 1:
            i, j = torch.tril_indices(self.dims, self.dims, -1, device=diagonal.device)
            root[:, i, j] = self.lower
        return root

    @property
    def covariances(self) -> Tensor:
        """Σ, (K, D, D), in the data's units."""
        if self.dense:
            sigma = self.root @ self.root.mT
        else:
            sigma = torch.diag_embed(self._scale.expand(-1, self.dims).square())
        return sigma.expand(self.components, -1, -1) * self.support.unit**2

    @property
    def df(self) -> Tensor:
        """ν, (K,)."""
        if self.given_df is not None:
            return torch.full_like(self.loc[:, 0], self.given_df)
        return self.least_df + softplus(self.raw_df + inverse_softplus(self.start_df - self.least_df))

    @torch.no_grad()
    def set(self, loc: Tensor, covariance: Tensor, df: Tensor | None = None) -> None:
        """Set μ, (K, D), Σ, (K or 1, D, D), both in the data's units, and ν, (K,)."""
        self.loc.copy_((loc - self.support.middle) / self.support.unit)
        covariance = covariance / self.support.unit**2
        if self.dense:
            self._set_root(covariance)
        else:
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            self._set_scale(variance.mean(-1, keepdim=True) if self.covariance == "spherical" else variance)
        if df is not None:
            self._set_df(df)

    def _set_scale(self, variance: Tensor) -> None:
        self.raw_scale.data.copy_(_inverse_scale(variance.clamp_min(0).sqrt() - self.min_scale, self.min_scale))

    def _set_root(self, covariance: Tensor) -> None:
        covariance = (covariance + covariance.mT) / 2
        eye = torch.eye(self.dims, dtype=covariance.dtype, device=covariance.device)
        below = torch.linalg.cholesky_ex(covariance - self.min_scale**2 * eye).info > 0
        if below.any():  # some eigenvalue is under the floor
            values, vectors = torch.linalg.eigh(covariance[below])
            covariance[below] = (vectors * values.clamp_min(self.min_scale**2)[:, None]) @ vectors.mT
        root = torch.linalg.cholesky(covariance)
        excess = root.diagonal(dim1=-2, dim2=-1) - self.min_scale
        self.raw_scale.data.copy_(_inverse_scale(excess, self.min_scale))
        if self.dims > 1:
            i, j = torch.tril_indices(self.dims, self.dims, -1, device=root.device)
            self.lower.data.copy_(root[:, i, j])

    def _set_df(self, df: Tensor) -> None:
        excess = (df - self.least_df).clamp_min(LEAST)
        start = inverse_softplus(self.start_df - self.least_df)
        self.raw_df.data.copy_(excess + torch.log(-torch.expm1(-excess)) - start)

    # Densities

    def rows(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = super().rows(x, seen)
        return x if self.support.unit == 1.0 else (x - self.support.middle) / self.support.unit

    @property
    def _inverse(self) -> Tensor:
        """L⁻¹, (K or 1, D, D), or its diagonal, (K, D)."""
        if not self.dense:
            return (1 / self._scale).expand(self.components, self.dims)
        root = self.root
        eye = torch.eye(self.dims, dtype=root.dtype, device=root.device)
        return torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)

    def _near(self, inverse: Tensor) -> bool:
        """Whether squares may be expanded: no centre is many times a component's least scale from the origin."""
        loc = self.loc.detach()
        if not self.dense:
            return float((loc * inverse.detach()).abs().max()) < NEAR
        reach = loc.norm(dim=1) + 3 * self.root.detach().flatten(1).norm(dim=1)
        return self.dims <= MANY and float((reach * inverse.detach().flatten(1).norm(dim=1)).max()) < NEAR

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Elements of x whose products a square takes, (P,) each."""
        if self.dense:
            i, j = torch.tril_indices(self.dims, self.dims, device=self.loc.device)
        else:
            i = j = torch.arange(self.dims, device=self.loc.device)
        return i, j

    def of_whole(self) -> Explain:
        measure, scale = self.measurer(), self._scale.log()
        log_det = scale.sum(1) if scale.shape[1] > 1 else self.dims * scale[:, 0]
        constant = -log_det - self.dims * math.log(self.support.unit)  # (K or 1,)
        if not self.student:
            normal = (constant - 0.5 * self.dims * math.log(2 * math.pi))[:, None]

            def explain(x: Tensor) -> tuple[Tensor, Any]:
                y, square = measure(x)
                return normal - 0.5 * square, Whole(y, square, self.dims, self.dense)

            return explain
        df = self.df[:, None]
        half = (df + self.dims) / 2
        gammas = torch.lgamma(half) - torch.lgamma(df / 2) - 0.5 * self.dims * torch.log(math.pi * df)
        constant = constant[:, None] + gammas

        def explain_with_tails(x: Tensor) -> tuple[Tensor, Any]:
            y, square = measure(x)
            return constant - half * torch.log1p(square / df), Whole(y, square, self.dims, self.dense)

        return explain_with_tails

    def of_parts(self) -> Explain:
        loc, spread = self.loc, self._spread()

        def explain(rows: Tensor) -> tuple[Tensor, Any]:
            part = self._part(rows, loc, spread)
            constant = -part.log_det - part.dims * math.log(self.support.unit)
            if not self.student:
                return constant - 0.5 * (part.dims * math.log(2 * math.pi) + part.square), part
            df = self.df[:, None]
            half = (df + part.dims) / 2
            gammas = torch.lgamma(half) - torch.lgamma(df / 2) - 0.5 * part.dims * torch.log(math.pi * df)
            return constant + gammas - half * torch.log1p(part.square / df), part

        return explain

    def _spread(self) -> Tensor:
        """L, (K or 1, D, D), or its diagonal, (K, D)."""
        return self.root if self.dense else self._scale.expand(self.components, self.dims)

    def _part(self, rows: Tensor, loc: Tensor, spread: Tensor) -> DensePart | DiagonalPart:
        return DensePart(rows, loc, spread) if self.dense else DiagonalPart(rows, loc, spread)

    @property
    def parts_at_once(self) -> int:
        wide = self.dims**2 if self.dense else 4 * self.dims
        return max(1, MATRICES // (self.components * wide))

    @property
    def width(self) -> int:
        inverse = self._inverse.detach()
        numbers = self.dims + len(self._pairs()[0]) + 3 * self.components
        return numbers if self._near(inverse) else self.dims * self.components

    def measurer(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Gives, of x, (N, D), y, (K, D, N), and ‖y‖², (K, N).

        Where the square may be expanded, (x − μ)ᵀ Σ⁻¹ (x − μ) = Σ Σ⁻¹_ij x_i x_j − 2 μᵀ Σ⁻¹ x + μᵀ Σ⁻¹ μ, it is one
        product with what all components share, x and its products (D + P, N), which then takes the place of y.
        """
        inverse, loc = self._inverse, self.loc
        if self._near(inverse):
            i, j = self._pairs()
            if self.dense:
                precision = inverse.mT @ inverse
                towards = (precision @ loc[..., None])[..., 0]
                factors = precision[:, i, j] * (1 + (i != j).to(loc.dtype))
            else:
                factors = inverse.square()
                towards = factors * loc
            both = torch.cat([-2 * towards, factors.expand(self.components, -1)], 1)  # (K, D + P)
            constant = (loc * towards).sum(1, keepdim=True)

            def expand(x: Tensor) -> tuple[Tensor, Tensor]:
                rows = x.mT.contiguous()
                products = [rows[: d + 1] * row for d, row in enumerate(rows)] if self.dense else [rows.square()]
                seen = torch.cat([rows, *products])
                return seen, torch.addmm(constant, both, seen).clamp_min(0.0)

            return expand

        def whiten(x: Tensor) -> Tensor:
            if not self.dense:
                return (x.mT - loc[..., None]) * inverse[..., None]
            if len(inverse) == 1:
                return inverse[0] @ x.mT - (loc @ inverse[0].mT)[..., None]
            offset = (inverse @ loc[..., None]).reshape(-1, 1)
            stacked = inverse.reshape(-1, self.dims)  # all components by one product
            return torch.addmm(offset, stacked, x.mT, beta=-1).unflatten(0, (-1, self.dims))

        def measure(x: Tensor) -> tuple[Tensor, Tensor]:
            y = whiten(x)
            return y, y.square().sum(1)

        return measure

    # Expectation maximisation

    def count(self, seen: Any, share: Tensor) -> Sums:
        sums, weight = {}, share
        if self.student:  # E[g | x] and E[log g | x], g the scale that the datum was drawn with
            df = self.df[:, None]
            g = (df + seen.dims) / (df + seen.square)
            weight, log_g = share * g, g.log() - g
            if isinstance(seen.dims, Tensor):
                log_g = log_g + _digamma_less_log((df + seen.dims) / 2) - _digamma_less_log((df + self.dims) / 2)
            sums = {"g": weight.sum(1), "log_g": (share * log_g).sum(1)}
        return sums | seen.sums(weight, share, self._inverse)

    def _about_centres(self, sums: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w y and Σ w y yᵀ, or its diagonal, of Σ w x and Σ w x_i x_j beside one another, (K, D + P)."""
        i, j = self._pairs()
        linear, products = sums.split([self.dims, len(i)], 1)
        loc, inverse = self.loc, self._inverse
        off = linear - weight[:, None] * loc
        if not self.dense:
            return off * inverse, (products - loc * (linear + off)) * inverse.square()
        square = sums.new_zeros(self.components, self.dims, self.dims)
        square[:, i, j] = products
        square[:, j, i] = products
        square = square - loc[:, :, None] * linear[:, None] - off[:, :, None] * loc[:, None]
        return (inverse @ off[..., None])[..., 0], inverse @ square @ inverse.mT

    @torch.no_grad()
    def set_from(self, sums: Sums, n: Tensor) -> None:
        some = n > LEAST
        n = n.clamp_min(LEAST)
        weight = sums.get("g", n).clamp_min(LEAST)
        y, spread = self._about_centres(sums["x"], weight) if "x" in sums else (sums["y"], sums["yy"])
        of_each = sums.get("n of each", n[:, None])  # data in which an element is there
        there = some[:, None] & (of_each > LEAST)
        moved = sums.get("weight of each", weight[:, None]).clamp_min(LEAST)
        moved = torch.where(there, y / moved, 0.0)  # the new centre, in y
        if self.student and self.given_df is None:
            found = _degrees_of_freedom(self.df, sums["log_g"] / n, self.dims, self.least_df, self.most_df)
            self._set_df(torch.where(some, found, self.df))
        if self.dense:
            root = self.root
            spread = spread - y[:, :, None] * moved[:, None]
            if self.covariance == "tied":
                spread = spread.sum(0, keepdim=True) / n.sum()
            else:
                eye = torch.eye(self.dims, dtype=n.dtype, device=n.device)
                spread = torch.where(some[:, None, None], spread / n[:, None, None], eye)
            self.loc.data.add_((root @ moved[..., None])[..., 0])
            size = n.sum() if self.covariance == "tied" else n[:, None, None]
            self._set_root(self._with_prior(root @ spread @ root.mT, size))
            self._learn_prior()
            return
        scale = self._scale
        spread = spread - y * moved
        if self.covariance == "spherical":
            spread, of_each = spread.mean(1, keepdim=True), of_each.mean(1, keepdim=True)
            there = some[:, None] & (of_each > LEAST)
        spread = torch.where(there, spread / of_each.clamp_min(LEAST), 1.0)
        self.loc.data.add_(scale * moved)
        self._set_scale(self._with_prior(scale.square() * spread, of_each))
        self._learn_prior()

    @property
    def _usual(self) -> Tensor:
        """v diag(s²), (D, D), or its diagonal, (D,), or their mean, (1,), as a covariance is kept."""
        own = self.prior_variance * self.column_variance
        if self.dense:
            return torch.diag_embed(own)
        return own.mean(0, keepdim=True) if self.covariance == "spherical" else own

    def _with_prior(self, variance: Tensor, size: Tensor) -> Tensor:
        """(Co)variances of so many data, with those of the prior among them."""
        if self.prior_data == 0:
            return variance
        own = self.shared if self.learns_prior else self._usual
        return (size * variance + self.prior_data * own) / (size + self.prior_data)

    def _learn_prior(self) -> None:
        """Ψ⁻¹ = Σ_k Σ_k⁻¹ / K. With the Σ_k that are set from it, EM climbs

            log p(x) − ν₀ Σ_k KL(N(0, Ψ) ‖ N(0, Σ_k))

        in all of them: components are alike as far as the data let them. It is what EM finds of Ψ, too, where Σ_k⁻¹
        are Wishart about Ψ⁻¹ with ν₀ degrees of freedom, and integrated out.
        """
        if not self.learns_prior:
            return
        if self.dense:
            self.shared.copy_(torch.cholesky_inverse(torch.linalg.cholesky(torch.cholesky_inverse(self.root).mean(0))))
        else:
            self.shared.copy_(1 / self._scale.square().reciprocal().mean(0))

    def reset(self) -> None:
        super().reset()
        if self.learns_prior:
            self.shared.copy_(self._usual)

    @torch.no_grad()
    def look(self, x: Tensor, w: Tensor) -> None:
        if self.prior_data == 0:
            return
        there = (~x.isnan()).to(x.dtype) * w[:, None]
        n, x = there.sum(0).clamp_min(LEAST), x.nan_to_num()
        mean = (there * x).sum(0) / n
        self.column_variance.copy_((there * (x - mean).square()).sum(0) / n)

    @torch.no_grad()
    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        self.loc[k] = torch.where(x.isnan(), weights @ self.loc / weights.sum().clamp_min(LEAST), x)
        if self.student and self.given_df is None:
            self.raw_df[k] = 0.0
        if self.covariance == "tied":
            return
        others = weights.clone()
        others[k] = 0
        share = others / others.sum().clamp_min(LEAST)
        if self.dense:
            covariance = self.root @ self.root.mT
            covariance[k] = narrow**2 * (share[:, None, None] * covariance).sum(0)
            self._set_root(covariance)
        else:
            variance = self._scale.square()
            variance[k] = narrow**2 * (share[:, None] * variance).sum(0)
            self._set_scale(variance)

    @torch.no_grad()
    def collapsed(self, n: Tensor) -> Tensor:
        """Components at the floor in directions in which the data as a whole are not, having too few of them."""
        few = n < (self.dims + 1 if self.dense else 2)
        if self.covariance == "tied" or not few.any():
            return torch.zeros_like(few)
        floor = 1.01 * self.min_scale
        if not self.dense:
            return few & (self._scale.amin(1) < floor)
        share = n / n.sum()
        apart = self.loc - share @ self.loc
        covariance = self.root @ self.root.mT
        whole = (share[:, None, None] * (covariance + apart[:, :, None] * apart[:, None])).sum(0)
        flat = (torch.linalg.eigvalsh(whole) < floor**2).sum()
        low = (torch.linalg.eigvalsh(covariance) < floor**2).sum(1)
        return (n < self.dims + 1 - flat) & (low > flat)

    # Moments and draws

    @property
    def means(self) -> Tensor:
        return self.loc * self.support.unit + self.support.middle

    @property
    def variances(self) -> Tensor:
        if self.dense:
            variance = self.root.square().sum(2)
        else:
            variance = self._scale.square()
        if self.student:
            df = self.df[:, None]
            variance = variance * torch.where(df > 2, df / (df - 2), math.inf)
        return variance.expand(self.components, self.dims) * self.support.unit**2

    def draw(self, k: Tensor) -> Tensor:
        noise = torch.randn(len(k), self.dims, dtype=self.loc.dtype, device=self.loc.device)
        if self.student:
            half = self.df[k, None] / 2
            noise = noise * (torch._standard_gamma(half) / half).rsqrt()
        if not self.dense:
            x = self.loc[k] + self._scale.expand(self.components, -1)[k] * noise
        else:
            x, roots = torch.empty_like(noise), self.root.expand(self.components, -1, -1)
            for i, root in enumerate(roots):
                mine = k == i
                x[mine] = self.loc[i] + noise[mine] @ root.mT
        return x * self.support.unit + self.support.middle

    def alone(self, rows: Tensor) -> Elementwise:
        found, spread = [], self._spread()
        for few in rows.split(self.parts_at_once):
            part = self._part(few, self.loc, spread)
            away = few.isnan()
            loc = torch.where(away, part.expected(), self.loc[:, None])  # (K, N, D)
            variance, df = part.rest().expand(loc.shape), torch.zeros_like(loc)
            if self.student:
                prior = self.df[:, None]
                df = prior + part.dims  # (K, N)
                variance = variance * torch.where(away, ((prior + part.square) / df)[..., None], 1.0)
                df = torch.where(away, df[..., None], prior[..., None])
            found.append(torch.stack([loc, variance, df]))
        loc, variance, df = torch.cat(found, 2).permute(0, 2, 3, 1).unflatten(2, self.support.shape)
        loc, scale = loc * self.support.unit + self.support.middle, variance.sqrt() * self.support.unit
        return StudentT(df, loc, scale, event_dims=0) if self.student else DiagonalNormal(loc, scale, event_dims=0)

    @torch.no_grad()
    def complete(self, k: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        """Draws of all of x, moved by what is expected of what is missing given how far off they are in the rest.

        Hoffman and Ribak, "Constrained realizations of Gaussian fields", 1991.
        """
        rows, out, spread = self.rows(x, seen), x.clone(), self._spread()
        for j in k.unique().tolist():
            for few in (k == j).nonzero()[:, 0].split(self.components * self.parts_at_once):
                drawn, own = self._draw_near(j, rows[few]), spread[j % len(spread)][None]
                off = self._part(rows[few] - drawn, torch.zeros_like(self.loc[:1]), own).expected()[0]
                out[few] = (drawn + off) * self.support.unit + self.support.middle
        return torch.where(seen, x, out)

    def _draw_near(self, j: int, rows: Tensor) -> Tensor:
        """All elements drawn of component j; of Student's t with scales g drawn given what is there of rows, (N, D)."""
        loc, spread = self.loc[j : j + 1], self._spread()
        spread = spread[j % len(spread)][None]
        noise = torch.randn_like(rows)
        noise = noise @ spread[0].mT if self.dense else noise * spread
        if not self.student:
            return loc + noise
        part, df = self._part(rows, loc, spread), self.df[j]
        g = torch._standard_gamma((df + part.dims) / 2) * 2 / (df + part.square[0])
        return loc + noise * g.rsqrt()[:, None]


def _digamma_less_log(half: Tensor) -> Tensor:
    return torch.digamma(half) - half.log()


def _inverse_scale(excess: Tensor, floor: float) -> Tensor:
    """The raw value of a scale that stands so far above its floor."""
    excess = excess.clamp_min(LEAST)
    return excess + torch.log(-torch.expm1(-excess)) - inverse_softplus(1.0 - floor)


def _degrees_of_freedom(before: Tensor, log_g: Tensor, dims: int, low: float, high: float) -> Tensor:
    """ν where log(ν/2) − ψ(ν/2) + 1 + E[log g − g] = 0, by bisection in log ν, (K,).

    Args:
        before: ν under which data were explained.
        log_g: mean of log E[g | x] − E[g | x], to which ψ − log of (ν + D)/2 is added to make it E[log g − g].
    """
    half = (before + dims) / 2
    known = 1 + log_g + torch.digamma(half) - half.log()
    a, b = torch.full_like(before, math.log(low)), torch.full_like(before, math.log(high))
    for _ in range(60):
        middle = (a + b) / 2
        nu = middle.exp() / 2
        rising = nu.log() - torch.digamma(nu) + known > 0  # it falls with ν: the root lies above
        a, b = torch.where(rising, middle, a), torch.where(rising, b, middle)
    return ((a + b) / 2).exp()
