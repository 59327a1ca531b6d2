"""Train a shipped preset as a user would, then score it on its whole test set; keep the curve and the score.

    python benchmarks/likelihood.py vae-binarized-mnist --run runs/likelihood [--threads 2] [--particles 5000]
        [--limit N] [--out benchmarks/results/vae-binarized-mnist.json] [key=value ...]

Interrupted, it goes on where it stopped. Needs the preset's data (`JENSEN_DATA`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from harness import machine
from jensen.cli.arguments import read_settings, text_options
from jensen.cli.memory import keep_freed_memory
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import load_preset, train
from jensen.training.trainer import Event


def monitored(line: dict[str, Any]) -> str:
    """What validation measures: a bound, or log p itself."""
    return "elbo" if "elbo" in line["valid"] else "log_likelihood"


def at(log: list[dict[str, Any]], minutes: float) -> dict[str, float] | None:
    """The best validation so far at a time; None where training was over before."""
    lines = [line for line in log if line["seconds"] <= 60 * minutes]
    if not lines or (lines[-1] is log[-1] and log[-1]["seconds"] < 60 * minutes * 0.9):
        return None
    name = monitored(log[0])
    return {"epoch": lines[-1]["epoch"], f"valid_{name}": max(line["valid"][name] for line in lines)}


def layers_and_steps(log: list[dict[str, Any]]) -> dict[str, Any]:
    """KL divergence of each layer of a hierarchy at the end, in nats; steps that were left out, where any may be."""
    kl = {name: round(value, 3) for name, value in log[-1]["valid"].items() if name.startswith("kl_")}
    skipped = [line["train"]["skipped"] for line in log if "skipped" in line["train"]]
    found: dict[str, Any] = {"layers": kl} if len(kl) > 1 else {}
    return found | ({"skipped": {"mean": sum(skipped) / len(skipped), "most": max(skipped)}} if skipped else {})


def show(event: Event) -> None:
    """A line an epoch that was validated."""
    if event.kind == "epoch":
        line, name = event.logged, monitored(event.logged)
        print(
            f"{line['seconds'] / 60:6.1f} min  epoch {line['epoch']:4}  train {line['train'][name]:.2f}  "
            f"valid {line['valid'][name]:.2f} nats  {event.rate:,.0f} data/s",
            flush=True,
        )


def scored(run: Run, estimator: str, particles: int, context: int, limit: int | None) -> dict[str, Any]:
    """A score of the test split, or of some of it; one that the run folder keeps already is not computed again."""
    assert run.folder is not None
    test = run.data().split("test")
    subset = None if limit is None or limit >= len(test) else f"{limit} of {len(test)} at random, seed 0"
    wanted = (estimator, particles, context, test.sha256, subset)
    for kept in run.folder.scores():
        if tuple(kept.get(k) for k in ("estimator", "particles", "context", "split_sha256", "subset")) == wanted:
            print(f"kept already: {kept['nats']:.2f} ± {kept['stderr']:.2f} nats ({estimator}, {particles} particles)")
            return kept
    began = time.perf_counter()
    score = run.score(estimator=estimator, particles=particles, context=context, limit=limit)
    print(score, flush=True)
    return {**score.to_dict(), "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--particles", type=int, default=5000, help="of the importance-weighted bound; 1 for none")
    parser.add_argument("--limit", type=int, default=None, help="score so many test data at random")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--note", default="", help="on the conditions of the measurement")
    parser.add_argument("--text", default="", help="of the data, as length=512")
    parser.add_argument("--as-it-is", action="store_true", help="score a run where it stands, without training on")
    options = parser.parse_args()
    keep_freed_memory()  # as `jensen train` does
    torch.set_num_threads(options.threads)
    preset = load_preset(options.preset)
    settings = read_settings(options.settings).values
    text = {"text": text_options([options.text])} if options.text else {}
    resume = (options.run / "spec.yaml").exists()
    spent = time.process_time()
    if options.as_it_is:
        run = open_run(options.run)
    else:
        run = train(
            preset["model"],
            preset["data"],
            out=options.run,
            preset=None if resume else options.preset,
            settings=None if resume else settings,
            resume=resume,
            listener=show,
            **text,
        )
    spent = time.process_time() - spent
    name = monitored(run.log[0])
    exact = run.capabilities.likelihood == "exact"
    estimators = [("elbo", 1, 0), ("iw", options.particles, 0)][: 1 + (options.particles > 1)]
    if exact:
        windows = run.schema.is_text and not run.schema.tokens.lines
        estimators = [("exact", 1, 0), *([("exact", 1, run.schema.event_shape[0] * 3 // 4)] if windows else [])]
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "preset": options.preset,
        "note": options.note,
        "seed": run.spec["training"]["seed"],
        "training": {
            "minutes": round(run.log[-1]["seconds"] / 60, 2),
            "processor_minutes": None if resume or options.as_it_is else round(spent / 60, 2),  # all in one process
            "epochs": run.log[-1]["epoch"],
            f"best_valid_{name}": max(line["valid"][name] for line in run.log),
            "at_minutes": {str(m): at(run.log, m) for m in (5, 15, 30)},
            **layers_and_steps(run.log),
            "curve": [[round(line["seconds"] / 60, 2), round(line["valid"][name], 3)] for line in run.log],
        },
        "scores": [scored(run, *which, options.limit) for which in estimators],
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"kept in {options.out}")


if __name__ == "__main__":
    main()
