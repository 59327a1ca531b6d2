"""What the codes of a vector quantiser are worth: bits that they take, how many are in use, and codes that are dead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.conditionals.quantizers import use
from jensen.core import Joint, Model, evidence
from jensen.data import TensorSplit
from jensen.jobs.finding import Finding
from jensen.objectives.quantized import assignments
from jensen.units import bits

USED_SHARE = 0.7  # of codes, below which a codebook is larger than what it holds
LEAST = 20  # vectors a code, below which nothing can be said of codes that do not occur
BATCH = 500


@dataclass(frozen=True)
class CodeBits:
    """Bits of the codes of one level, a mean over data.

    Attributes:
        bits: −log₂ p(k) under the prior.
        uniform_bits: where all codes are equally likely: cells · log₂ K.
        cells, codes: of a datum; K.
    """

    bits: float
    uniform_bits: float
    cells: int
    codes: int

    def __str__(self) -> str:
        return (
            f"{self.cells} of {self.codes} codes, {self.bits:.1f} bits under the prior and {self.uniform_bits:.1f} as "
            "they are"
        )


@torch.no_grad()
def code_bits(model: Model, data: TensorSplit, chosen: Tensor, weights: Tensor | None = None) -> dict[str, CodeBits]:
    """Of each level by name; empty where the model quantises nothing.

    Args:
        data, chosen: rows of prepared data.
        weights: of these rows, (n,).
    """
    quantised = {factor.name: quantizer for factor, quantizer in assignments(model)}
    if not quantised:
        return {}
    priors = Joint({str(f): f.module for f in model.p if f.name != model.data})
    parts: dict[str, list[Tensor]] = {name: [] for name in quantised}
    cells: dict[str, int] = {}
    for index in chosen.split(BATCH):
        batch = data.take(index.to(data.x.device))
        e = evidence(priors, model.q, {name: batch[name] for name in (model.data, *model.context)})
        for name in quantised:
            parts[name].append(e.log_p[name][0].double().cpu())
            cells[name] = e.values[name][0].numel()
    share = torch.full((len(chosen),), 1 / len(chosen)) if weights is None else weights / weights.sum()
    return {
        name: CodeBits(
            bits(-float((torch.cat(parts[name]) * share).sum())),
            cells[name] * math.log2(quantizer.codes),
            cells[name],
            quantizer.codes,
        )
        for name, quantizer in quantised.items()
    }


@torch.no_grad()
def dead_codes(model: Model, batch: dict[str, Tensor]) -> Finding | None:
    """Codes that these data never take; None where nothing is quantised. Few data cannot tell, and it says so."""
    observed = {name: batch[name] for name in (model.data, *model.context)}
    values = evidence(Joint(), model.q, observed).values
    found, few = {}, []
    for factor, quantizer in assignments(model):
        k = values[factor.name]
        if k.numel() >= LEAST * quantizer.codes:
            perplexity, share = (float(v) for v in use(k, quantizer.codes))
            dead = quantizer.codes - round(share * quantizer.codes)
            found[factor.name] = {"codes": quantizer.codes, "dead": dead, "use": share, "perplexity": perplexity}
        else:
            few.append(
                f"{factor.name}: {k.numel():,} vectors of these data are too few to tell which of {quantizer.codes:,} "
                "codes are dead"
            )
    if not found and not few:
        return None
    told = [
        f"{name}: {f['codes'] - f['dead']} of {f['codes']} codes occur ({f['use']:.0%}), perplexity "
        f"{f['perplexity']:.0f}"
        for name, f in found.items()
    ]
    return Finding(
        "dead codes",
        all(f["use"] >= USED_SHARE for f in found.values()),
        "; ".join([*told, *few]),
        found,
        "fewer codes, as quantizer.codes=128; quantizer.revive=0.1 of a learned codebook; or quantizer=finite-scalar",
    )
