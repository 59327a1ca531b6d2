"""Exact test log-likelihood of MADE on five published tables of bits, trained until validation stops improving.

    python benchmarks/binary_tables.py [--names mushrooms,nltcs,plants,dna,accidents] [--minutes 4] [--threads 1]
        [--out benchmarks/results/binary_tables.json]

Every set is trained in sixteen orders at once and scored as their average; the number of minutes bounds the training,
and validation chooses the weights. Published: MADE and EoNADE (Germain et al. 2015, arXiv:1502.03509), NADE (Larochelle
and Murray 2011), and of sum-product networks LearnSPN (Gens and Domingos 2013) and ID-SPN (Rooshenas and Lowd 2014);
those of mushrooms are quoted, the others as they are commonly cited and not checked against the papers' own text.
"""

from __future__ import annotations

import time

import jensen
from harness import arguments, keep_table

SETTINGS = {"hidden": [500], "orderings": 16}
TRAINING = {"train.batch_size": 50, "train.lr": 1e-2, "train.average": 0.995}
PUBLISHED = {
    "mushrooms": "−9.68 (MADE), −9.81 (NADE)",
    "nltcs": "−6.02 (ID-SPN), −6.11 (LearnSPN)",
    "plants": "−12.54 (ID-SPN), −12.98 (LearnSPN)",
    "dna": "−79.66 (MADE), −81.21 (ID-SPN), −82.31 (EoNADE)",
    "accidents": "−26.98 (ID-SPN), −30.04 (LearnSPN)",
}


def main() -> None:
    options = arguments(__doc__, names="mushrooms,nltcs,plants,dna,accidents", minutes=4.0)
    rows, scores = [], {}
    for name in options.names.split(","):
        began = time.perf_counter()
        data = jensen.load_data(name)
        run = jensen.train("made", data, settings={**SETTINGS, **TRAINING}, minutes=options.minutes)
        minutes = (time.perf_counter() - began) / 60
        score = run.score()
        scores[name] = {**score.to_dict(), "minutes": round(minutes, 2)}
        cells = [f"{score.nats:.2f} ± {score.stderr:.2f}", PUBLISHED.get(name, ""), f"{minutes:.1f}"]
        rows.append([name, str(data.schema.dims), *cells])
        print(rows[-1], flush=True)
    keep_table(
        options.out,
        "Mean log-likelihood of the test rows in nats, exact, with its standard error.",
        ["table", "columns", "ours", "published", "minutes"],
        rows,
        {"settings": SETTINGS, "training": TRAINING, "seed": 0, "scores": scores},
    )


if __name__ == "__main__":
    main()
