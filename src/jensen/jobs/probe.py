"""Probe: what a representation is worth for telling labels, when few of these are known.

Small classifiers learn from codes of a few labelled data, and from the data themselves and their principal components,
and are judged on data that neither they nor the model have seen. Where the factors that made the data are known, how
well dimensions stand for them is measured too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jensen.core import Shown
from jensen.data import Split, shapes
from jensen.errors import ConfigError, DataError, DataWarning
from jensen.jobs.disentanglement import Disentanglement, disentanglement
from jensen.jobs.encode import encode
from jensen.jobs.job import job
from jensen.jobs.run import Run

TRAIN, TEST = 10_000, 5_000  # data at most
NEIGHBOURS = 5
FACTOR_DATA = 4000


@dataclass(frozen=True)
class Accuracy:
    """Of one classifier on one representation, with so many labels.

    Attributes:
        mean: of correct answers, over draws of the labelled data.
        stderr: of that mean: of those draws, and of the test data.
    """

    representation: str
    classifier: str
    labels: int
    mean: float
    stderr: float


@dataclass(frozen=True, repr=False)
class Probes(Shown):
    """Accuracies, and where factors are known the scores of disentanglement."""

    accuracies: list[Accuracy]
    data: str
    n_train: int
    n_test: int
    seeds: int
    factors: Disentanglement | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        counts = sorted({a.labels for a in self.accuracies})
        lines = []
        if counts:
            lines.append(
                f"accuracy on {self.n_test:,} data of {self.data}, by the number of labelled data, ± standard error "
                f"over {self.seeds} draws of these and the test data"
            )
            lines.append(f"{'':24}" + "".join(f"{count:>18,}" for count in counts))
        pairs = list(dict.fromkeys((a.classifier, a.representation) for a in self.accuracies))
        for classifier, representation in pairs:
            cells = {
                a.labels: f"{a.mean:.3f} ± {a.stderr:.3f}"
                for a in self.accuracies
                if (a.classifier, a.representation) == (classifier, representation)
            }
            name = f"{classifier} on {representation}"
            lines.append(f"{name:24}" + "".join(f"{cells.get(count, ''):>18}" for count in counts))
        if self.factors is not None:
            lines.append(str(self.factors))
        return "\n".join(lines)


@job("probe", needs="encode")
def probe(
    run: Run, data: Any = None, *, labels: Sequence[int | str] = (10, 100, 1000, "all"), seeds: int = 5, seed: int = 0
) -> Probes:
    """How well labels are told from codes, beside the data themselves and their principal components.

    Args:
        data: None for the run's own; they need labels, and splits train and test.
        labels: how many labelled data the classifiers learn from, "all" for all of the training part.
        seeds: draws of the labelled data; of all of them there is one.
        seed: of the first draw.

    Raises:
        DataError: the data have no labels, or no training and test part.
        ConfigError: a number of labels that cannot be.

    Warns where the model is given the labels, and so its codes may hold them.
    """
    found = run.data(data)
    if "train" not in found.splits or "test" not in found.splits:
        raise DataError(f"{found.name}: expected a training part to learn from and a test part, got {_named(found)}")
    train, test = (_known(run, found.split(name), most) for name, most in (("train", TRAIN), ("test", TEST)))
    known = all(part.y is not None and len(part) and len(set(part.y.tolist())) > 1 for part in (train, test))
    of_factors = _factors(run, found.name, train, test, data, seed)
    if not known and of_factors is None:
        way = "an .npz holds them in train_labels and test_labels, and folders by class are labels"
        way = way if run.schema.is_array else "jensen train --label names their column (in Python label=)"
        raise DataError(f"{found.name}: expected labels of two classes or more; {way}")
    if seeds < 1:
        raise ConfigError(f"--seeds: expected >= 1, got {seeds}")
    accuracies: list[Accuracy] = []
    if known and "y" in run.model.conditions and not run.model.inverted:
        warnings.warn(
            f"{run.name} is given the labels, and so is its encoder: that they are told from its codes says nothing of "
            "what the codes are worth; train without conditional=true",
            DataWarning,
            stacklevel=2,
        )
    if known:
        assert train.y is not None
        counts = _counts(labels, len(train), len(np.unique(train.y)))
        seen = _representations(run, train, test)
        for count in counts:
            accuracies += _judge(seen, train, test, count, 1 if count == len(train) else seeds, seed)
    return Probes(accuracies, found.name, len(train), len(test), seeds, of_factors)


def _named(found: Any) -> str:
    return ", ".join(found.splits)


def _known(run: Run, part: Split, most: int) -> Split:
    """At most so many labelled rows of a part, at random."""
    if part.y is None:
        return part.rows(run.pick(part, most))
    labelled = np.flatnonzero(part.y >= 0)
    return part.rows(labelled[run.pick(part.rows(labelled), most)])


def _counts(labels: Sequence[int | str], n: int, classes: int) -> list[int]:
    """How many labelled data, each number once; more than there are is all of them.

    >>> _counts([10, "all", 5000], 400, 3)
    [10, 400]
    """
    found = []
    for given in labels:
        count = n if given == "all" else given
        if not isinstance(count, int) or isinstance(count, bool) or count < classes:
            raise ConfigError(f"--labels: expected numbers from {classes} on, one of each class, or all, got {given!r}")
        found.append(min(count, n))
    return sorted(set(found))


def _representations(run: Run, train: Split, test: Split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of both parts, standardised by the first: codes, the data, and as many principal components as codes."""
    from sklearn.decomposition import PCA

    codes = tuple(_codes(run, part) for part in (train, test))
    raw = tuple(run.tensors(part).x.flatten(1).float().cpu().numpy() for part in (train, test))
    components = min(codes[0].shape[1], *raw[0].shape)
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(raw[0])
    found = {"codes": codes, "data": raw, "components": tuple(pca.transform(x) for x in raw)}
    return {name: _standard(*parts) for name, parts in found.items()}


def _codes(run: Run, part: Split) -> np.ndarray:
    from jensen.data import Dataset

    return encode(run, Dataset("probe", run.schema, {"test": part}))


def _standard(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = train.mean(0), train.std(0)
    scale = np.where(scale > 1e-6 * (scale.max() or 1.0), scale, 1.0)
    return (train - mean) / scale, (test - mean) / scale


def _judge(
    seen: dict[str, tuple[np.ndarray, np.ndarray]], train: Split, test: Split, count: int, seeds: int, seed: int
) -> list[Accuracy]:
    """Every classifier on every representation, with so many labels."""
    assert train.y is not None and test.y is not None
    correct: dict[tuple[str, str], list[float]] = {}
    for draw in range(seeds):
        rows = _stratified(train.y, count, seed + draw)
        for name, (x, x_test) in seen.items():
            for kind, classifier in _classifiers(count, seed + draw).items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of convergence: a probe need not be the best there is
                    classifier.fit(x[rows], train.y[rows])
                correct.setdefault((name, kind), []).append(classifier.score(x_test, test.y))
    found = []
    for (name, kind), shares in correct.items():
        mean = float(np.mean(shares))
        of_draws = float(np.var(shares, ddof=1)) / len(shares) if len(shares) > 1 else 0.0
        found.append(Accuracy(name, kind, count, mean, math.sqrt(of_draws + mean * (1 - mean) / len(test))))
    return found


def _stratified(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many rows at random, of each class as many as its share asks for, rounded, and one at least."""
    if count == len(y):
        return np.arange(len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    rows = [order[y[order] == label] for label in np.unique(y)]
    taken = np.ones(len(rows), dtype=int)
    share = np.array([len(of_class) for of_class in rows]) / len(y)
    for _ in range(count - len(rows)):  # one by one, to the class that is farthest behind
        behind = np.where(taken < [len(of_class) for of_class in rows], share * count - taken, -np.inf)
        taken[behind.argmax()] += 1
    return np.concatenate([of_class[:n] for of_class, n in zip(rows, taken, strict=True)])


def _classifiers(count: int, seed: int) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    return {
        "neighbours": KNeighborsClassifier(min(NEIGHBOURS, max(1, count // 10))),
        "linear": LogisticRegression(max_iter=300),
        "network": MLPClassifier((64,), alpha=1e-2, max_iter=200, early_stopping=count >= 1000, random_state=seed),
    }


def _factors(run: Run, name: str, train: Split, test: Split, data: Any, seed: int) -> Disentanglement | None:
    """Where the data are the rendered shapes, whose factors are known by their place."""
    if (data if data is not None else run.spec["data"]["ref"]) != "shapes":
        return None
    codes = np.concatenate([_codes(run, part) for part in (train, test)])[:FACTOR_DATA]
    rows = np.concatenate([train.index, test.index])[:FACTOR_DATA]
    if codes.shape[1] < 2:
        return None
    return disentanglement(codes, shapes.factors()[rows], list(shapes.FACTORS), seed)
