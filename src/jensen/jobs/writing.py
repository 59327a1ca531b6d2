"""Texts from a model: new ones, and ones that go on from a beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.conditionals.autoregressive import Autoregression
from jensen.core import seeded
from jensen.distributions import Categorical, Symbols
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.given import Given
from jensen.jobs.run import Run

ROWS = 64  # texts at once


@torch.no_grad()
def write_on(
    run: Run,
    given: Given,
    prefix: str = "",
    length: int | None = None,
    temperature: float = 1.0,
    nucleus: float = 1.0,
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Texts, (n,), that begin with a prefix, one for each row of what is given; see `jensen.jobs.sample`.

    Raises:
        CapabilityError: a prefix or more than a window, of a model that hides something: what is hidden would have to
            be inferred from it.
        ConfigError: an option out of range, or that a text has not.
        DataError: the prefix holds what is no token.
    """
    tokens, size = run.schema.tokens, run.schema.event_shape[0]
    problems = []
    if not 0 < nucleus <= 1:
        problems.append(f"--nucleus: expected a share in (0, 1], got {nucleus}")
    if length is not None and tokens.lines:
        problems.append("--length: expected a model of windows of a text; a line ends by itself")
    if length is not None and length < 1:
        problems.append(f"--length: expected >= 1, got {length}")
    try:
        begun = tokens.encode(prefix, "--prefix")
    except UnicodeEncodeError:
        raise DataError("--prefix: expected text in UTF-8, got bytes that are none") from None
    if tokens.lines and len(begun) >= size:
        problems.append(f"--prefix: expected fewer than {size} {tokens.unit}, the most of a line, got {len(begun)}")
    if length is not None and 0 < length <= len(begun):
        problems.append(f"--length: expected more than the {len(begun)} {tokens.unit} of --prefix, got {length}")
    if problems:
        raise ConfigError(problems)
    wanted = length or (size if len(begun) < size else len(begun) + size)
    how = how or {}
    alone = all(name not in run.model.p for name in run.model.p[run.model.data].parents)
    if (len(begun) or wanted > size) and not alone:
        raise CapabilityError(
            f"{run.spec['model']} hides what a text is drawn from, so it cannot go on from a beginning; leave out "
            f"{'--prefix' if len(begun) else '--length'}"
        )
    texts = np.empty(given.n, dtype=object)
    with seeded(seed, run.device):
        for first in range(0, given.n, ROWS):
            rows = torch.arange(first, min(first + ROWS, given.n))
            context = {name: value[rows] for name, value in given.context.items()}
            if alone:
                starts = _starts(run, len(rows), context, begun, temperature, nucleus)
                drawn = [(of, _go_on(run, start, _of(context, of), wanted, temperature, nucleus, how))
                         for of, start in starts]  # fmt: skip
            else:
                every = torch.arange(len(rows))
                drawn = [(every, _whole(run, len(rows), context, temperature, nucleus, how))]
            for of, part in drawn:
                for row, text in zip(rows[of].tolist(), part.long().cpu().numpy(), strict=True):
                    texts[row] = tokens.decode(text)
    return texts


def _of(context: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """What is given of some of the texts."""
    return {name: value[rows.to(value.device)] for name, value in context.items()}


def _density(run: Run, context: Mapping[str, Tensor]) -> Any:
    """p(text | context)."""
    factor = run.model.p[run.model.data]
    return factor.module(*(context[name] for name in factor.parents))


def _whole(
    run: Run, n: int, context: Mapping[str, Tensor], temperature: float, nucleus: float, how: Mapping[str, Any]
) -> Tensor:
    """Texts by way of what is hidden, (n, T)."""
    values = dict(context)
    for factor in run.model.p:
        if factor.name == run.model.data:
            break
        met = factor.module(*(values[name] for name in factor.parents))
        met = met.sampled(how[factor.name]) if factor.name in how else met
        values[factor.name] = met if isinstance(met, Tensor) else met.sample(() if met.batch_shape else (n,))
    met = _density(run, values)
    return _sharpened(met, temperature, nucleus).sample(() if met.batch_shape else (n,))


def _starts(
    run: Run, n: int, context: Mapping[str, Tensor], begun: np.ndarray, temperature: float, nucleus: float
) -> list[tuple[Tensor, Tensor]]:
    """How n texts begin, in tokens, (rows, t) for each t that there is, with which of the n these rows are.

    Of a text that begins with some bytes the tokens may be those of the beginning; or those of its first part, and then
    one that holds the rest and more, as a space is part of the word after it. Each has its chance,

        log w = Σ_{i<j} log p(b_i | b_<i) + log p(t | b_<j),

    where t = b_j, the last one, or t begins with the bytes of b_j and all after it and goes on.
    """
    tokens, size = run.schema.tokens, run.schema.event_shape[0]
    whole = torch.from_numpy(begun).to(run.device, torch.get_default_dtype())
    seen = _remembered(whole[None], size)[0]
    longer = tokens.longer(seen.long().tolist())
    met = _sharpened(_density(run, context), temperature, 1.0)
    if not longer or (met.of.network.order.diff() < 0).any():
        return [(torch.arange(n), whole.expand(n, -1))]
    window = torch.nn.functional.pad(seen, (0, size - len(seen))).expand(n if met.batch_shape else 1, -1)
    log_p = met.factors(window).logits[:, : len(seen)].log_softmax(-1)
    upto = log_p.gather(2, seen.long()[None, :, None].expand(len(log_p), -1, -1))[:, :, 0].cumsum(1)
    upto = torch.nn.functional.pad(upto, (1, 0))
    chances = torch.stack([upto[:, -1], *(upto[:, j] + log_p[:, j, t] for j, t in longer)], 1)
    which = Categorical(chances.expand(n, -1), 0)
    which = which.nucleus(nucleus) if nucleus < 1 else which
    starts: dict[int, list[tuple[int, Tensor]]] = {}
    for row, i in enumerate(which.sample().long().tolist()):
        j, t = longer[i - 1] if i else (len(seen) - 1, int(begun[-1]))
        start = torch.cat([whole[: len(whole) - len(seen) + j], whole.new_tensor([t])])
        starts.setdefault(len(start), []).append((row, start))
    return [(torch.tensor([row for row, _ in some]), torch.stack([s for _, s in some])) for some in starts.values()]


def _remembered(text: Tensor, size: int) -> Tensor:
    """What a window begins with that goes on from texts (n, t): all, or so much that half of it is left."""
    return text if text.shape[1] < size else text[:, -(size // 2) :]


def _go_on(
    run: Run,
    text: Tensor,
    context: Mapping[str, Tensor],
    wanted: int,
    temperature: float,
    nucleus: float,
    how: Mapping[str, Any],
) -> Tensor:
    """Texts (n, wanted) from how they begin, (n, t), a window at a time."""
    n, size, end, name = len(text), run.schema.event_shape[0], run.schema.tokens.end, run.model.data
    met = _sharpened(_density(run, context), temperature, nucleus)
    met = met.sampled(how[name]) if name in how else met
    while text.shape[1] < wanted and not (text == end).any(1).all():
        kept = _remembered(text, size)
        known = torch.arange(size, device=text.device) < kept.shape[1]
        held = torch.nn.functional.pad(kept, (0, size - kept.shape[1]))
        drawn = met.draw(met.noise((n, size)), held, known)
        text = torch.cat([text, drawn[:, kept.shape[1] :].to(text)], 1)
    return text[:, :wanted]


def _sharpened(met: Any, temperature: float, nucleus: float) -> Any:
    if not isinstance(met, Autoregression | Symbols):
        raise CapabilityError("this model draws no symbols")
    met = met.tempered(temperature) if temperature != 1 else met
    return met.nucleus(nucleus) if nucleus < 1 else met
