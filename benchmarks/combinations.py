"""Every VAE of every prior, posterior and likelihood on every kind of data: which train, score, sample and come back.

    python benchmarks/combinations.py [--limit 0] [--out benchmarks/results/combinations.json]

Each that can be built takes two steps, is scored, drawn from, saved, opened and scored again, which must give the same
numbers; each that cannot is counted with its reason. Networks are the default's; the tests pair these with all else.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import time
import traceback
from itertools import product
from pathlib import Path

from harness import arguments, keep_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.contracts.test_combinations import CHOICES, end_to_end, settings_of
from tests.contracts.toys import DATA

from jensen.errors import ConfigError
from jensen.registry import build

SLOTS = ("data", "prior", "posterior", "likelihood")


def main() -> None:
    options = arguments(__doc__, limit=0)
    counts: dict[str, collections.Counter] = {kind: collections.Counter() for kind in DATA}
    reasons, failures, began = collections.Counter(), [], time.perf_counter()
    rows = [dict(zip(SLOTS, choice, strict=True)) for choice in product(*(CHOICES[slot] for slot in SLOTS))]
    for i, row in enumerate(rows[: options.limit or None]):
        try:
            build("vae", DATA[row["data"]][0], settings_of(row))
        except ConfigError as e:
            counts[row["data"]]["refused"] += 1
            reasons[str(e).splitlines()[0]] += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                end_to_end(row, Path(folder))
            except Exception as e:
                counts[row["data"]]["failed"] += 1
                failures.append({**row, "error": traceback.format_exception_only(e)[-1].strip()})
                print(failures[-1], flush=True)
            else:
                counts[row["data"]]["work"] += 1
        if i % 200 == 0:
            print(f"{i:,} of {len(rows):,}, {time.perf_counter() - began:.0f} s", flush=True)
    kinds = ("work", "refused", "failed")
    table = [[kind, *(str(found[k]) for k in kinds)] for kind, found in counts.items()]
    table.append(["in all", *(str(sum(found[k] for found in counts.values())) for k in kinds)])
    keep_table(
        options.out,
        "VAEs by prior, posterior and likelihood: those that train, score, sample and come back the same.",
        ["data", *kinds],
        table,
        {"reasons": dict(reasons.most_common()), "failures": failures, "seconds": round(time.perf_counter() - began)},
    )


if __name__ == "__main__":
    main()
