"""Diagnose: known faults, each looked for with evidence. What is looked for follows from what a model has.

Hidden variables: see `latent_health` and `hole_health`, of a mixture `cluster_health`, of a vector quantiser
`code_health`. Invertible maps: see `flow_health`. Any likelihood: overfitting.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.core import EXACT, Model, Shown, mean_and_stderr, seeded
from jensen.errors import CapabilityError
from jensen.jobs import cluster_health, code_health, flow_health, hole_health, latent_health
from jensen.jobs.finding import Finding
from jensen.jobs.job import job
from jensen.jobs.run import Run
from jensen.objectives.estimators import WALKED, elbo, exact

GAP_SHARE, GAP_NATS_PER_DIM = 0.05, 0.1  # between training data and others, of log p and in nats, that is large


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What was found on n data of a split."""

    findings: list[Finding]
    data: str
    split: str
    n: int

    @property
    def healthy(self) -> bool:
        return all(f.ok for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        out = asdict(self)
        for finding in out["findings"]:
            finding["try"] = finding.pop("try_")
        return {"healthy": self.healthy, **out}

    def __str__(self) -> str:
        lines = [f"{self.n:,} data of {self.data} {self.split}"]
        for f in self.findings:
            lines.append(f"{'ok   ' if f.ok else 'FAULT'} {f.name}: {f.sentence}")
            if f.try_ and not f.ok:
                lines.append(f"      try: {f.try_}")
        return "\n".join(lines)


@job("diagnose")
def diagnose(
    run: Run, data: Any = None, *, split: str | None = None, limit: int | None = 1000, seed: int = 0
) -> Diagnosis:
    """Look for the known faults of a model.

    Args:
        data: None for the run's own.
        split: by default the test part.
        limit: look at a random subset of so many, or of fewer where the model is large.

    Raises:
        CapabilityError: nothing about the model can be looked at.
    """
    found, name, part = run.split(data, split)
    run.model.eval()
    tensors = run.tensors(part)
    with seeded(seed, run.device):
        most = latent_health.effort(run.model, tensors.take(slice(0, WALKED))).data
    index = torch.from_numpy(run.pick(part, most if limit is None else min(limit, most), seed)).to(run.device)
    batch = tensors.take(index)
    look: list[Callable[[], Finding | None]] = [
        lambda: latent_health.collapse(run.model, batch),
        lambda: hole_health.holes(run.model, batch, run.spec.get("settings")),
        lambda: latent_health.floor(run.model, batch, () if run.schema.is_array else run.schema.names),
        lambda: cluster_health.clusters(run.model, batch),
        lambda: code_health.dead_codes(run.model, batch),
    ]
    if run.capabilities.likelihood:
        look += [lambda: latent_health.inference_gap(run.model, batch), lambda: _overfitting(run, batch, data, name)]
    findings = []
    for find in look:
        with seeded(seed, run.device):  # what one finds does not depend on what else is looked for
            findings.append(find())
    with seeded(seed, run.device):
        findings += flow_health.findings(run, found, batch)
    looked = [f for f in findings if f is not None]
    if not looked:
        raise CapabilityError(f"{run.spec['model']} has neither hidden variables nor a likelihood to look at")
    return Diagnosis(looked, found.name, name, len(index))


def _against_overfitting(run: Run, guilty: str) -> str:
    """What to try, of what there is, against what the encoder or the decoder has learned by heart."""
    settings = run.spec.get("settings", {})
    dropout = settings.get("encoder", {}).get("input_dropout")
    tries = []
    if dropout is not None and dropout < 0.5 and guilty != "decoder":
        tries = [f"encoder.input_dropout={0.2 if dropout < 0.2 else 0.4}"]
    tries += [f"a smaller {guilty or 'network'}"]
    tries += [f"fewer {name}" for name in ("latents", "layers", "components") if name in settings]
    return f"{', '.join(tries)} or fewer epochs"


@torch.no_grad()
def _rows(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """log p of each datum, or a bound, in nats, (B,); where a model keeps data, as told by the others."""
    if any(getattr(module, "keeps_data", False) for module in model.modules()):
        return model.objective.validate(model, batch)["log_likelihood"]
    return (exact(model, batch) if model.likelihood == EXACT else elbo(model, batch, 5)).rows


def _overfitting(run: Run, batch: dict[str, Tensor], data: Any, looked: str) -> Finding | None:
    """The bound on training data against these."""
    if data is not None:
        return None
    splits = run.data().splits
    if "train" not in splits or run.schema.binarization == "dynamic":
        return None
    skipped = "nothing was held out" if looked == "train" else "one datum tells little" if len(batch["x"]) < 2 else ""
    if skipped:
        return Finding("overfitting", True, f"not looked at: {skipped}", {"skipped": skipped})

    def some_of(name: str) -> dict[str, Tensor]:
        index = torch.from_numpy(run.pick(splits[name], len(batch["x"]), 1)).to(run.device)
        return run.tensors(splits[name]).take(index)

    train = some_of("train")
    here, error = mean_and_stderr(_rows(run.model, batch))
    there, error_there = mean_and_stderr(_rows(run.model, train))
    gap, stderr = there - here, math.hypot(error, error_there)
    # A density's nats have no zero: what counts there is the gap in each dimension.
    much = GAP_SHARE * abs(here) if run.measure == "counting" else GAP_NATS_PER_DIM * run.schema.dims
    large = gap > 2 * stderr and gap > much
    sentence = f"training data score {gap:+.2f} ± {stderr:.2f} nats against these"
    evidence = {"train": there, "here": here, "difference": gap, "stderr": stderr}
    if large and looked != "valid" and "valid" in splits:
        other, error = mean_and_stderr(_rows(run.model, some_of("valid")))
        evidence["valid"] = other
        if there - other <= min(much, 2 * math.hypot(error, error_there)):  # nor were those learned from
            large = False
            sentence += (
                f", but {there - other:+.2f} against validation data: a part that is harder, and not overfitting"
            )
    guilty = ""
    if latent_health.inferred(run.model):
        with contextlib.suppress(CapabilityError):
            parts = latent_health.overfitting_apart(run.model, train, batch)
            evidence |= parts
            by_decoder = f"{parts['decoder']:+.2f} ± {parts['decoder_stderr']:.2f}"
            by_encoder = f"{parts['encoder']:+.2f} ± {parts['encoder_stderr']:.2f}"
            sentence += (
                f"; on {parts['refined']} of each: {by_decoder} by the decoder, as the best q of each datum has it, "
                f"and {by_encoder} by the encoder"
            )
            guilty = "encoder" if parts["encoder"] > parts["decoder"] else "decoder"
    return Finding("overfitting", not large, sentence, evidence, _against_overfitting(run, guilty))
