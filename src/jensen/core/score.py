"""A score: a log-likelihood that says what it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.errors import ConfigError
from jensen.units import bits_per_dim, perplexity


class Shown:
    """A result that is shown by what its `str` says, and not by all numbers that it holds."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, repr=False)
class Score(Shown):
    """Log-likelihood of data under a model, in nats per datum, in the units of the user's data.

    Attributes:
        nats: mean over data, by their weights where they carry some; negative for pictures; higher is better.
        stderr: standard error of that mean over data.
        stderr_mc: standard error of the estimator itself, for these data (0 where it is exact). It does not cover
            bias: the logarithms of importance-weighted, prior and AIS estimates are low on average.
        kind: "exact", "lower_bound" (in expectation below log p) or "estimate".
        estimator: "exact", "elbo", "iw", "prior" or "ais"; "refined elbo" or "refined iw" where each datum's q was
            sought anew.
        particles: draws per datum (chains for "ais").
        n: number of data.
        dims: elements of a datum.
        measure: "counting" (probabilities), "lebesgue" (densities) or "mixed".
        data, split, split_sha256, binarization: what was scored.
        subset: None, or what part of the split was scored.
        log_jacobian: added to go from prepared to the user's units, in nats.
        effective_sample_size: median over data, where the estimator weighs particles.
        precision: "float32" or "float64", in which the rows were computed.
        float64_rows: how many of them were computed again in float64, as float32 gave no finite number.
        float32_error: mean |float32 − float64| in nats over the rows on which the two were compared; None where none.
        code_bits: of a vector quantiser, by level, the bits a datum that its codes take under the prior, `bits`, and
            as they are, `uniform_bits`, with how many `cells` there are and `codes`; None for all else.
        refine: steps at most by which each datum's q was refined; 0 where it is the encoder's.
        context: of windows of a text, how many tokens before it each token was given at least, from the window before
            too; 0 where each window was scored on its own, and of all else.
        given: conditions of the density, "y" (labels), "c" (columns or pictures) or "y, c"; None where there are none.
        quantization: of sound, how many levels, and by which law waveforms became them; None for all else.
        amounts: of text, how much of it was scored: tokens, words, characters, bytes, and `hidden`, words that
            became `<unk>`; None for all else.
        one_spelling: of text, whether other tokens could spell it too, as byte pairs can: the score is exact of those
            that it was read as, and what is said by character, byte or word bounds that of the text.
        unfinished: where training stood, of a model whose training has not come to its end; None for all else.
        rows: nats of each datum, (n,).
        weights: of the rows, (n,); None where all count alike.
    """

    nats: float
    stderr: float
    stderr_mc: float
    kind: str
    estimator: str
    particles: int
    n: int
    dims: int
    measure: str
    data: str
    split: str
    split_sha256: str
    binarization: str
    units: str = "user"
    subset: str | None = None
    log_jacobian: float = 0.0
    effective_sample_size: float | None = None
    precision: str = "float32"
    float64_rows: int = 0
    float32_error: float | None = None
    amounts: dict[str, int] | None = None
    one_spelling: bool = False
    refine: int = 0
    context: int = 0
    given: str | None = None
    quantization: str | None = None
    code_bits: dict[str, dict[str, float]] | None = None
    seen: float | None = None
    unfinished: str | None = None
    rows: Tensor | None = None
    weights: Tensor | None = None

    @property
    def density(self) -> str:
        """What it is the logarithm of, in writing."""
        return density_of(self.given)

    @property
    def bits_per_dim(self) -> float | None:
        """Bits per element that is there; None for continuous data, whose density is no code length, and for text."""
        counted = self.measure == "counting" and not self.amounts and self.elements > 0
        return bits_per_dim(self.nats, self.elements) if counted else None

    @property
    def elements(self) -> float:
        """Elements of a datum that are there, on average."""
        return self.dims if self.seen is None else self.seen

    @property
    def text(self) -> dict[str, float] | None:
        """Of text, the same number in the units of the literature, all from the total over the text.

        With −L = −n · nats the total: bits per token, character and byte are −L / (amount · ln 2), and perplexities
        exp(−L / amount). Where words became `<unk>`, their letters were not scored, and what is said by character or
        byte is left out. None for all else.
        """
        if not self.amounts or self.weights is not None:
            return None
        units = ["token", "word", *([] if self.amounts["hidden"] else ["character", "byte"])]
        total, amounts = self.nats * self.n, {unit: self.amounts[f"{unit}s"] for unit in units}
        figures = {f"bits_per_{unit}": bits_per_dim(total, n) for unit, n in amounts.items() if n and unit != "word"}
        return figures | {f"perplexity_per_{u}": perplexity(total, amounts[u]) for u in ("token", "word") if amounts[u]}

    def sign_of(self, figure: str) -> str:
        """How a figure of `text` says it stands to the true one: "" the same, "≤ " true is at most this, or "≈ "."""
        if self.kind == "estimate":
            return "≈ "
        return "≤ " if self.kind == "lower_bound" or (self.one_spelling and not figure.endswith("token")) else ""

    @property
    def leans_on_few(self) -> bool:
        """Whether, for half the data, fewer than five particles' worth of weight carries the estimate."""
        size = self.effective_sample_size
        return self.particles > 1 and size is not None and size < 5

    @property
    def about_precision(self) -> str:
        """What float32 lost, in a sentence; empty where it did."""
        if self.float64_rows:
            which = "1 datum" if self.float64_rows == 1 else f"{self.float64_rows:,} data"
            return f"float32 gave no finite number for {which}; computed in float64"
        if self.precision == "float64" and self.float32_error is not None:
            return f"float32 was off by {self.float32_error:.3g} nats per datum; computed in float64"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows and their weights, fit for JSON."""
        out = {k: v for k, v in asdict(self).items() if k not in ("rows", "weights")}
        out["bits_per_dim"] = self.bits_per_dim
        if self.text is not None:
            out["text"] = self.text
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in out.items()}

    def __str__(self) -> str:
        sign = {"exact": "=", "lower_bound": "≥", "estimate": "≈"}[self.kind]
        text = f"{self.density} {sign} {_short(self.nats)}"
        text += " nats" if math.isnan(self.stderr) else f" ± {_short(self.stderr)} nats"
        if self.text is not None:
            text += f" ({self._best_known()})"
        elif self.bits_per_dim is not None:
            text += f" ({self.bits_per_dim:.4f} bits/dim)"
        if self.code_bits:
            bits, plain = (sum(c[k] for c in self.code_bits.values()) for k in ("bits", "uniform_bits"))
            text += f", {bits:.1f} bits of it the codes ({plain:.1f} as they are)"
        how = self.estimator if self.particles == 1 else f"{self.estimator}, {self.particles:,} particles"
        kind = self.kind.replace("_", " ")
        kind += "" if kind == how else f" ({how})"
        kind += f", each token given {self.context:,} before it" if self.context else ""
        number = f"{self.n:,} {'datum' if self.n == 1 else 'data'}"
        return f"{text}, {kind}, {number} of {self.data}{'' if self.split == 'all' else f' {self.split}'}"

    def _best_known(self) -> str:
        """What a text's score is best known by: bits per character, else perplexity per token."""
        figures = self.text or {}
        if "bits_per_character" in figures:
            return f"{self.sign_of('bits_per_character')}{figures['bits_per_character']:.4f} bits/character"
        return f"perplexity {self.sign_of('perplexity_per_token')}{figures['perplexity_per_token']:.2f} per token"


def density_of(given: str | None) -> str:
    """What a score is the logarithm of, in writing, under conditions that are given by these names.

    >>> density_of(None), density_of("y, c")
    ('log p(x)', 'log p(x | y, c)')
    """
    return "log p(x)" if given is None else f"log p(x | {given})"


def _short(nats: float) -> str:
    """Two decimals; of a number that has no room for them four digits."""
    return f"{nats:.2f}" if abs(nats) < 1e9 else f"{nats:.3e}"


def mean_and_stderr(rows: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    """Mean over data and its standard error; nan for a single datum. With weights, the weighted mean."""
    rows = rows.double()
    w = torch.ones_like(rows) if weights is None else weights.double()
    w = w / w.sum()
    mean = (w * rows).sum()
    if len(rows) < 2:
        return float(mean), math.nan
    variance = (w**2 * (rows - mean) ** 2).sum() * len(rows) / (len(rows) - 1)
    return float(mean), float(variance.sqrt())


@dataclass(frozen=True)
class Difference:
    """Paired difference between two scores on the same data, in nats per datum."""

    nats: float
    stderr: float
    same_kind: bool

    @property
    def standard_errors(self) -> float:
        return self.nats / self.stderr if self.stderr > 0 else math.copysign(math.inf, self.nats)


_MEANING = {"counting": "counting (probabilities)", "lebesgue": "lebesgue (densities)"}


def _word(value: Any) -> str:
    """A value of a score in a message: digests shortened, measures explained."""
    return value[:16] if isinstance(value, str) and len(value) == 64 else _MEANING.get(value, str(value))


def difference(a: Score, b: Score) -> Difference:
    """a − b, paired by datum.

    Raises:
        ConfigError: the two were measured on other data, binarisation, measure, units, context or quantisation.
    """
    problems = []
    for name in ("split_sha256", "binarization", "measure", "units", "subset", "n", "context", "quantization"):
        left, right = getattr(a, name), getattr(b, name)
        if left != right:
            problems.append(f"{name} differs: {_word(left)} and {_word(right)}; scores compare only on the same data")
    if problems or a.rows is None or b.rows is None:
        raise ConfigError(problems or "scores without rows cannot be paired")
    nats, stderr = mean_and_stderr(a.rows - b.rows, a.weights)
    return Difference(nats, stderr, a.kind == b.kind)
