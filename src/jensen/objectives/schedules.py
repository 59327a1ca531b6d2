"""Weights that rise while training goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rise:
    """From 0 to 1 over a share of each cycle, and 1 for the rest of it.

        τ = progress · cycles mod 1,    rise = min(1, τ / share)

    One cycle is a linear warm-up (Bowman et al. 2016, arXiv:1511.06349; Sønderby et al. 2016, arXiv:1602.02282);
    several start from 0 again and again (Fu et al. 2019, arXiv:1903.10145).

    Args:
        share: of a cycle, in [0, 1); 0 is no warm-up.
        cycles: that training is divided into.

    >>> [Rise(0.5, 2)(progress) for progress in (0.0, 0.125, 0.25, 0.5, 0.625, 1.0)]
    [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    """

    share: float = 0.0
    cycles: int = 1

    def __call__(self, progress: float) -> float:
        """At a progress in [0, 1]; the end of training ends the last cycle."""
        at = progress * self.cycles
        within = at - min(int(at), self.cycles - 1)
        return min(1.0, within / self.share) if self.share else 1.0

    @property
    def end(self) -> float:
        """The progress from which on it stays 1."""
        return (self.cycles - 1 + self.share) / self.cycles if self.share else 0.0
