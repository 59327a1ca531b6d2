"""Whether synthetic rows give training rows away: how near they lie to them, beside rows that were never learnt from.

A row that a model has not seen lies some way from the nearest training row. Synthetic rows that lie nearer than that,
or are equal, were learnt by heart. That none do proves nothing: this is a check, and no guarantee as differential
privacy is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import hypergeom, norm

from jensen.core import Shown
from jensen.data import Split
from jensen.data.dtypes import in_dtype
from jensen.errors import ConfigError, DataError
from jensen.jobs.columns import Columns
from jensen.jobs.job import job
from jensen.jobs.run import Run

if TYPE_CHECKING:
    import pandas

QUANTILE = 0.05  # of the held-out rows' distances
ROWS = 2000  # synthetic and held-out ones at most
BLOCK = 4_000_000  # distances at once
ALARM = 3.0  # standard errors


@dataclass(frozen=True, repr=False)
class Privacy(Shown):
    """Distances to the nearest training row, of synthetic rows and of held-out ones.

    Distances are Euclidean, over numbers standardised by the training rows and over categories, two different ones
    being 1 apart.

    Attributes:
        synthetic, training, held_out: numbers of rows.
        quantile: the 5 % quantile of the held-out rows' distances.
        near: share of synthetic rows as near as that; where nothing was learnt by heart, about
        near_expected: the same share of held-out rows: 0.05, and more where many distances are equal.
        near_stderr: of the difference, were both equal, by the numbers of both kinds of rows.
        near_independent: the same share of rows whose columns were drawn one by one: what no row can give away.
        closer: share of synthetic rows that lie nearer to training rows than to as many held-out ones; about 0.5.
        closer_stderr: of that share.
        copies, held_out_copies: shares that equal a training row in all columns.
        distances: medians, of synthetic and of held-out rows.
    """

    synthetic: int
    training: int
    held_out: int
    quantile: float
    near: float
    near_expected: float
    near_stderr: float
    near_independent: float
    closer: float
    closer_stderr: float
    copies: float
    held_out_copies: float
    distances: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": self.warnings}

    @property
    def warnings(self) -> list[str]:
        """What speaks for rows learnt by heart, in sentences."""
        said = []
        if self.near > self.near_expected + ALARM * self.near_stderr:
            said.append(
                f"{self.near:.1%} of the synthetic rows lie as near to a training row as {self.near_expected:.1%} of "
                "the held-out rows do: rows may have been learnt by heart"
            )
        if self.closer > 0.5 + ALARM * self.closer_stderr:
            said.append(
                f"{self.closer:.1%} of the synthetic rows lie nearer to training rows than to as many held-out ones, "
                "expected 50%"
            )
        if self._chance_of_copies() < norm.sf(ALARM):
            said.append(f"{self.copies:.1%} of the synthetic rows equal a training row, of the held-out rows "
                        f"{self.held_out_copies:.1%}")  # fmt: skip
        return said

    def _chance_of_copies(self) -> float:
        """Of so many copies among the synthetic rows, or more, were synthetic and held-out rows alike: of all copies
        among both, so many fall on those (Fisher's exact test).
        """
        made, held = round(self.copies * self.synthetic), round(self.held_out_copies * self.held_out)
        return float(hypergeom.sf(made - 1, self.synthetic + self.held_out, made + held, self.synthetic))

    def __str__(self) -> str:
        lines = [
            f"privacy: {self.synthetic:,} synthetic rows, {self.held_out:,} held-out rows, {self.training:,} training "
            "rows",
            f"within {self.quantile:.3g} of a training row: {self.near:.1%}, of the held-out rows "
            f"{self.near_expected:.1%} ± {self.near_stderr:.1%}, of rows with independent columns "
            f"{self.near_independent:.1%}",
            f"nearer to training rows than to as many held-out rows: {self.closer:.1%}, expected 50% ± "
            f"{self.closer_stderr:.1%}",
            f"equal to a training row: {self.copies:.1%}, of the held-out rows {self.held_out_copies:.1%}",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


@job("privacy", needs="sample")
def privacy(run: Run, rows: Any = None, *, data: Any = None, n: int | None = None, seed: int = 0) -> Privacy:
    """How near synthetic rows lie to the training rows of a run, beside its held-out rows.

    Args:
        rows: synthetic ones, as `sample` gave them; None to draw n.
        data: with a training and a held-out part, as those of the run; None for the run's own.
        n: how many to draw; by default as many as are held out, and at most 2,000.
        seed: of draws.

    Raises:
        ConfigError: the data are no table.
        DataError: there is no part that was held out.
    """
    if run.schema.is_array:
        raise ConfigError("privacy: expected a table; how near pictures, sounds and texts are is not judged")
    found = run.data(data)
    held = next((found.splits[name] for name in ("test", "valid") if name in found.splits), None)
    if held is None or "train" not in found.splits:
        raise DataError(
            f"{found.name}: expected a training part and one that was held out, got {', '.join(found.splits)}"
        )
    if rows is None:
        count = n if n is not None else min(len(held), ROWS)
        rows = run.sample(count, seed=seed, given=_given(run, found.split("train"), count, seed))
    own, outside = found.split("train").x, held.x
    columns = Columns.of_fields(run.schema.fields, np.concatenate([own, outside]))
    synthetic = rows if hasattr(rows, "iloc") else _named(run, np.asarray(rows))
    return _nearness(columns, columns.numbers(synthetic), own, outside, seed)


def nearness(synthetic: Any, training: Any, held_out: Any, seed: int = 0) -> Privacy:
    """The check itself, of frames with the same columns; of more than 2,000 synthetic or held-out rows some."""
    import pandas

    columns = Columns.of(pandas.concat([training, held_out, synthetic], ignore_index=True))
    made, own, held = (columns.numbers(frame) for frame in (synthetic, training, held_out))
    return _nearness(columns, made, own, held, seed)


def _nearness(columns: Columns, made: np.ndarray, own: np.ndarray, held: np.ndarray, seed: int) -> Privacy:
    """Of rows (n, D) in their own units."""
    scaled, drawn = columns.standardised(own), own
    rng = np.random.default_rng(seed)
    own, held, made = (coordinates(scaled, scaled.scale(x)) for x in (own, held, made))
    held, made = (x if len(x) <= ROWS else x[rng.choice(len(x), ROWS, replace=False)] for x in (held, made))
    shuffled = np.stack([rng.choice(drawn[:, j], len(made)) for j in range(len(columns))], axis=1)
    alone = coordinates(scaled, scaled.scale(shuffled))
    of_made, of_held, of_alone = (nearest(x, own) for x in (made, held, alone))
    quantile = float(np.quantile(of_held, QUANTILE))
    expected = float((of_held <= quantile).mean())
    few = min(len(own), len(held))
    some, others = (x[rng.choice(len(x), few, replace=False)] for x in (own, held))
    apart = nearest(made, some) - nearest(made, others)
    return Privacy(
        synthetic=len(made),
        training=len(own),
        held_out=len(held),
        quantile=quantile,
        near=float((of_made <= quantile).mean()),
        near_expected=expected,
        near_stderr=(expected * (1 - expected) * (1 / len(made) + 1 / len(held))) ** 0.5,
        near_independent=float((of_alone <= quantile).mean()),
        closer=float((apart < 0).mean() + 0.5 * (apart == 0).mean()),
        closer_stderr=(0.25 * (1 / len(made) + 1 / few)) ** 0.5,
        copies=float((of_made == 0).mean()),
        held_out_copies=float((of_held == 0).mean()),
        distances={"synthetic": float(np.median(of_made)), "held_out": float(np.median(of_held))},
    )


def coordinates(columns: Columns, x: np.ndarray) -> np.ndarray:
    """Rows in the space of distances, (N, W): indicators of categories, and of empty cells, whose number is 0."""
    inside = columns.indicators(x)
    return np.concatenate([np.nan_to_num(inside), np.isnan(x) * 0.5**0.5], axis=1)


def nearest(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Euclidean distance of each of rows (n, W) to the nearest of others (N, W), (n,); of equal rows exactly 0."""
    squares = np.square(among).sum(1)
    found = np.empty(len(rows))
    for start in range(0, len(rows), max(1, BLOCK // len(among))):
        block = rows[start : start + max(1, BLOCK // len(among))]
        closest = (squares - 2 * block @ among.T).argmin(1)
        found[start : start + len(block)] = np.linalg.norm(block - among[closest], axis=1)
    return found


def _named(run: Run, rows: np.ndarray) -> pandas.DataFrame:
    import pandas

    names = list(run.schema.order or run.schema.names)
    names = names if len(names) == rows.shape[1] else run.schema.names
    return pandas.DataFrame(rows, columns=names[: rows.shape[1]])


def _given(run: Run, part: Split, n: int, seed: int) -> dict[str, Any] | None:
    """Conditions of training rows drawn at random, where the model takes any."""
    index = np.random.default_rng(seed).integers(len(part), size=n)
    wanted: dict[str, Any] = {}
    if "c" in run.model.context and part.c is not None:
        wanted = {one.name: list(in_dtype(part.c[index, j], one)) for j, one in enumerate(run.schema.given)}
    if "y" in run.model.context and part.y is not None:
        wanted[run.schema.label or "y"] = [(run.schema.classes or ())[k] for k in part.y[index]]
    return wanted or None
