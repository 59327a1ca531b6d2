"""How sure a classifier of real pictures is of what models draw, beside how sure it is of real ones.

    python benchmarks/sample_quality.py RUN... [--n 2000] [--epochs 3] [--labelled mnist] [--picture samples.png]
        [--out benchmarks/results/sample_quality.json]

A small convolutional network learns the classes from the training pictures of a run's own data, prepared as the model
has them, or, where these have no labels, as binarised MNIST has none, from the labelled set of that name, binarised as
they are. For each run it tells the share of samples that it gives a class with probability above 0.9, beside the same
share of test pictures, of what the model expects given what it drew of what is hidden, free of the noise of single
pixels, and of draws of x given test pictures; and its accuracy on test pictures. A model that draws
few classes may well be sure: the share of each class is told too, and its perplexity. Runs that the file already holds
stay in it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import machine
from jensen.cli.memory import keep_freed_memory
from jensen.cli.writing import write_result
from jensen.core import seeded
from jensen.data import Dataset, load_data
from jensen.errors import CapabilityError
from jensen.jobs.encode import decode, given, represent
from jensen.jobs.run import Run, open_run
from jensen.jobs.sample import expected

SURE, BATCH, WIDTHS, DRAWN = 0.9, 100, (16, 32), 500
KINDS = ("real", "samples", "means_of_samples", "reconstructions")


class Classifier(nn.Module):
    """Logits of classes, (N, classes), of pictures (N, C, H, W) with values 0..top."""

    def __init__(self, channels: int, classes: int, top: int):
        super().__init__()
        first, second = WIDTHS
        self.top = top
        self.net = nn.Sequential(
            *(nn.Conv2d(channels, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(7)),
            *(nn.Flatten(), nn.Linear(49 * second, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / self.top - 0.5)


def labelled(run: Run, name: str) -> Dataset:
    """Labelled pictures prepared as the run's are."""
    data = run.data()
    if data.split("train").y is not None:
        return data
    return load_data(name, binarize="static") if run.schema.levels == 2 else load_data(name)


def taught(data: Dataset, epochs: int) -> tuple[Classifier, float]:
    """A classifier of the training pictures, and its accuracy on the test pictures."""
    schema, train, test = data.schema, data.split("train"), data.split("test")
    assert train.y is not None
    assert test.y is not None
    rows, y = train.to(schema), torch.from_numpy(train.y)
    with seeded(0):
        classifier = Classifier(schema.event_shape[0], int(y.max()) + 1, (schema.levels or 2) - 1)
        steps = epochs * -(-len(y) // BATCH)
        optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(epochs):
            for index in torch.randperm(len(y)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(classifier(rows.take(index)["x"]), y[index]).backward()
                optimizer.step()
                schedule.step()
    classifier.eval()
    with seeded(1):
        p = sureness(classifier, test.to(schema).take(slice(0, len(test)))["x"])
    return classifier, float((p.argmax(1) == torch.from_numpy(test.y)).double().mean())


@torch.no_grad()
def sureness(classifier: Classifier, x: Tensor) -> Tensor:
    """Probability of each class, (N, classes)."""
    return torch.cat([classifier(part.float()).softmax(1) for part in x.split(500)])


def shares(p: Tensor) -> dict[str, Any]:
    """Of pictures with these probabilities: the share that is surely of some class, and what classes."""
    sure = (p.amax(1) > SURE).double()
    classes = torch.bincount(p.argmax(1), minlength=p.shape[1]).double() / len(p)
    return {
        "sure": float(sure.mean()),
        "stderr": float((sure.mean() * (1 - sure.mean()) / len(p)).sqrt()),
        "mean_probability": float(p.amax(1).double().mean()),
        "classes": [round(float(c), 4) for c in classes],
        "perplexity_of_classes": float(torch.special.entr(classes).sum().exp()),
    }


@torch.no_grad()
def drawn(run: Run, n: int) -> tuple[Tensor, Tensor | None, float]:
    """Prepared samples, (n, C, H, W), given labels as often as they occur where the model is given any.

    Besides E[x | what is hidden] of each, None where there is none, and how many seconds the samples took.
    """
    context: dict[str, Tensor] = {}
    if "y" in run.model.context:
        y = torch.from_numpy(run.data().split("train").y)  # pyright: ignore[reportArgumentType]
        context["y"] = y[torch.from_numpy(np.random.default_rng(0).integers(len(y), size=n))]
    seconds, parts, means = 0.0, [], []
    with seeded(0):
        for start in range(0, n, DRAWN):
            part = {name: value[start : start + DRAWN] for name, value in context.items()}
            began = time.perf_counter()
            values = run.model.sample(min(DRAWN, n - start), part)
            seconds += time.perf_counter() - began
            parts.append(values["x"])
            if run.model.p["x"].parents and not run.model.inverted:
                with contextlib.suppress(CapabilityError):
                    means.append(expected(run, values))
    return torch.cat(parts), torch.cat(means) if len(means) == len(parts) else None, seconds


@torch.no_grad()
def reconstructed(run: Run, x: Tensor, y: np.ndarray | None) -> Tensor | None:
    """Draws of x given what is inferred about these; None where the model infers nothing."""
    if not run.capabilities.encode or run.model.inverted:
        return None
    batch = {"x": x} if y is None else {"x": x, "y": torch.from_numpy(y)}
    parts = []
    try:
        with seeded(0):
            for index in torch.arange(len(x)).split(DRAWN):
                part = {name: value[index] for name, value in batch.items()}
                parts.append(decode(run.model, represent(run.model, part), False, given(run.model, part)))
    except CapabilityError:
        return None
    return torch.cat(parts)


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--labelled", default="mnist")
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    table: dict[str, Any] = {}
    known: dict[str, tuple[Classifier, float]] = {}
    pictures = []
    for path in options.runs:
        run = open_run(path)
        data = labelled(run, options.labelled)
        key = f"{data.name} {run.schema.binarization}"
        if key not in known:
            known[key] = taught(data, options.epochs)
        classifier, accuracy = known[key]
        test = run.data().split("test")
        test = test.rows(run.pick(test, options.n))
        with seeded(2):
            real = test.to(run.schema).take(slice(0, len(test)))["x"]
        samples, means, seconds = drawn(run, options.n)
        back = reconstructed(run, real, test.y)
        table[run.name] = {
            "training": {key: run.log[-1][key] for key in ("step", "seconds")} | {"best": run.log[-1]["valid"]},
            "model": run.spec["model"],
            "data": run.spec["data"]["name"],
            "binarization": run.schema.binarization,
            "n": options.n,
            "seconds_a_sample": round(seconds / options.n, 5),
            "classifier_accuracy": accuracy,
            "real": shares(sureness(classifier, real)),
            "samples": shares(sureness(classifier, samples)),
            "means_of_samples": None if means is None else shares(sureness(classifier, means)),
            "reconstructions": None if back is None else shares(sureness(classifier, back)),
        }
        pictures.append(samples[:30])
        row = table[run.name]
        told = {name: f"{row[name]['sure']:.1%}" for name in KINDS if row[name]}
        print(f"{path}: accuracy {accuracy:.2%}; p > {SURE}: " + ", ".join(f"{k} {v}" for k, v in told.items()))
        sys.stdout.flush()
    if options.out is not None:
        kept = json.loads(options.out.read_text())["runs"] if options.out.exists() else {}
        told = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "command": " ".join(["python", *sys.argv]),
        }
        kept |= {name: {**row, **told} for name, row in table.items()}
        result = {"what": __doc__.splitlines()[0], "sure": SURE, "runs": kept}  # pyright: ignore
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.picture is not None:
        levels = int(max(p.max() for p in pictures)) + 1
        shown = torch.cat(pictures).round().numpy().astype(np.uint8)
        write_result(str(options.picture), shown, 256 if levels > 2 else 2, None, across=15)


if __name__ == "__main__":
    main()
