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
from jensen.jobs.run import Run

ROWS = 64  # texts at once


@torch.no_grad()
def write_on(
    run: Run,
    n: int,
    prefix: str = "",
    length: int | None = None,
    temperature: float = 1.0,
    nucleus: float = 1.0,
    seed: int = 0,
    given: Any = None,
    given_from: Any = None,
    how: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """n texts, (n,), that begin with a prefix; see `jensen.jobs.sample`.

    Raises:
        CapabilityError: a prefix or more than a window, of a model that hides something: what is hidden would have to
            be inferred from it.
        ConfigError: an option out of range, or that a text has not.
        DataError: the prefix holds what is no token.
    """
    tokens, size = run.schema.tokens, run.schema.event_shape[0]
    problems = []
    if n < 1:
        problems.append(f"-n: expected >= 1, got {n}")
    if given or given_from is not None:
        problems.append("--given: a text has no columns; --prefix says how it begins")
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
    alone = not run.model.p[run.model.data].parents
    if (len(begun) or wanted > size) and not alone:
        raise CapabilityError(
            f"{run.spec['model']} hides what a text is drawn from, so it cannot go on from a beginning; leave out "
            f"{'--prefix' if len(begun) else '--length'}"
        )
    texts = []
    with seeded(seed, run.device):
        for start in range(0, n, ROWS):
            rows = min(ROWS, n - start)
            if alone:
                starts = _starts(run, rows, begun, temperature, nucleus)
                drawn = [_go_on(run, start, wanted, temperature, nucleus, how) for start in starts]
            else:
                drawn = [_whole(run, rows, temperature, nucleus, how)]
            texts += [tokens.decode(row) for part in drawn for row in part.long().cpu().numpy()]
    return np.array(texts, dtype=object)


def _whole(run: Run, n: int, temperature: float, nucleus: float, how: Mapping[str, Any]) -> Tensor:
    """Texts by way of what is hidden, (n, T)."""
    factor = run.model.p[run.model.data]
    values = run.model.sample(n, temperature=1.0, how=how) if not factor.parents else _above(run, n, how)
    met = factor.module(*(values[name] for name in factor.parents))
    return _sharpened(met, temperature, nucleus).sample(() if met.batch_shape else (n,))


def _above(run: Run, n: int, how: Mapping[str, Any]) -> dict[str, Tensor]:
    """What p draws before the text."""
    values: dict[str, Tensor] = {}
    for factor in run.model.p:
        if factor.name == run.model.data:
            break
        met = factor.module(*(values[name] for name in factor.parents))
        met = met.sampled(how[factor.name]) if factor.name in how else met
        values[factor.name] = met if isinstance(met, Tensor) else met.sample(() if met.batch_shape else (n,))
    return values


def _starts(run: Run, n: int, begun: np.ndarray, temperature: float, nucleus: float) -> list[Tensor]:
    """How n texts begin, in tokens, (rows, t) for each t that there is.

    Of a text that begins with some bytes the tokens may be those of the beginning; or those of its first part, and then
    one that holds the rest and more, as a space is part of the word after it. Each has its chance,

        log w = Σ_{i<j} log p(b_i | b_<i) + log p(t | b_<j),

    where t = b_j, the last one, or t begins with the bytes of b_j and all after it and goes on.
    """
    tokens, size = run.schema.tokens, run.schema.event_shape[0]
    whole = torch.from_numpy(begun).to(run.device, torch.get_default_dtype())
    seen = _remembered(whole[None], size)[0]
    longer = tokens.longer(seen.long().tolist())
    met = _sharpened(run.model.p[run.model.data].module(), temperature, 1.0)
    if not longer or (met.of.network.order.diff() < 0).any():
        return [whole.expand(n, -1)]
    window = torch.nn.functional.pad(seen, (0, size - len(seen)))[None]
    log_p = met.factors(window).logits[0, : len(seen)].log_softmax(-1)
    upto = torch.nn.functional.pad(log_p.gather(1, seen.long()[:, None])[:, 0].cumsum(0), (1, 0))
    chances = torch.stack([upto[-1], *(upto[j] + log_p[j, t] for j, t in longer)])
    which = Categorical(chances, 0)
    which = which.nucleus(nucleus) if nucleus < 1 else which
    starts: dict[int, list[Tensor]] = {}
    for i in which.sample((n,)).long().tolist():
        j, t = longer[i - 1] if i else (len(seen) - 1, int(begun[-1]))
        start = torch.cat([whole[: len(whole) - len(seen) + j], whole.new_tensor([t])])
        starts.setdefault(len(start), []).append(start)
    return [torch.stack(rows) for rows in starts.values()]


def _remembered(text: Tensor, size: int) -> Tensor:
    """What a window begins with that goes on from texts (n, t): all, or so much that half of it is left."""
    return text if text.shape[1] < size else text[:, -(size // 2) :]


def _go_on(run: Run, text: Tensor, wanted: int, temperature: float, nucleus: float, how: Mapping[str, Any]) -> Tensor:
    """Texts (n, wanted) from how they begin, (n, t), a window at a time."""
    n, size, end, name = len(text), run.schema.event_shape[0], run.schema.tokens.end, run.model.data
    met = _sharpened(run.model.p[name].module(), temperature, nucleus)
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
