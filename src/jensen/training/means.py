"""Means over batches of what is logged."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Means:
    """Running means of named scalars, of which a partial batch counts as its share.

    The sums are tensors, so that adding to them waits for no device.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}

    def add(self, logged: Mapping[str, Tensor], share: float = 1.0) -> None:
        """What a batch logged."""
        for name, value in logged.items():
            value = value if share == 1.0 else share * value
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + share

    def put(self, measured: Mapping[str, Tensor]) -> None:
        """What a whole pass measured, in place of what was known."""
        self.sums |= measured
        self.counts |= dict.fromkeys(measured, 1.0)

    def values(self) -> dict[str, float]:
        """Since they were cleared."""
        return {name: float(value) / self.counts[name] for name, value in self.sums.items()}

    def clear(self) -> None:
        self.sums, self.counts = {}, {}
