"""A density by all its conditionals p(x_d | x_o), of any element d and any known others o.

    p_σ(x_S) = Π_i p(x_σ(i) | x_σ(<i)),    σ an order of the elements in S

Whatever is missing is left out of the order, so that every part of a datum has a density, and is put behind all that is
known to be drawn. The density is the average over a few orders, drawn at random once and for all. In training the
log-density is estimated from one pass: of the s elements that are known, t at random are shown, t uniform below s, and

    E_σ log p_σ(x_S) = E_t E_o s / (s − t) Σ_{d ∈ S, d ∉ o} log p(x_d | x_o)

Uria, Murray and Larochelle, "A deep and tractable density estimator", 2014, arXiv:1310.1757.
Hoogeboom, Gritsenko, Bastings, Poole, van den Berg and Salimans, "Autoregressive diffusion models", 2022,
arXiv:2110.02037, draw several elements at once and train on pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.amortized import run_network, start_from
from jensen.conditionals.heads import Head
from jensen.distributions import Elementwise

NUMBERS = 1 << 23  # put out at once by the network, where there is no gradient
WIDTH = 512  # about as many numbers as it has inside for a row


class Orderless(nn.Module):
    """p(x | conditions) by p(x_d | x_o) of any element d and any known others o, which a subclass gives.

    Args:
        shape: of x.
        orders: those that the density is the average of, (M, D).
        passes: P, with each datum in training.
        gaps: whether the data have gaps.
    """

    orders: Tensor

    def __init__(self, shape: Sequence[int], orders: Tensor, passes: int = 1, gaps: bool = False):
        super().__init__()
        self.shape, self.passes, self.sees_gaps = torch.Size(shape), passes, gaps
        self.register_buffer("orders", orders)

    @property
    def averages(self) -> bool:
        """Whether the density is an average of several, no one of which tells an element alone."""
        return len(self.orders) > 1

    @property
    def sequential_steps(self) -> int:
        """Passes in a row that one sample takes."""
        return self.orders.shape[1]

    @property
    def width(self) -> int:
        """Numbers that a row takes on its way."""
        raise NotImplementedError

    def forward(self, *conditions: Tensor) -> OrderlessDensity:
        return OrderlessDensity(self, conditions)

    def given(self, x: Tensor, known: Tensor, *conditions: Tensor) -> Elementwise:
        """The density of each element of rows (N, *event) given those that are known, in one pass."""
        raise NotImplementedError

    def learning_terms(self, x: Tensor, known: Tensor, seen: Tensor, *conditions: Tensor) -> Tensor:
        """log p(x_d | x_o) in training of what is there and not known of rows (N, D), in nats, else 0, (N, D)."""
        terms = self.given(x, known, *conditions).log_prob_terms(x)
        return torch.where(seen & ~known, terms, torch.zeros((), dtype=terms.dtype))


class OrderlessNetwork(Orderless):
    """All conditionals by one network.

    Args:
        network: of what `join` makes of the known elements, to a head's parameters.
        join: takes x and where it is known, both (N, D), and the conditions.
        head: parameters to a density of each element.
        orders, passes, gaps: as of `Orderless`.
    """

    def __init__(
        self, network: nn.Module, join: nn.Module, head: Head, orders: Tensor, passes: int = 1, gaps: bool = False
    ):
        super().__init__(head.support.shape, orders, passes, gaps)
        self.network, self.join, self.head = network, join, head
        self.precision: torch.dtype | None = None

    @property
    def width(self) -> int:
        return max(WIDTH, math.prod(self.head.parameter_shape))

    def given(self, x: Tensor, known: Tensor, *conditions: Tensor) -> Elementwise:
        x, known = torch.where(known, x, torch.zeros((), dtype=x.dtype)).flatten(1), known.flatten(1)
        return self.head(run_network(self.network, (self.join(x, known, *conditions),), self.precision))

    def initialize(self, x: Tensor, *conditions: Tensor) -> None:
        """Start from the marginals of data x, (n, *event), NaN where they were not seen."""
        bias, output = self.head.initial_bias(x), getattr(self.network, "output", None)
        start_from(self.network, bias)
        if bias is not None and output is not None:
            nn.init.zeros_(output.weight)


class OrderlessDensity(Distribution):
    """The density of an orderless conditional, (N,) data or, without conditions, of no batch shape.

    Args:
        of: the conditional.
        conditions: each (N, ...).
        temperature: of each element as it is drawn.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, of: Orderless, conditions: Sequence[Tensor] = (), temperature: float = 1.0):
        self.of, self.conditions, self.temperature = of, tuple(conditions), temperature

    @property
    def batch_shape(self) -> torch.Size:
        return self.conditions[0].shape[:1] if self.conditions else torch.Size()

    @property
    def event_shape(self) -> torch.Size:
        return self.of.shape

    @property
    def support(self) -> Any:
        """The constraint on an element; real where one is."""
        none = self._like.new_zeros(1, *self.event_shape)
        return self.given(none, none.bool(), torch.zeros(1, dtype=torch.long)).support

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`: the average over the orders; in training an estimate of the bound by one of them."""
        return self.log_marginal(value, torch.ones_like(value, dtype=torch.bool))

    def log_marginal(self, value: Tensor, seen: Tensor) -> Tensor:
        """log p of the elements that were seen, in nats, `(*batch,)`; of none it is 0.

        Args:
            value: `(*batch, *event)`; what is not seen is never looked at.
            seen: the same shape, or `(*event)`.
        """
        lead = value.shape[: value.dim() - len(self.event_shape)]
        rows, seen = value.reshape(-1, *self.event_shape), seen.expand(value.shape).reshape(-1, *self.event_shape)
        rows = torch.where(seen, rows, torch.zeros((), dtype=rows.dtype))
        if self.of.training:
            return self._estimate(rows, seen).reshape(lead)
        each = [self._in_order(rows, seen, order) for order in self.of.orders]
        return (torch.stack(each).logsumexp(0) - math.log(len(each))).reshape(lead)

    def _estimate(self, rows: Tensor, seen: Tensor) -> Tensor:
        """A mean over P passes, the numbers of elements that are shown spread evenly over them."""
        n, passes = len(rows), self.of.passes
        rows, seen = rows.repeat(passes, *(1,) * (rows.dim() - 1)), seen.repeat(passes, *(1,) * (seen.dim() - 1))
        flat = seen.flatten(1)
        count, turn = flat.sum(1), torch.arange(passes, device=rows.device).repeat_interleave(n)
        shown = ((torch.rand(len(rows), device=rows.device) + turn) / passes * count).floor().clamp_max(count - 1)
        place = torch.rand(flat.shape, device=rows.device).masked_fill(~flat, 2.0).argsort(1).argsort(1)
        known = place < shown.unsqueeze(1)
        conditions = [c.repeat(passes, *(1,) * (c.dim() - 1)) for c in self.conditions]
        total = self.of.learning_terms(rows, known.view_as(rows), seen, *conditions).flatten(1).sum(1)
        return (total * count / (count - shown).clamp_min(1)).view(passes, n).mean(0)

    def _in_order(self, rows: Tensor, seen: Tensor, order: Tensor) -> Tensor:
        """log p of rows in one order, (N,): a pass for every element that was seen."""
        place, total = order.argsort(), torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
        flat = seen.flatten(1)
        row, d = flat.nonzero(as_tuple=True)
        for some in torch.arange(len(row), device=row.device).split(self.at_once):
            i, j = row[some], d[some]
            known = flat[i] & (place < place[j].unsqueeze(1))
            terms = self.given(rows[i], known.view_as(rows[i]), i).log_prob_terms(rows[i]).flatten(1)
            total = total.index_add(0, i, terms.gather(1, j.unsqueeze(1)).squeeze(1).to(total))
        return total

    def given(self, value: Tensor, known: Tensor, row: Tensor | None = None) -> Elementwise:
        """The density of each element of rows (N, *event) given those that are known, in one pass.

        Args:
            row: which of the conditions each row has; None where each has its own.
        """
        conditions = self.conditions
        if conditions and row is not None:
            conditions = [c[row % len(c)] for c in conditions]
        elif conditions:
            conditions = [c.repeat(len(value) // len(c), *(1,) * (c.dim() - 1)) for c in conditions]
        found = self.of.given(value, known, *conditions)
        if self.temperature != 1.0:
            if not hasattr(found, "tempered"):
                raise ValueError(f"a {type(found).__name__} has no temperature")
            found = found.tempered(self.temperature)  # pyright: ignore[reportAttributeAccessIssue]
        return found

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """`(*sample_shape, *batch, *event)`, each in one of the orders of the density."""
        lead = torch.Size(sample_shape) + self.batch_shape
        orders = self.of.orders
        x = torch.zeros(math.prod(lead), *self.event_shape, dtype=self._like.dtype, device=orders.device)
        chosen = orders[torch.randint(len(orders), (len(x),), device=orders.device)]
        return self._draw(x, torch.zeros_like(x, dtype=torch.bool), chosen).reshape(lead + self.event_shape)

    def complete(self, value: Tensor, known: Tensor) -> Tensor:
        """Rows (N, *event) with what is not known drawn, element by element in orders of their own."""
        orders = torch.rand(len(value), self.of.orders.shape[1], device=value.device).argsort(1)
        return self._draw(value, known, orders)

    @torch.no_grad()
    def _draw(self, value: Tensor, known: Tensor, orders: Tensor) -> Tensor:
        """Draw what is not known, in an order for each row, (N, D)."""
        out = [
            self._draw_few(value[few], known[few], orders[few], few)
            for few in torch.arange(len(value), device=value.device).split(self.at_once)
        ]
        return torch.cat(out) if out else value

    def _draw_few(self, value: Tensor, known: Tensor, orders: Tensor, row: Tensor) -> Tensor:
        x, known = value.flatten(1).clone(), known.flatten(1).clone()
        behind = orders.gather(
            1, known.gather(1, orders).int().argsort(dim=1, stable=True)
        )  # what is unknown comes first
        missing = (~known).sum(1)
        for step in range(int(missing.max()) if len(x) else 0):
            here = (missing > step).nonzero()[:, 0]
            j = behind[here, step]
            shape = (len(here), *self.event_shape)
            found = self.given(x[here].view(shape), known[here].view(shape), row[here]).sample().flatten(1)
            x[here, j] = found.gather(1, j.unsqueeze(1)).squeeze(1).to(x)
            known[here, j] = True
        return x.view_as(value)

    def tempered(self, temperature: float) -> OrderlessDensity:
        """Each element drawn with scales multiplied, and logits divided, by a temperature."""
        return OrderlessDensity(self.of, self.conditions, self.temperature * temperature)

    @property
    def at_once(self) -> int:
        """Rows that go through the network together."""
        return max(1, NUMBERS // self.of.width)

    @property
    def _like(self) -> Tensor:
        return next(self.of.parameters())

    def __repr__(self) -> str:
        return f"OrderlessDensity(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
