"""Joints: ordered, named products of conditionals, written as on paper.

    p = Joint({"z": prior, "x | z": decoder})        # p(x, z) = p(z) p(x | z)
    q = Joint({"z | x": encoder})                    # q(z | x)

A conditional is any `nn.Module` whose `forward(*parents)` returns a `torch.distributions.Distribution`. A
`Deterministic` module returns a tensor instead: a node that carries no density.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


class Deterministic(nn.Module):
    """A node whose `forward(*parents)` returns a value and no density.

    `discrete` says that its values are countable (codes, a rounded small picture). Taking a discrete hidden
    variable from a deterministic q is still a bound (log q = 0); taking a continuous one leaves no likelihood.
    """

    discrete: bool = False

    def __init__(self, module: nn.Module | None = None):
        super().__init__()
        self.module = module if module is not None else nn.Identity()

    def forward(self, *parents: Tensor) -> Tensor:
        return self.module(*parents)


def on(name: str, *parents: str) -> str:
    """A factor, written as joints take it.

    >>> on("x", "z", "y"), on("z")
    ('x | z, y', 'z')
    """
    return f"{name} | {', '.join(parents)}" if parents else name


@dataclass(frozen=True)
class Factor:
    """One conditional of a joint: p(name | parents)."""

    name: str
    parents: tuple[str, ...]
    module: nn.Module

    @property
    def deterministic(self) -> bool:
        return isinstance(self.module, Deterministic)

    def __str__(self) -> str:
        return on(self.name, *self.parents)


class Joint(nn.Module):
    """An ordered product of conditionals.

    Args:
        factors: maps `"name"` or `"name | parent, parent"` to a conditional, parents before children. A parent
            that no factor names is context: it must be observed.

    Raises:
        ValueError: a name stands twice, or a factor comes before its parent.
    """

    def __init__(self, factors: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.factors: list[Factor] = []
        names = [key.partition("|")[0].strip() for key in factors or {}]
        for key, module in (factors or {}).items():
            name, _, given = key.partition("|")
            name, parents = name.strip(), tuple(g.strip() for g in given.split(",") if g.strip())
            if not name.isidentifier():
                raise ValueError(f"expected a factor like 'x | z', got {key!r}")
            if name in (f.name for f in self.factors):
                raise ValueError(f"{name!r} stands twice in the joint")
            later = [q for q in parents if q in names and q not in (f.name for f in self.factors)]
            if later:
                raise ValueError(f"factor {key!r} comes before its parent {later[0]!r}")
            self.factors.append(Factor(name, parents, module))
            self.add_module(name, module)

    def __iter__(self) -> Iterator[Factor]:  # factors, in order
        return iter(self.factors)

    def __contains__(self, name: str) -> bool:
        return any(f.name == name for f in self.factors)

    def __getitem__(self, name: str) -> Factor:
        for f in self.factors:
            if f.name == name:
                return f
        raise KeyError(name)

    def __len__(self) -> int:
        return len(self.factors)

    @property
    def names(self) -> list[str]:
        return [f.name for f in self.factors]

    @property
    def context(self) -> list[str]:
        """Parents that no factor of this joint explains."""
        return sorted({g for f in self.factors for g in f.parents} - set(self.names))

    def __str__(self) -> str:
        return " ".join(f"({f})" for f in self.factors) or "1"
