"""A model is a pair (p, q). What it can do is derived from the pair, never typed in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jensen.core.evidence import Evidence, Observed, evidence
from jensen.core.joint import Joint

EXACT, LOWER_BOUND, ESTIMATE = "exact", "lower_bound", "estimate"


@dataclass(frozen=True)
class Capabilities:
    """What a model offers, read off its (p, q).

    Attributes:
        likelihood: "exact", "lower_bound", "estimate" or None.
        no_likelihood: the reason where `likelihood` is None.
        sample: whether p gives every variable, so that it can be walked from the top.
        sequential_steps: how many network passes in a row one sample takes.
        encode: whether a datum has a representation: q infers one, or p inverts it.
        lossy, lossless: "yes", "no" or "with bits-back".
    """

    likelihood: str | None
    no_likelihood: str
    sample: bool
    sequential_steps: int
    encode: bool
    lossy: str
    lossless: str


class Model(nn.Module):
    """A pair (p, q) of joints, with how it is trained.

    Args:
        p: how data come about.
        q: how what is hidden is inferred; empty where nothing is hidden.
        objective: the stages of training (`jensen.objectives`).
        data: the name of the datum among p's variables.

    Raises:
        ValueError: p does not explain the datum, or needs a variable that nothing gives.
    """

    def __init__(self, p: Joint, q: Joint | None = None, objective: Any = None, data: str = "x"):
        super().__init__()
        self.p, self.q = p, q if q is not None else Joint()
        self.objective, self.data = objective, data
        if data not in p:
            raise ValueError(f"expected p to explain {data!r}, got p = {p}")
        self._known = {*self.p.names, *self.q.names, *self.context}

    def __str__(self) -> str:
        return f"p = {self.p}, q = {self.q}"

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Let conditionals that start from data, `initialize(value, *parents)`, see the first training data.

        What is hidden is drawn from q as it starts out, and only where such a conditional stands on it. Where a
        conditional of what is hidden starts from data all the same, it has
        `initialize_from(batch)`.
        """
        starting = [f for f in [*self.p, *self.q] if hasattr(f.module, "initialize")]
        seen = batch
        if "seen" in batch:
            seen = {**batch, self.data: batch[self.data].masked_fill(~batch["seen"], math.nan)}
        for factor in [*self.p, *self.q]:
            if hasattr(factor.module, "initialize_from"):
                factor.module.initialize_from(seen)  # pyright: ignore[reportCallIssue]
        data = self._functions_of(seen)
        values: Mapping[str, Tensor] = data
        if any(self.is_the_datum(f.name) for f in starting):
            with torch.no_grad():
                values = self.evidence(batch).values
        for factor in starting:
            if factor.name in data or self.is_the_datum(factor.name):
                parents = [values[name] for name in factor.parents if name in values]
                factor.module.initialize(values[factor.name], *parents)  # pyright: ignore[reportCallIssue]

    def is_the_datum(self, name: str) -> bool:
        """Whether q draws the datum itself, with noise added or with its gaps filled."""
        return self.is_noisy(name) or (name in self.q and getattr(self.q[name].module, "completes", False))

    def _functions_of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch, with what q computes of it without anything learned: views of the data."""
        values = dict(batch)
        for factor in self.q:
            learned = [*factor.module.parameters(), *factor.module.buffers()]
            if factor.deterministic and not learned and all(parent in values for parent in factor.parents):
                values[factor.name] = factor.module(*(values[parent] for parent in factor.parents))
        return values

    def is_noisy(self, name: str) -> bool:
        """Whether a variable is the datum x with noise in [0, 1) added: q dequantises it."""
        return name in self.q and getattr(self.q[name].module, "dequantizes", False)

    def is_noise(self, name: str) -> bool:
        """Whether what q draws represents nothing, being the datum with noise, dequantised or by a law of its own."""
        return self.is_noisy(name) or (name in self.q and getattr(self.q[name].module, "is_noise", False))

    def evidence(self, observed: Mapping[str, Tensor | Observed], particles: int = 1, paths: bool = True) -> Evidence:
        """Walk (p, q); `observed` by name, (B, *event). See `jensen.core.evidence.evidence`.

        `seen` says which elements of the datum are there, (B, *event); others add nothing, and are never looked at.
        """
        known = {name: value for name, value in self.masked(observed).items() if name in self._known}
        return evidence(self.p, self.q, known, particles, paths)

    def masked(self, observed: Mapping[str, Tensor | Observed]) -> dict[str, Tensor | Observed]:
        """What was observed, the datum with its mask where `seen` says which elements are there."""
        x, seen = observed.get(self.data), observed.get("seen")
        if isinstance(x, Tensor) and isinstance(seen, Tensor):
            return {**observed, self.data: Observed(x, seen)}
        return dict(observed)

    @property
    def hidden(self) -> list[str]:
        """Variables of p that q draws, in q's order."""
        return [f.name for f in self.q if not f.deterministic]

    @property
    def inferred(self) -> list[str]:
        """The representation that q gives and p uses, in q's order.

        Noise added to the datum is none, nor is what p computes itself of the rest.
        """
        computed = {f.name for f in self.p if f.deterministic}
        used = {*self.p.names, *(parent for f in self.p for parent in f.parents)} - computed
        return [f.name for f in self.q if f.name in used and not self.is_noise(f.name)]

    @property
    def codes(self) -> list[str]:
        """Variables that p has a density of and q a function of the data, in q's order: log q = 0."""
        given = [f.name for f in self.q if f.deterministic and f.name in self.p]
        return [name for name in given if not self.p[name].deterministic]

    @property
    def inverted(self) -> list[str]:
        """Where q infers nothing: variables that are the datum, or it with noise, and that p maps to its base exactly.

        The representation is then z = T⁻¹(x), `Transformed.to_base`, one for each.
        """
        known = [f.name for f in self.p if f.name == self.data or self.is_noisy(f.name)]
        return [] if self.inferred else [name for name in known if getattr(self.p[name].module, "invertible", False)]

    @property
    def context(self) -> list[str]:
        """What must be given with a datum: conditions, never explained, and which of its elements are there."""
        given = set(self.p.context) | set(self.q.context)
        return sorted(given - set(self.p.names) - set(self.q.names) | ({"seen"} if self.sees_gaps else set()))

    @property
    def completes(self) -> bool:
        """Whether q draws what is missing of the datum itself, so that p explains what was seen for certain."""
        return any(getattr(factor.module, "completes", False) for factor in self.q)

    @property
    def conditions(self) -> list[str]:
        """What a datum stands under and no factor explains: its context, but for which of its elements are there."""
        return [name for name in self.context if name != "seen"]

    @property
    def sees_gaps(self) -> bool:
        """Whether q is told which elements of the datum are there, or p explains those alone."""
        told = any("seen" in factor.parents for factor in self.q)
        return told or getattr(self.p[self.data].module, "sees_gaps", False)

    def sample(
        self,
        n: int,
        given: Mapping[str, Tensor] | None = None,
        temperature: float | Mapping[str, float] = 1.0,
        how: Mapping[str, Any] | None = None,
        nucleus: float = 1.0,
    ) -> dict[str, Tensor]:
        """Ancestral samples: walk p from the top, (n, *event) by name.

        Args:
            n: how many.
            given: values of some variables, (n, *event); context must be given.
            temperature: multiplies the scale of what is hidden or drawn first of all, and of the normal base of a flow;
                divides the logits of choices. 1 samples the model itself. By name, of these variables alone.
            how: by name of a variable, how its distribution is to be `sampled`, where it can be in several ways.
            nucleus: draw each element of the data from its likeliest classes only, the fewest of so much mass.

        Raises:
            ValueError: p has no distribution for a variable that is needed, a flow's base has no scale, or the elements
                of the data are not drawn from classes.
        """
        values = dict(given or {})
        for factor in self.p:
            if factor.name in values:
                continue
            missing = [name for name in factor.parents if name not in values]
            if missing:
                raise ValueError(f"cannot sample ({factor}): nothing gives {missing[0]!r}")
            met = factor.module(*(values[name] for name in factor.parents))
            if isinstance(met, Tensor):
                values[factor.name] = met
                continue
            if isinstance(temperature, Mapping):
                heat = temperature.get(factor.name, 1.0)
            else:
                drawn_from_hidden = factor.name == self.data and any(parent in self.p for parent in factor.parents)
                heat = 1.0 if drawn_from_hidden else temperature
            if heat != 1.0 and hasattr(met, "tempered"):
                met = met.tempered(heat)  # pyright: ignore[reportAttributeAccessIssue]
            if nucleus < 1 and factor.name == self.data:
                if not hasattr(met, "nucleus"):
                    of = type(met).__name__
                    raise ValueError(f"a nucleus needs a choice among classes, and {factor.name} is {of}")
                met = met.nucleus(nucleus)  # pyright: ignore[reportAttributeAccessIssue]
            if how and factor.name in how:
                met = met.sampled(how[factor.name])  # pyright: ignore[reportAttributeAccessIssue]
            shape = torch.Size() if met.batch_shape else torch.Size((n,))
            values[factor.name] = met.sample(shape)
        return values

    # Capabilities

    @property
    def likelihood(self) -> str | None:
        """ "exact" where q draws nothing, or only from declared exact posteriors; "lower_bound"; None without one.

        "estimate" where a part says that it `estimates_density`: unbiasedly, log p or the bound.
        """
        if self._no_likelihood():
            return None
        if any(getattr(module, "estimates_density", False) for module in self.modules()):
            return ESTIMATE
        drawn = [f for f in self.q if not f.deterministic]
        exact = not self.codes and all(getattr(f.module, "exact_posterior", False) for f in drawn)
        return EXACT if exact else LOWER_BOUND

    def _no_likelihood(self) -> str:
        """Why this model has no likelihood; empty where it has one."""
        for factor in self.p:
            if getattr(factor.module, "measures_cost", False):
                return (
                    f"p({factor}) measures what it costs to carry {factor.name!r} to where "
                    f"{', '.join(factor.parents)} is decoded to, on a scale of its own, and is no density of the data"
                )
        for factor in self.q:
            if not factor.deterministic or factor.module.discrete:
                continue
            name = factor.name
            if name in self.p and self.p[name].deterministic:
                continue  # a block that p and q share
            if name in self.p or any(name in f.parents for f in self.p):
                return (
                    f"{name!r} is a deterministic function of the data: q({name} | {', '.join(factor.parents)}) "
                    f"has no density, so there is neither a likelihood nor a bound on it"
                )
        for factor in self.p:
            for parent in factor.parents:
                if parent not in self.p and parent not in self.context:
                    return f"p has no distribution over {parent!r}"
        return ""

    def capabilities(self, measure: str) -> Capabilities:
        """What this model offers on data of that measure ("counting", "lebesgue" or "mixed")."""
        likelihood = self.likelihood
        given = set(self.p.names) | set(self.context)
        sample = all(parent in given for f in self.p for parent in f.parents)
        inferred = self.inferred
        continuous = any(not _is_discrete(self.q[name].module) for name in inferred)
        if measure != "counting" or likelihood is None:
            lossless = "no"
        elif self.hidden or getattr(self.p[self.data].module, "averages", False):
            lossless = "with bits-back"  # those that choose what is hidden, noise, or one of what is averaged come back
        else:
            lossless = "yes"
        return Capabilities(
            likelihood=likelihood,
            no_likelihood=self._no_likelihood(),
            sample=sample,
            sequential_steps=sum(getattr(f.module, "sequential_steps", 1) for f in self.p),
            encode=bool(inferred or self.inverted),
            lossy="yes" if continuous or self.codes else "no",  # an exact code is as large as the datum
            lossless=lossless,
        )


def _is_discrete(module: nn.Module) -> bool:
    """Whether the values of a conditional are countable; one made of a network and a head gives what its head gives."""
    return getattr(module, "discrete", getattr(getattr(module, "head", None), "discrete", False))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter takes a gradient."""
    wanted = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in zip(module.parameters(), wanted, strict=True):
            p.requires_grad_(flag)
