"""Exact test log-likelihood of MADE on five published tables of bits, trained until validation stops improving.

    python benchmarks/binary_tables.py [--names mushrooms,nltcs,plants,dna,accidents] [--minutes 4] [--threads 1]
        [--out benchmarks/results/binary_tables.json]

Published, negated: mushrooms MADE 9.68 (Germain et al. 2015), NADE 9.81 (Larochelle and Murray 2011). Every set is
trained in all orders and scored as the average over sixteen of them; the number of minutes bounds the training.
"""

from __future__ import annotations

import time

import jensen
from harness import arguments, keep_table

SETTINGS = {"hidden": [500, 500], "order": "any", "orderings": 16}
TRAINING = {"train.batch_size": 100, "train.lr": 2e-3, "train.average": 0.999}
PUBLISHED = {"mushrooms": "−9.68 (MADE)"}


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
