"""Autoregressive conditionals: p(x | c) as a product over the elements of x, each given those before it.

    p(x | c) = Π_d p(x_d | x_1, ..., x_{d−1}, c)

A causal network gives the parameters of every factor, a head turns them into densities. A density takes one pass; a
sample takes D steps, each of which computes only what is new.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.heads import CategoricalHead, Head, Support
from jensen.distributions import Categorical, Elementwise, after_end
from jensen.errors import CapabilityError, ConfigError
from jensen.nets.causal import Causal, Numbers, Symbols
from jensen.registry import component

DRAWS_OF_MEAN = 16
PARAMETERS, HIDDEN = 1 << 24, 1 << 27  # of densities and of networks, in memory at once where there is no gradient

Sampler = Literal["sequential", "jacobi"]


@component("sampling", "autoregressive", paper="Song et al. 2021")
def autoregressive(*, sampler: Sampler = "sequential") -> Sampler:
    """How elements are drawn that follow one another.

    Settings:
        sampler: "sequential", one after another, each computed once; "jacobi", all at once, again and again until
            nothing changes. Both give the same draws.
    """
    return sampler


class Autoregressive(nn.Module):
    """p(x | parents) by a causal network and a head.

    Args:
        network: x and a context to the parameters of all elements.
        head: parameters to densities; one that factorises over the elements.
        context: turns the parents into one context, (N, C); None where there are no parents, or where the only parent
            is that context.
    """

    sampling = "autoregressive"

    def __init__(self, network: Causal, head: Head, context: nn.Module | None = None):
        super().__init__()
        self.network, self.head, self.context = network, head, context
        self.precision: torch.dtype | None = None
        self.explained = head.support.shape

    @property
    def sequential_steps(self) -> int:
        """Network passes in a row that one sample takes."""
        return self.network.dims

    def forward(self, *parents: Tensor) -> Autoregression:
        if self.context is not None:
            return Autoregression(self, self.context(*parents))
        (context,) = parents or (None,)
        return Autoregression(self, context)

    def factors(self, x: Tensor, context: Tensor | None = None) -> Elementwise:
        """Of rows x, (N, *event): the density of each element given those before it, in one pass."""
        if self.precision is None:
            parameters = self.network(x, context)
        else:
            with torch.autocast(x.device.type, self.precision):
                parameters = self.network(x, context).float()
        if isinstance(self.head, CategoricalHead):  # the network has the classes last, and they may be many
            return self.head.of(parameters.mT.reshape(*x.shape, -1))
        return self.head(parameters.reshape(len(x), *self.head.parameter_shape))

    @property
    def end(self) -> int | None:
        """The symbol after which nothing else comes, if there is one."""
        return self.head.support.end

    def elements(self) -> Callable[[int], Callable[[Tensor], Elementwise]]:
        """From a position to the head of that element: parameters (N, P) to a density with event shape (1,)."""
        if any(p is not None for p in self.head._parameters.values()):
            return lambda position: at(self.head, position)
        part = at(self.head, 0)
        return lambda position: part

    @torch.no_grad()
    def initialize(self, x: Tensor, *parents: Tensor) -> None:
        """Let the network start out from the marginal of each element of x, (n, *event)."""
        bias = self.head.initial_bias(x)
        if bias is not None:
            self.network.set_output_bias(bias.reshape(self.network.per_element, -1))


def at(head: Head, position: int) -> Head:
    """A head for one element of the event, at a position of the flattened datum; its event shape is (1,)."""
    part = copy.copy(head)
    part.support = dataclasses.replace(head.support, shape=(1,))
    own = {name: p.flatten()[position : position + 1] for name, p in head._parameters.items() if p is not None}
    part._parameters = own  # pyright: ignore
    return part


class Autoregression(Distribution):
    """The density of an autoregressive conditional, (N,) data or, without context, of no batch shape.

    Args:
        of: the conditional.
        context: `(*batch, C)`.
        temperature, nucleus: how each element is drawn, see `tempered` and `nucleus`; densities are of such draws.
        sampler: in which order of work, see `sampled`.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(
        self,
        of: Autoregressive,
        context: Tensor | None = None,
        temperature: float = 1.0,
        nucleus: float = 1.0,
        sampler: Sampler = "sequential",
    ):
        self.of, self.context, self.temperature, self.share, self.sampler = of, context, temperature, nucleus, sampler

    def _with(self, **changes: Any) -> Self:
        """The same but for some attributes."""
        made = copy.copy(self)
        made.__dict__.update(changes)
        return made

    @property
    def batch_shape(self) -> torch.Size:
        return self.context.shape[:-1] if self.context is not None else torch.Size()

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.of.network.shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.of.elements()(0)(self._like.new_zeros(1, self.of.network.per_element)).support

    @property
    def _like(self) -> Tensor:
        return next(self.of.parameters())

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`.

        With several orderings p is their average, (1/M) Σ_m p_m(x). In training the log-density of one of them, drawn
        at random, stands for it: a bound that is learned from one pass.
        """
        count = self.of.network.orderings
        network = self.of.network
        if self.of.training and network.any_order:
            network.arrange(torch.randperm(network.dims))
            return self._sum(self.terms(value))
        if count == 1:
            return self._in_order(value, 0)
        if self.of.training:
            return self._in_order(value, int(torch.randint(count, ())))
        return torch.stack([self._in_order(value, m) for m in range(count)]).logsumexp(0) - math.log(count)

    def _in_order(self, value: Tensor, ordering: int) -> Tensor:
        self.of.network.use(ordering)
        return self._sum(self.terms(value))

    def _sum(self, terms: Tensor) -> Tensor:
        return terms.flatten(terms.dim() - len(self.event_shape)).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        """log p of each element given those before it, in nats, `(*batch, *event)`: how much it surprises.

        Before it in the ordering that is in use, where there are several.
        """
        event = self.event_shape
        lead = torch.broadcast_shapes(value.shape[: value.dim() - len(event)], self.batch_shape)
        rows, context = value.expand(lead + event).reshape(-1, *event), self._rows(lead)
        if self.of.end is not None:  # what comes after the longest text has log p = 0
            needed = (~after_end(rows, self.of.end) | (rows != self.of.end)).any(0)
            rows = rows[:, : int(needed.nonzero().max()) + 1] if len(rows) else rows
        if torch.is_grad_enabled():
            terms = self._terms(rows, context)
        else:  # within bounds of memory, however many classes
            terms = torch.cat([self._terms(*part) for part in self._in_parts(context, rows)]) if len(rows) else rows
        if self.of.end is not None:
            terms = F.pad(terms, (0, event[0] - terms.shape[1]))
        return terms.reshape(lead + event)

    def _in_parts(self, context: Tensor | None, rows: Tensor, *beside: Tensor) -> Iterator[tuple[Any, ...]]:
        """Rows, their context, and what else there is of each, so many at once that all fits in memory."""
        elements, network = max(1, rows[:1].numel()), self.of.network
        size = min(PARAMETERS // network.per_element, HIDDEN // max(1, network.breadth)) // elements or 1
        contexts = [None] * math.ceil(len(rows) / size) if context is None else context.split(size)
        return zip(rows.split(size), contexts, *(part.split(size) for part in beside), strict=True)

    def _terms(self, rows: Tensor, context: Tensor | None) -> Tensor:
        return self._shaped(self.of.factors(rows, context)).log_prob_terms(rows)

    def factors(self, value: Tensor) -> Elementwise:
        """The density of each element of rows (N, *event) given those before it, in the ordering that is in use."""
        return self._shaped(self.of.factors(value, self._rows(value.shape[:1])))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """`(*sample_shape, *batch, *event)`."""
        lead = torch.Size(sample_shape) + self.batch_shape
        u, count = self.noise(lead + self.event_shape), self.of.network.orderings
        if count == 1:
            self.of.network.use(0)  # as in a density, whatever order was in use before
            return self.draw(u)
        rows, which = u.reshape(-1, *self.event_shape), torch.randint(count, (math.prod(lead),))
        context = self._rows(lead)
        for m in which.unique().tolist():
            mine = torch.nonzero(which == m)[:, 0]
            self.of.network.use(m)
            part = self._with(context=None if context is None else context[mine])
            rows[mine] = part.draw(rows[mine])
        return rows.reshape(u.shape)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers inside (0, 1), one an element, from which `from_noise` makes a sample."""
        u = torch.rand(torch.Size(shape), dtype=self._like.dtype, device=self._like.device)
        tiny = torch.finfo(u.dtype).eps / 2
        return u.clamp(tiny, 1 - tiny)

    def draw(self, u: Tensor, given: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """What uniform noise makes of elements that are not known, by the sampler; see `complete`."""
        return (self.from_noise_jacobi if self.sampler == "jacobi" else self.complete)(u, given, known)[0]

    def from_noise(self, u: Tensor) -> Tensor:
        """The sample that uniform noise makes, `(*, *event)` of both, computing everything once.

        Args:
            u: share of each element's mass below it.
        """
        return self.complete(u)[0]

    @torch.no_grad()
    def complete(
        self,
        u: Tensor,
        given: Tensor | None = None,
        known: Tensor | None = None,
        lasting: Tensor | None = None,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw what is not known, element by element, each given what stands before it, drawn or known.

        Where all that is known comes first, these are draws from p(unknown | known). Elsewhere what is known after them
        gives them their weight,

            log w = Σ log p(x_d | x_<d) over known d that follow an unknown one.

        Where something other than the end is known to come later, or it is `lasting`, no end is drawn, and
        log (1 − p(end)) is added.

        Args:
            u: share of each drawn element's mass below it, `(*, *event)`.
            given, known: values, and where they hold, `(*, *event)`; nothing but ends after one that is known.
            lasting: where no end is, `(*, *event)`; with something known.
            steps: with `given`, how many elements are met, all if None; the others stay as given, and weigh nothing.

        Returns:
            `(*, *event)`, and log w, `(*)`; None where nothing is known.
        """
        lead = u.shape[: u.dim() - len(self.event_shape)]
        u = u.reshape(-1, self.of.network.dims)
        x, weight, end = u.clone(), None, self.of.end
        drawn = torch.zeros(len(u), dtype=torch.bool, device=u.device)
        ended, every, some, ahead = torch.zeros_like(drawn), [], [], None
        if known is not None:
            assert given is not None
            given, known = (v.expand(lead + self.event_shape).reshape(x.shape) for v in (given, known))
            x.copy_(given)
            weight, every, some = u.new_zeros(len(u)), known.all(0).tolist(), known.any(0).tolist()
            if end is not None:  # whether there is something other than the end, here or later
                ahead = known & (given != end)
                ahead = ahead if lasting is None else ahead | lasting.expand(lead + self.event_shape).reshape(x.shape)
                ahead = ahead.flip(1).cummax(1).values.flip(1)
        step, last = self.of.network.walk(len(u), self._rows(lead)), None
        elements, shares = self.of.elements(), u.split(1, 1)
        for position in self.of.network.order.tolist()[:steps]:
            if end is not None and ended.all():
                x[:, position] = end
                continue
            factor: Any = self._shaped(elements(position)(step(last)))
            if weight is None:
                last = factor.quantile(shares[position])[:, 0]
            else:
                assert given is not None and known is not None
                last, here = given[:, position], known[:, position]
                if some[position] and bool((weighs := here & drawn & ~ended).any()):
                    log_p = factor.log_prob(last.unsqueeze(1))
                    weight += torch.where(weighs, log_p, torch.zeros_like(log_p))
                if not every[position]:
                    if ahead is not None and bool(ahead[:, position].any()):
                        factor, kept = factor.without_end(ahead[:, position, None])
                        weight += torch.where(here, torch.zeros_like(weight), kept[:, 0])
                    last = torch.where(here, last, factor.quantile(shares[position])[:, 0])
                    drawn = drawn | ~here
            if end is not None:
                last = last.masked_fill(ended, end)
                ended = ended | (last == end)
            x[:, position] = last
        return x.reshape(lead + self.event_shape), None if weight is None else weight.reshape(lead)

    @torch.no_grad()
    def from_noise_naively(self, u: Tensor) -> Tensor:
        """As `from_noise`, by a full pass for each element: what it must equal, at D times the cost."""
        lead = u.shape[: u.dim() - len(self.event_shape)]
        u = u.reshape(-1, *self.event_shape)
        context, x = self._rows(lead), torch.zeros_like(u)
        flat = x.flatten(1)
        for position in self.of.network.order.tolist():
            drawn = self._shaped(self.of.factors(x, context)).quantile(u)
            flat[:, position] = drawn.flatten(1)[:, position]
            x = flat.reshape(x.shape)
        return x.reshape(lead + self.event_shape)

    @torch.no_grad()
    def from_noise_jacobi(
        self,
        u: Tensor,
        given: Tensor | None = None,
        known: Tensor | None = None,
        listener: Callable[[int, float], None] | None = None,
    ) -> tuple[Tensor, int]:
        """As `complete`, all elements at once, again and again until nothing changes.

        Element d is right after d passes at the latest, so that this ends after D + 1; often much sooner.

        Args:
            listener: told of each pass the share of the elements that it changed.

        Returns:
            The sample, and how many passes it took.

        Song et al., "Accelerating feedforward computation via parallel nonlinear equation solving", 2021,
        arXiv:2002.03629.
        """
        lead = u.shape[: u.dim() - len(self.event_shape)]
        u = u.reshape(-1, *self.event_shape)
        context, x, passes = self._rows(lead), torch.zeros_like(u), 0
        held = () if given is None or known is None else (given.to(u), known)
        held = tuple(v.expand(lead + self.event_shape).reshape(u.shape) for v in held)
        while True:
            new = torch.cat([self._quantiles(*part) for part in self._in_parts(context, x, u, *held)])
            passes += 1
            changed = float((new != x).float().mean())
            if listener is not None:
                listener(passes, changed)
            x = new
            if changed == 0 or passes > self.of.network.dims:
                return x.reshape(lead + self.event_shape), passes

    def _quantiles(
        self, x: Tensor, context: Tensor | None, u: Tensor, given: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """What noise makes of each element of rows (N, *event), given those before it in x, but for what is known."""
        factor: Any = self._shaped(self.of.factors(x, context))
        if given is None or known is None:
            return factor.quantile(u)
        if (end := self.of.end) is None:
            return torch.where(known, given, factor.quantile(u))
        found = torch.where(known, given, factor.without_end(known)[0].quantile(u))  # what is known draws no end
        return found.masked_fill(after_end(found, end), end)

    def sampled(self, sampler: Sampler) -> Self:
        """Drawn element by element, each computed once, or all at once by fixed-point passes: the same draws."""
        return self._with(sampler=sampler)

    def tempered(self, temperature: float) -> Self:
        """Each element drawn with scales multiplied, and logits divided, by a temperature."""
        return self._with(temperature=self.temperature * temperature)

    def nucleus(self, share: float) -> Self:
        """Each element drawn from its likeliest classes only, the fewest that weigh at least `share`.

        Raises:
            ValueError: the elements are not drawn from classes.
        """
        return self._with(share=share)

    @property
    def mean(self) -> Tensor:
        """Expected value, `(*batch, *event)`, by 16 draws: an estimate, the same at every call."""
        if self.of.head.support.kind == "symbol":
            raise CapabilityError("symbols have no mean: draw them instead (--draw, in Python mean=False)")
        with torch.random.fork_rng(devices=[self._like.device] if self._like.is_cuda else []):
            torch.manual_seed(0)
            return self.sample((DRAWS_OF_MEAN,)).mean(0)

    @property
    def mode(self) -> Tensor:
        raise CapabilityError("the most likely value of an autoregressive density is not known: draw from it instead")

    def detach(self) -> Self:
        """The same density with the context stopped; gradients still reach the value, and the network."""
        context = self.context.detach() if self.context is not None else None
        return self._with(of=_stopped(self.of), context=context)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The batch, of size K·B, seen as `sizes`, say (K, B)."""
        if self.context is None or self.context.shape[0] != math.prod(sizes):
            return self
        return self._with(context=self.context.unflatten(0, tuple(sizes)))

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same density for every index of a larger batch."""
        if self.context is None:
            return self
        context = self.context.expand(torch.Size(batch_shape) + self.context.shape[-1:])
        return self._with(context=context)

    def __repr__(self) -> str:
        batch, event = tuple(self.batch_shape), tuple(self.event_shape)
        return f"Autoregression(batch_shape={batch}, event_shape={event})"

    def _rows(self, lead: torch.Size) -> Tensor | None:
        """The context of rows, (N, C), for leading shape `lead`."""
        if self.context is None:
            return None
        return self.context.expand(lead + self.context.shape[-1:]).reshape(-1, self.context.shape[-1])

    def _shaped(self, factor: Elementwise) -> Elementwise:
        """A factor with its temperature and nucleus."""
        if self.temperature != 1.0:
            if not hasattr(factor, "tempered"):
                raise ValueError(f"a {type(factor).__name__} has no temperature")
            factor = factor.tempered(self.temperature)  # pyright: ignore[reportAttributeAccessIssue]
        if self.share < 1.0:
            if not isinstance(factor, Categorical):
                raise ValueError(f"a nucleus needs a choice among classes, and each element is {type(factor).__name__}")
            factor = factor.nucleus(self.share)
        return factor


def _stopped(module: Autoregressive) -> Autoregressive:
    """A copy whose parameters take no gradient."""
    memo = {id(p): p.detach() for p in module.parameters()}
    return copy.deepcopy(module, memo)


def embedding(support: Support, width: int) -> nn.Module:
    """Values of a support as vectors: whole numbers out of few, each its own vector; else affine in the number."""
    if support.kind == "binary":
        return Symbols(width, 2)
    if support.kind == "symbol":
        return Symbols(width, support.levels or 2)
    if support.kind == "levels" and (support.levels or 0) <= 256:
        return Symbols(width, support.levels or 256)
    return Numbers(width, support.middle, support.unit, logarithm=support.kind == "count")


def factorised(head: Any, name: str) -> Head:
    """The head of one element, checked. Raises `ConfigError` where it is itself autoregressive."""
    if not isinstance(head, Head) or isinstance(head, AutoregressiveHead):
        raise ConfigError(f"likelihood: {name}: expected one that factorises over the elements, got {head}")
    return head


class AutoregressiveHead(Head):
    """The network's output is a context, and the density given it autoregressive: a strong decoder.

    A strong decoder may explain the data without z, so that q collapses onto the prior: `jensen diagnose` tells.
    Chen et al., "Variational lossy autoencoder", 2017, arXiv:1611.02731.
    """

    def __init__(self, conditional: Autoregressive, features: int):
        super().__init__(conditional.head.support, conditional.head.per_element)
        self.conditional, self.features = conditional, features

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (self.features,)

    def forward(self, parameters: Tensor) -> Autoregression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.conditional(self._precise(parameters))

    def initial_bias(self, x: Tensor) -> None:
        with torch.no_grad():
            self.conditional.initialize(x)
