"""Wake-sleep beside a VAE of about the same size, each given the same processor time; and on bars, by enumeration.

    python benchmarks/helmholtz.py --data mnist [--minutes 3] [--picture docs/_static/helmholtz.png]
        [--out benchmarks/results/helmholtz.json]
    python benchmarks/helmholtz.py --data bars [--seeds 0,1,2,3,4] [--out benchmarks/results/helmholtz_bars.json]

Time is processor time of one thread: epochs of all are timed in turn, so that a busy machine does not decide, and as
many are trained as fit. Statically binarised MNIST (`JENSEN_DATA`); scores are importance-weighted bounds on test
pictures at random.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import arguments, keep_table
from jensen.cli.memory import keep_freed_memory
from jensen.cli.writing import write_result
from jensen.core import Joint, Model, evidence
from jensen.data import Dataset, Schema, Split, load_data
from jensen.jobs.run import Run
from jensen.jobs.train import train

LAYERS, BATCH, PARTICLES, SCORED, ROUNDS = [200, 200], 100, 500, 2000, 3
CONTESTANTS: dict[str, tuple[str, dict[str, Any], float]] = {
    "helmholtz, wake-sleep": ("helmholtz", {"layers": LAYERS}, 4e-3),
    "helmholtz, reweighted wake-sleep, K = 5": (
        "helmholtz",
        {"layers": LAYERS, "objective": "reweighted-wake-sleep"},
        3e-3,
    ),
    "vae": ("vae", {"latents": 100, "encoder.hidden": [200], "decoder.hidden": [200]}, 1e-3),
}


def timed(name: str, data: Dataset, epochs: int, seed: int) -> tuple[Run, float]:
    """A run of so many epochs, and the processor time that it took, in minutes."""
    model, settings, lr = CONTESTANTS[name]
    began = time.process_time()
    run = train(model, data, settings=settings, epochs=epochs, lr=lr, batch_size=BATCH, seed=seed)
    return run, (time.process_time() - began) / 60


def epochs_in(minutes: float, data: Dataset, seed: int) -> tuple[dict[str, int], dict[str, float]]:
    """How many epochs of each fit into so many minutes, and what one takes: the median of rounds in which each is
    timed in turn, so that a machine that is busier at one time than at another slows all alike."""
    first: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    more: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name in CONTESTANTS:
            one, three = (timed(name, data, epochs, seed)[1] for epochs in (1, 3))
            first[name].append(one)
            more[name].append((three - one) / 2)  # what comes once, as a first validation, is not counted twice
    each = {name: statistics.median(times) for name, times in more.items()}
    return {n: max(1, 1 + round((minutes - statistics.median(first[n])) / each[n])) for n in CONTESTANTS}, each


def mnist(minutes: float, seed: int, picture: str) -> tuple[str, list[str], list[list[str]], dict[str, Any]]:
    data = load_data("binarized-mnist")
    lines, numbers, drawn = [], {}, []
    epochs_of, each = epochs_in(minutes, data, seed)
    for name in CONTESTANTS:
        run, took = timed(name, data, epochs_of[name], seed)
        elbo = run.score(estimator="elbo", particles=10, limit=SCORED)
        iw = run.score(estimator="iw", particles=PARTICLES, limit=SCORED)
        size, epochs = sum(p.numel() for p in run.model.parameters()), run.log[-1]["epoch"]
        budget = each[name] * epochs
        told = [f"{score.nats:.2f} ± {score.stderr:.2f}" for score in (elbo, iw)]
        lines.append([name, f"{size:,}", f"{epochs}", f"{budget:.2f}", *told])
        print("  ".join(lines[-1]), flush=True)
        numbers[name] = {
            "parameters": size,
            "epochs": epochs,
            "cpu_minutes": budget,
            "cpu_minutes_of_the_run": took,
            "lr": CONTESTANTS[name][2],
            "elbo": elbo.to_dict(),
            "iw": iw.to_dict(),
            "curve": [[line["epoch"], line["valid"]["elbo"]] for line in run.log],
        }
        drawn.append(run.sample(30, seed=seed))
    if picture:
        rows = [np.concatenate([part[10 * i : 10 * i + 10] for part in drawn]) for i in range(3)]
        write_result(picture, np.concatenate(rows), levels=2, across=10 * len(drawn))
    columns = ["model", "parameters", "epochs", "minutes", "test ELBO", f"test IW-{PARTICLES:,}"]
    return about_mnist(minutes), columns, lines, {"numbers": numbers, "seed": seed}


def about_mnist(minutes: float) -> str:
    return (
        f"Statically binarised MNIST. Each model is given as many epochs as take {minutes:g} minutes of processor "
        f"time of one thread, validation included, by the median of {ROUNDS} rounds in which epochs of all were timed "
        f"in turn. Test scores in nats of {SCORED:,} of the 10,000 pictures, at random, ± one standard error; both are "
        f"lower bounds on log p(x), the second with {PARTICLES:,} particles."
    )


# Bars


def bars() -> tuple[np.ndarray, np.ndarray]:
    """Horizontal or vertical bars of a 4 × 4 picture, each there half of the time: (30, 1, 4, 4), and shares."""
    counts: dict[bytes, int] = {}
    for upright, on in itertools.product((False, True), itertools.product((0, 1), repeat=4)):
        picture = np.repeat(np.array(on, dtype=np.uint8)[:, None], 4, 1)
        key = np.ascontiguousarray(picture.T if upright else picture).tobytes()
        counts[key] = counts.get(key, 0) + 1
    pictures = np.stack([np.frombuffer(key, np.uint8).reshape(1, 4, 4) for key in counts])
    return pictures, np.array(list(counts.values())) / 32


@torch.no_grad()
def enumerated(model: Model, x: Tensor, layers: list[int]) -> Tensor:
    """log p(x), (B,), as a sum over all states of the hidden units."""
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=sum(layers)))).split(layers[::-1], 1)
    z = {f"z{len(layers) - i}": part for i, part in enumerate(states)}
    log_z, given = evidence(model.p, Joint(), z).log_w[0], model.p["x"].module(z["z1"])
    return torch.stack([(log_z + given.log_prob(row)).logsumexp(0) for row in x])


def learn_bars(seeds: list[int], epochs: int = 200) -> tuple[str, list[str], list[list[str]], dict[str, Any]]:
    (pictures, p), layers = bars(), [8, 2]
    entropy = float(-(p * np.log(p)).sum())
    rows = np.random.default_rng(0).choice(len(pictures), 2000, p=p)
    splits = {"train": Split(pictures[rows]), "valid": Split(pictures), "test": Split(pictures)}
    data = Dataset("bars", Schema.of_pictures((1, 4, 4), levels=2), splits)
    lines, numbers = [], {}
    for objective, lr in itertools.product(("wake-sleep", "reweighted-wake-sleep"), (0.03, 0.06)):
        settings = {"layers": layers, "objective": objective}
        found = []
        for seed in seeds:
            began = time.process_time()
            run = train("helmholtz", data, settings=settings, epochs=epochs, lr=lr, batch_size=BATCH, seed=seed)
            seconds = time.process_time() - began
            log_p = enumerated(run.model, torch.from_numpy(pictures).float(), layers).double().numpy()
            iw = run.score(estimator="iw", particles=PARTICLES).rows
            assert iw is not None
            found.append(
                {"divergence": float((p * (np.log(p) - log_p)).sum()), "iw": float((p * iw.numpy()).sum()),
                 "log_p": float((p * log_p).sum()), "seconds": seconds}
            )  # fmt: skip
        kl = np.array([each["divergence"] for each in found])
        off = max(abs(each["iw"] - each["log_p"]) for each in found)
        stderr = kl.std(ddof=1) / math.sqrt(len(kl)) if len(kl) > 1 else math.nan
        lines.append(
            [objective, f"{lr:g}", f"{kl.mean():.3f} ± {stderr:.3f}", f"{np.median(kl):.3f}", f"{kl.min():.3f}",
             f"{kl.max():.3f}", f"{off:.3f}", f"{np.mean([each['seconds'] for each in found]):.1f}"]
        )  # fmt: skip
        print("  ".join(lines[-1]), flush=True)
        numbers[f"{objective} {lr:g}"] = found
    about = (
        f"4 × 4 bars, layers of 8 and 2 binary units, {20 * epochs:,} steps: KL(data ‖ p) in nats by enumeration of "
        f"all states, over {len(seeds)} seeds (± one standard error of the mean); the data's entropy is {entropy:.3f} "
        f"nats. `IW off` is the largest |IW-{PARTICLES:,} − enumerated log p|, mean over the data."
    )
    columns = ["objective", "rate", "KL, mean", "median", "least", "most", "IW off", "seconds"]
    return about, columns, lines, {"numbers": numbers, "entropy": entropy, "seeds": seeds}


def main() -> None:
    options = arguments(__doc__, data="mnist", minutes=3.0, seed=0, seeds="0,1,2,3,4", picture="")
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.data == "bars":
        found = learn_bars([int(seed) for seed in options.seeds.split(",")])
    else:
        found = mnist(options.minutes, options.seed, options.picture)
    about, columns, lines, extra = found
    keep_table(options.out, about, columns, lines, extra)


if __name__ == "__main__":
    main()
