"""Classes of words by their endings, shapes and neighbours, without any label.

    python examples/word_classes.py [FOLDER with ptb_train.txt.gz and ptb_valid.txt.gz] [--out FILE]

Each place in the text is a datum: a word x, the one to its left l, the one to its right r. One hidden class explains
them,

    p(x, l, r) = Σ_z p(z) p(x | z) p(l | z) p(r | z)        p(x | z) ∝ exp(wᵀ f(x, z))

and each of the three is log-linear in which word it is and in features that words share: endings of one to three
letters, length, capitals, digits, hyphens. So a rare word is known by its ending. Expectation maximisation enumerates
the vocabulary and the classes. Beside it stands the same model without shared features; both learn from all of the
text, and from its first sentences alone.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from jensen.conditionals.features import Crossed
from jensen.conditionals.loglinear import LogLinear
from jensen.core import Model, seeded
from jensen.data.words import read_sentences, word_features
from jensen.models.log_linear import latent_classes
from jensen.objectives.log_linear import em

END = "<end>"  # of a sentence, and what comes before its first word
PLACES = ("x", "l", "r")
Data = dict[str, Tensor]


def places(sentences: list[list[str]], number: dict[str, int]) -> Data:
    """Every different (word, left, right) of a text, by number, with how often it occurs."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for sentence in sentences:
        words = [number[word] for word in (END, *sentence, END)]
        counts.update(zip(words[1:-1], words[:-2], words[2:], strict=True))
    columns = torch.tensor(list(counts)).unbind(1)
    return {**dict(zip(PLACES, columns, strict=True)), "weight": torch.tensor(list(counts.values())).double()}


def model(vocabulary: list[str], classes: int, shared: bool) -> Model:
    """Three log-linear conditionals on one class, with or without features that words share."""

    def features(word: str) -> list[str]:
        return [f"={word}", *(word_features(word) if shared and word != END else [])]

    return latent_classes({name: LogLinear(Crossed.of(features, vocabulary, classes)) for name in PLACES}).double()


@torch.no_grad()
def log_likelihood(m: Model, data: Data) -> float:
    """Mean log p(x, l, r) in nats: that of an E-step."""
    return em(m, data, rounds=0)[0].log_likelihood


@torch.no_grad()
def counted(m: Model, data: Data) -> Tensor:
    """How often each word occurs in each class, by the posterior of its places, (words, classes)."""
    likelihood, q = m.p["x"].module, m.q["z"].module
    counts = torch.zeros(likelihood.domain.size, likelihood.classes).double()
    for rows in torch.arange(len(data["x"])).split(10_000):
        share = q(*(data[name][rows] for name in PLACES)).probs * data["weight"][rows, None]
        counts.index_add_(0, data["x"][rows], share)
    return counts


def describe(m: Model, data: Data, vocabulary: list[str], show: int) -> list[str]:
    """Each class with its share of the text, and what is met in it mostly: features of words, and words."""
    counts, features = counted(m, data), m.p["x"].module.features
    used = torch.from_numpy(features.matrix.scipy().T @ counts.numpy())  # how often each feature occurs in each class
    common = 0.005 * counts.sum(0)  # a feature that fewer of a class's words have says little of it
    lines = []
    for k in counts.sum(0).argsort(descending=True).tolist():
        telling = torch.where(used[:, k] > common[k], used[:, k] / used.sum(1), 0.0)
        named = [features.names[i] for i in telling.argsort(descending=True).tolist() if telling[i] > 0.3]
        named = [name for name in named if name[0] != "="][:6]
        mostly = torch.where(counts[:, k] > 0.5 * counts.sum(1), counts[:, k], 0.0)
        words = [vocabulary[i] for i in mostly.argsort(descending=True)[:show].tolist() if mostly[i] > 0]
        lines.append(f"{counts[:, k].sum() / counts.sum():5.1%}  {' '.join(named):38}  {' '.join(words)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("JENSEN_DATA", "data")))
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--l2", type=float, default=1.0, help="for the whole text, not a datum")
    parser.add_argument("--few", type=int, default=2000, help="sentences of the smaller text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    text, held_out = (read_sentences(options.folder / f"ptb_{part}.txt.gz") for part in ("train", "valid"))
    vocabulary = [END, *sorted({word for sentence in text for word in sentence})]
    number = {word: i for i, word in enumerate(vocabulary)}
    valid = places(held_out, number)
    lines = [
        f"{len(vocabulary):,} words, {options.classes} classes, {options.rounds} rounds of EM, seed {options.seed}",
        "",
        f"{'mean log p(word, left, right), nats':38}  {'places':>8}  {'weights':>8}  {'training':>8}  {'held out':>8}",
    ]
    found: list[str] = []
    for sentences in (text[: options.few], text):
        data = places(sentences, number)
        n = data["weight"].sum().item()
        for shared, name in ((False, "by which word it is"), (True, "by endings and shapes, too")):
            with seeded(options.seed):
                m = model(vocabulary, options.classes, shared)
            history = em(m, data, l2=options.l2 / n, rounds=options.rounds)
            assert all(after.objective >= before.objective for before, after in pairwise(history))
            size = sum(m.p[place].module.weight.numel() for place in PLACES)
            scores = f"{history[-1].log_likelihood:8.3f}  {log_likelihood(m, valid):8.3f}"
            lines.append(f"{name:38}  {n:8,.0f}  {size:8,}  {scores}")
            print(lines[-1], flush=True)
        found = describe(m, data, vocabulary, show=12)
    lines += ["", f"{'share':5}  {'features that are met mostly here':38}  words that are met mostly here", *found]
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
