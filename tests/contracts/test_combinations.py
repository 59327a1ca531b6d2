"""Every two parts that fit together do so in some model that trains, scores, samples, is saved and comes back.

A covering array: few VAEs in which every pair of (data, prior, posterior, likelihood, encoder, decoder) that can stand
together stands together once. What cannot is told by building it, and is refused with a reason.
"""

from __future__ import annotations

import functools
import random
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.toys import DATA, small

from jensen.data import Dataset, Split
from jensen.errors import ConfigError
from jensen.jobs.run import open_run
from jensen.jobs.train import train
from jensen.registry import build, find, names

SLOTS = {"prior": "prior", "posterior": "posterior", "likelihood": "likelihood"}
SLOTS |= {"encoder": "network", "decoder": "network"}
CHOICES = {"data": list(DATA), **{slot: names(role) for slot, role in SLOTS.items()}}
PARTNERS = {"bernoulli": "bernoulli", "categorical": "categorical"}  # discrete codes: prior and posterior of one name
CANDIDATES = 60
Row = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def settings_of(row: Row) -> dict[str, Any]:
    """The settings of a VAE made of these parts, small; what a row does not say is the default."""
    found: dict[str, Any] = {"latents": 2}
    for slot, role in SLOTS.items():
        name = row.get(slot, find("model", "vae").settings[slot].default)
        found |= {slot: name, **small(find(role, name), f"{slot}.")}
    for one, other in (("prior", "posterior"), ("posterior", "prior")):  # the partner of a discrete code
        if row.get(one) in PARTNERS and other not in row:
            found |= {other: row[one], **small(find(other, row[one]), f"{other}.")}
    for code in ("prior", "posterior"):
        if found[code] == "categorical":
            found |= {"latents": 4, f"{code}.classes": 2}
    return found


@functools.cache
def fits(row: tuple[tuple[str, str], ...]) -> bool:
    """Whether these parts can be built together."""
    parts = dict(row)
    data = [parts["data"]] if "data" in parts else list(DATA)
    for kind in data:
        try:
            build("vae", DATA[kind][0], settings_of(parts))
        except ConfigError:
            continue
        return True
    return False


def whole_rows(seed: int = 0) -> list[Row]:
    """Rows that cover all pairs that fit, by greedy choice among random candidates."""
    rng = random.Random(seed)
    open_pairs: set[Pair] = set()
    for a, b in combinations(CHOICES, 2):
        for x, y in product(CHOICES[a], CHOICES[b]):
            if fits(((a, x), (b, y))):
                open_pairs.add(((a, x), (b, y)))
    rows: list[Row] = []
    while open_pairs:
        best, gain = None, 0
        ordered = sorted(open_pairs)
        for _ in range(CANDIDATES):
            fixed = dict(rng.choice(ordered))
            row = {slot: fixed.get(slot) or rng.choice(CHOICES[slot]) for slot in CHOICES}
            for code in ("prior", "posterior"):
                other = "posterior" if code == "prior" else "prior"
                if row[code] in PARTNERS and other not in fixed:
                    row[other] = row[code]
                elif row[other] in PARTNERS and row[code] != row[other] and code not in fixed:
                    row[code] = row[other]
            covered = len(pairs_of(row) & open_pairs)
            if covered > gain and fits(tuple(row.items())):
                best, gain = row, covered
        if best is None:  # what is left stands together only with defaults
            (pair, *_) = ordered
            rows.append(dict(pair))
            open_pairs.discard(pair)
            continue
        rows.append(best)
        open_pairs -= pairs_of(best)
    return rows


def pairs_of(row: Row) -> set[Pair]:
    return set(combinations(((slot, row[slot]) for slot in CHOICES if slot in row), 2))  # pyright: ignore


ROWS = whole_rows()


NOT_OF_A_VAE = {"encoder": {"unet"}, "decoder": {"unet"}}  # what it sees goes straight over to what it says


def test_every_part_is_in_some_row():
    for slot, choices in CHOICES.items():
        left_out = set(choices) - {row[slot] for row in ROWS if slot in row}
        assert left_out == NOT_OF_A_VAE.get(slot, set())


def test_rows_are_few():
    """At least as many as the two longest lists ask for, and not many times that."""
    longest = sorted(map(len, CHOICES.values()))
    assert len(ROWS) < 3 * longest[-1] * longest[-2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ", ".join(row.values()))
def test_a_combination_works_from_end_to_end(row, tmp_path):
    end_to_end(row, tmp_path)


def end_to_end(row: Row, folder: Path) -> None:
    """Two steps of training, a score, samples; and the same score from the folder, bit for bit."""
    kind = row.get("data") or next(kind for kind in DATA if fits((("data", kind), *row.items())))
    schema, rows = DATA[kind]
    splits = {"train": Split(rows), "valid": Split(rows[:4]), "test": Split(rows[4:8])}
    data, settings = Dataset("toy", schema, splits), settings_of(row)
    settings |= _gradients(settings)
    run = train("vae", data, out=folder / "run", settings=settings, epochs=1, batch_size=12)
    assert run.log[-1]["step"] == 2 and np.isfinite(run.log[-1]["train"]["elbo"])
    score = run.score(data, particles=3)
    assert np.isfinite(score.nats) and score.kind == "lower_bound"
    with torch.no_grad():
        drawn = run.model.sample(3)["x"]
    assert drawn.shape == (3, *schema.event_shape) and torch.isfinite(drawn).all()
    again = open_run(folder / "run").score(data, particles=3)
    assert torch.equal(again.rows, score.rows)


def _gradients(settings: dict[str, Any]) -> dict[str, Any]:
    """Discrete codes are learned by the score function, which compares draws."""
    return {"objective.samples": 2} if settings["posterior"] in PARTNERS else {}
