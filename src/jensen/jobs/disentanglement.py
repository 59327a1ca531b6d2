"""How well dimensions of a code stand for the factors that made the data, where these are known.

    MIG         of each factor v, (I(z_a; v) − I(z_b; v)) / H(v), a and b the two dimensions that know most of it
                (Chen et al. 2018, arXiv:1802.04942)
    SAP         of each factor, how much better the best dimension by itself predicts it than the second best
                (Kumar et al. 2018, arXiv:1711.00848)
    DCI         from the importance R_dv of each dimension for predicting each factor: disentanglement, whether a
                dimension is of use to one factor only; completeness, whether a factor needs one dimension only;
                informativeness, how well factors are predicted (Eastwood and Williams 2018)
    FactorVAE   with one factor held fixed, whether the dimension that varies least tells which it was
                (Kim and Mnih 2018, arXiv:1802.05983)

All lie in 0..1, higher is better. They measure whether axes of the code are factors, and nothing else: a rotation of a
perfect code scores low. Which factors data have is given, and no model can find them without help (Locatello et al.
2019, arXiv:1811.12359).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score

BINS = 20  # of a dimension, for mutual information
VOTES, HELD = 800, 64  # votes of the FactorVAE score, and data of one value of a factor behind each
FOREST = 30  # trees


@dataclass(frozen=True)
class Disentanglement:
    """Scores in 0..1, and what they are the means of.

    Attributes:
        mig, sap, factor_vae, disentanglement, completeness, informativeness: see the module.
        mutual_information: of each dimension with each factor, as a share of the factor's entropy, (L, F).
        factors: names, F.
    """

    mig: float
    sap: float
    factor_vae: float
    disentanglement: float
    completeness: float
    informativeness: float
    mutual_information: list[list[float]]
    factors: list[str]

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        best = np.argmax(self.mutual_information, 0)
        known = ", ".join(
            f"{name} by z{d} ({self.mutual_information[d][f]:.0%})"
            for f, (name, d) in enumerate(zip(self.factors, best, strict=True))
        )
        return (
            f"disentanglement, 0 to 1: MIG {self.mig:.3f}, SAP {self.sap:.3f}, FactorVAE {self.factor_vae:.3f}, "
            f"DCI {self.disentanglement:.3f} / {self.completeness:.3f} / {self.informativeness:.3f} "
            f"(disentanglement, completeness, informativeness)\nbest known, of each factor's entropy: {known}"
        )


def disentanglement(z: np.ndarray, v: np.ndarray, names: list[str], seed: int = 0) -> Disentanglement:
    """Of codes z, (n, L), and factors v, whole numbers (n, F).

    Raises:
        ValueError: fewer than two dimensions or data, or not as many codes as factors.
    """
    if len(z) != len(v) or len(z) < 2 or z.shape[1] < 2:
        raise ValueError(f"expected two dimensions or more, and as many codes as factors, got {z.shape}, {v.shape}")
    rng = np.random.default_rng(seed)
    shares = _information(z, v)
    order = rng.permutation(len(z))
    train, test = order[: len(z) // 2], order[len(z) // 2 :]
    importance, accuracy = _importance(z, v, train, test, seed)
    return Disentanglement(
        mig=_gap(shares),
        sap=_gap(_alone(z, v, train, test)),
        factor_vae=_vote(z, v, rng),
        disentanglement=_concentration(importance, 1),
        completeness=_concentration(importance.T, 1),
        informativeness=accuracy,
        mutual_information=shares.tolist(),
        factors=names,
    )


def _gap(scores: np.ndarray) -> float:
    """Mean over factors of the best dimension's score less the second best's, scores (L, F)."""
    ranked = np.sort(scores, 0)
    return float((ranked[-1] - ranked[-2]).mean())


def _information(z: np.ndarray, v: np.ndarray) -> np.ndarray:
    """I(z_d; v_f) / H(v_f) with dimensions in bins of equal width, (L, F)."""
    found = np.zeros((z.shape[1], v.shape[1]))
    for d in range(z.shape[1]):
        edges = np.histogram_bin_edges(z[:, d], BINS)[1:-1]
        binned = np.digitize(z[:, d], edges)
        for f in range(v.shape[1]):
            entropy = mutual_info_score(v[:, f], v[:, f])
            found[d, f] = mutual_info_score(binned, v[:, f]) / entropy if entropy > 0 else 0.0
    return found


def _alone(z: np.ndarray, v: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """How well each dimension by itself predicts each factor, balanced accuracy above chance, (L, F)."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    found = np.zeros((z.shape[1], v.shape[1]))
    for f in range(v.shape[1]):
        chance = 1 / len(np.unique(v[:, f]))
        for d in range(z.shape[1]):
            tree = DecisionTreeClassifier(max_leaf_nodes=2 * BINS, min_samples_leaf=10, random_state=0)
            tree.fit(z[train, d : d + 1], v[train, f])
            score = balanced_accuracy_score(v[test, f], tree.predict(z[test, d : d + 1]))
            found[d, f] = max(0.0, (score - chance) / (1 - chance)) if chance < 1 else 0.0
    return found


def _importance(
    z: np.ndarray, v: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """Importance of each dimension for each factor, (L, F), and the mean accuracy of the predictions."""
    importance, accuracy = np.zeros((z.shape[1], v.shape[1])), []
    for f in range(v.shape[1]):
        forest = RandomForestClassifier(FOREST, min_samples_leaf=3, max_features=1.0, random_state=seed)  # pyright: ignore[reportArgumentType]
        forest.fit(z[train], v[train, f])
        importance[:, f] = forest.feature_importances_
        accuracy.append(forest.score(z[test], v[test, f]))
    return importance, float(np.mean(accuracy))


def _concentration(weights: np.ndarray, axis: int) -> float:
    """Mean of 1 − H/H_max over rows, each counted by its share of all weight, weights (rows, columns)."""
    total = weights.sum(axis, keepdims=True)
    p = np.divide(weights, total, out=np.full_like(weights, 1 / weights.shape[axis]), where=total > 0)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis) / np.log(weights.shape[axis])
    if not weights.sum():
        return 0.0  # nothing tells anything
    return float((total.squeeze(axis) / weights.sum() * (1 - entropy)).sum())


def _vote(z: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> float:
    """The FactorVAE score: half the votes decide which factor a dimension stands for, the others are judged."""
    spread = z.var(0)
    active = spread > 0.05 * spread.max()
    if not active.any():
        return 0.0  # codes that never change
    z = z[:, active] / np.sqrt(spread[active])
    dims, kinds = z.shape[1], v.shape[1]
    votes = np.zeros((2, dims, kinds))
    for i in range(VOTES):
        f = int(rng.integers(kinds))
        value = v[rng.integers(len(v)), f]
        same = rng.choice(np.flatnonzero(v[:, f] == value), HELD)
        votes[i % 2, z[same].var(0).argmin(), f] += 1
    decided = votes[0].argmax(1)
    return float(votes[1, np.arange(dims), decided].sum() / votes[1].sum())
