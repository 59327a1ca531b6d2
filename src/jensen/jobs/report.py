"""Report: one HTML file to look at a run with. Nothing outside it is needed, and no script runs in it."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jensen.core import seeded
from jensen.data import Dataset, Split
from jensen.errors import CapabilityError, ConfigError, DataError, IntegrityError
from jensen.jobs import pictures
from jensen.jobs.diagnose import diagnose
from jensen.jobs.encode import interpolate, reconstruct
from jensen.jobs.given import Given, given_as
from jensen.jobs.job import job
from jensen.jobs.latent_map import LatentMap, latent_map
from jensen.jobs.pictures import DATA, MODEL, MUTED, THIRD, Curve, Panel
from jensen.jobs.run import Run
from jensen.jobs.sample import sample
from jensen.registry import MODEL as MODEL_ROLE
from jensen.registry import configure, find
from jensen.training.folder import write_atomically
from jensen.units import bits_per_dim

PICTURES = 36  # in a grid of samples
PAIRS = 10  # of data and reconstructions, and at most so many in a row
PATHS, STEPS = 4, 9  # of interpolation
COLUMNS = 16  # of a table that are drawn
HEAT_COLUMNS = 12  # of a table whose correlations are drawn as matrices
MAP_DATA, DIAGNOSE_DATA = 1000, 500

GONE = (ConfigError, DataError, IntegrityError)  # what answers for data that are no longer there
KINDS = {"exact": "exact", "lower_bound": "lower bound", "estimate": "estimate"}
MONITORS = {
    "elbo": "ELBO, a lower bound on log p(x)",
    "iw": "importance-weighted bound on log p(x)",
    "log_likelihood": "log p(x), exact",
    "reconstruction": "log p(x | z) at the code; no bound on log p(x)",
}


@dataclass(frozen=True)
class Section:
    """One part of a report: what is to be seen, and a sentence that says what that is. Both are HTML."""

    id: str
    title: str
    caption: str
    body: str


@job("report")
def report(run: Run, out: str | os.PathLike[str] | None = None, *, data: Any = None) -> Path:
    """Write one self-contained HTML file about a run; equal runs give equal files.

    Args:
        out: the file; by default report.html in the run folder.
        data: what to reconstruct, encode and diagnose; None for the run's own.

    Returns:
        The path of the file.

    Raises:
        ConfigError: no file is named and the run lives in memory, or the file cannot be written.
        DataError: the data given cannot be read or do not fit the model.
        ResourceError: the disk is full.
    """
    if out is None and run.folder is None:
        raise ConfigError("a run in memory has no folder; name the file to write")
    path = Path(out) if out is not None else run.folder.report_path  # pyright: ignore[reportOptionalMemberAccess]
    if path.is_dir():
        raise ConfigError(f"--out: {path} is a folder, expected a file")
    write_atomically(path, page(run, sections(run, data)))
    return path


def sections(run: Run, data: Any = None, elsewhere: Run | None = None) -> list[Section]:
    """Every section of a run's report.

    Args:
        elsewhere: another run on the same data, whose latent space is mapped in place of this one's.
    """
    subject = _Subject(run, data)
    parts: list[tuple[str, str, Callable[[], tuple[str, str]]]] = [
        ("numbers", "The numbers", lambda: _numbers(run)),
        ("training", "Training", lambda: _training(run)),
        ("samples", "Samples", lambda: _samples(run, subject)),
        ("reconstructions", "Reconstructions", lambda: _reconstructions(run, subject)),
        ("interpolation", "Interpolation", lambda: _interpolation(run, subject)),
        ("latent-map", "Latent map", lambda: _latent_map(elsewhere or run, subject, elsewhere is not None)),
        ("diagnosis", "Diagnosis", lambda: _diagnosis(run, subject)),
        ("settings", "Settings and versions", lambda: _settings(run)),
        ("reproduce", "How to reproduce", lambda: _reproduce(run)),
    ]
    found = []
    for name, title, make in parts:
        try:
            caption, body = make()
        except CapabilityError as e:
            caption, body = f"Left out: {_text(e)}.", ""
        except _NoData as e:
            caption, body = f"Left out, as it needs data: {_text(e)}.", ""
        found.append(Section(name, title, caption, body))
    return found


class _NoData(Exception):
    """The data to show are not to be had; the rest of the report still is."""


class _Subject:
    """The data that a report shows, read once. Those of the run may be gone; those asked for may not."""

    def __init__(self, run: Run, data: Any):
        self.run, self.given = run, data
        if data is not None:
            _ = self.found

    @cached_property
    def found(self) -> tuple[Dataset, str, Split]:
        try:
            return self.run.split(self.given)
        except GONE as e:
            if self.given is not None:
                raise
            raise _NoData(e) from None

    def few(self, n: int, seed: int = 0) -> tuple[Dataset, Split]:
        """A data set of n random rows, of different classes as far as there are any."""
        data, name, part = self.found
        order = np.random.default_rng(seed).permutation(len(part))
        if part.y is not None:
            turn = np.zeros(len(part), int)  # how often a row's class came before it
            for label in np.unique(part.y):
                rows = order[part.y[order] == label]
                turn[rows] = np.arange(len(rows))
            order = order[np.lexsort((part.y[order], turn[order]))]
        rows = order[:n]
        chosen = replace(
            part,
            x=part.x[rows],
            y=None if part.y is None else part.y[rows],
            weight=None if part.weight is None else part.weight[rows],
            index=part.index[rows],
        )
        return Dataset(data.name, data.schema, {name: chosen}), chosen

    def shown(self, part: Split) -> np.ndarray:
        """Rows as the model takes them: binary pictures that are drawn afresh are drawn once."""
        if not part.redraw:
            return part.x
        with seeded(0):
            return part.to(self.run.schema).take(slice(None))["x"].numpy()


# The sections: each gives its caption and its body


def _numbers(run: Run) -> tuple[str, str]:
    monitor, line = _monitor(run), run.log[-1] if run.log else None
    rows, continuous = [], run.measure != "counting"
    scores = _latest(run.folder.scores() if run.folder else [])
    for s in scores:
        how = "" if s["particles"] == 1 else f", {s['particles']:,} particles"
        what = f"{s['data']}, {s['split']} part, {s['n']:,} data"
        rows.append(
            [
                f"{s['nats']:.2f} ± {s['stderr']:.2f}" if s["stderr"] is not None else f"{s['nats']:.2f}",
                "–" if s["bits_per_dim"] is None else f"{s['bits_per_dim']:.4f}",
                KINDS[s["kind"]],
                f"{s['estimator']}{how}",
                what + (f" ({s['subset']})" if s["subset"] else ""),
            ]
        )
    if line is not None:
        best = _best(run)
        nats = best["valid"][monitor] + run.schema.log_jacobian
        bounded = monitor != "reconstruction"
        rows.append(
            [
                f"{nats:.2f}",
                f"{bits_per_dim(nats, run.schema.dims):.4f}" if bounded and not continuous else "–",
                _kind_of(run, monitor) if bounded else "no likelihood",
                monitor,
                f"validation, at the weights kept (step {best['step']:,})",
            ]
        )
    body = _facts(run)
    if rows:
        body += _table(["nats per datum", "bits/dim", "kind", "estimator", "of"], rows, numeric=2)
    caption = (
        "How probable the model finds data that it was not trained on: mean log p(x) per datum in nats "
        "(natural logarithms), ± one standard error over the data; higher is better. A lower bound says that "
        "the true value is at least that, in expectation. "
    )
    if continuous:
        caption += "These are densities in the units of the data, so bits/dim has no meaning here."
    else:
        caption += f"Bits/dim is the same in bits for each of the {run.schema.dims:,} dimensions; lower is better."
    if run.capabilities.likelihood is None:
        caption = f"This model has no likelihood: {_text(run.capabilities.no_likelihood)}. "
        caption += "What training maximised is listed; it compares with nothing but itself."
    elif not scores:
        place = shlex.quote(str(run.folder.path)) if run.folder else "RUN"
        caption += f" Not scored yet: <code>jensen score {_text(place)}</code> adds the test data."
    return caption, body


def _facts(run: Run) -> str:
    facts = [(f"{sum(p.numel() for p in run.model.parameters()):,}", "parameters")]
    if isinstance(run.spec["settings"].get("latents"), int):
        facts.append((f"{run.spec['settings']['latents']:,}", "latent dimensions"))
    rows = _train_rows(run)
    if rows:
        facts.append((f"{rows:,}", "training data"))
    if run.log:
        facts.append((f"{run.log[-1]['step']:,}", "training steps"))
        facts.append((_duration(run.log[-1]["seconds"]), "of training"))
    cells = "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for value, name in facts)
    return f'<div class="facts">{cells}</div>'


def _training(run: Run) -> tuple[str, str]:
    monitor = _monitor(run)
    if len(run.log) < 2:
        how = run.model.objective.description if run.model.objective else "training"
        return f"No curves: one pass through the data did it ({_text(how)}).", ""
    steps = [line["step"] for line in run.log]
    shift, best = run.schema.log_jacobian, _best(run)
    panels = []

    def curve(label: str, part: str, key: str, colour: str, faint: bool = False) -> list[Curve]:
        known = [(line["step"], line[part][key]) for line in run.log if key in line[part]]
        moved = 0.0 if key.startswith("kl_") else shift
        return [Curve(label, *_apart(known, moved), colour=colour, faint=faint)] if len(known) > 1 else []

    both = curve("training", "train", monitor, DATA, True) + curve("validation", "valid", monitor, MODEL)
    values = [y for c in both for y in c.y]
    late = [y for c in both for x, y in zip(c.x, c.y, strict=True) if x >= 0.08 * steps[-1]]
    floor = min(late) - 0.05 * (max(late) - min(late)) if late and min(values) < min(late) else None
    mark = (best["step"], best["valid"][monitor] + shift, "weights kept")
    panels.append(Panel(f"{_title(monitor)} (nats per datum)", both, mark, floor))
    logged = run.log[-1]["valid"]
    if monitor != "reconstruction" and "reconstruction" in logged:
        found = curve("validation", "valid", "reconstruction", MODEL)
        late = [y for c in found for x, y in zip(c.x, c.y, strict=True) if x >= 0.08 * steps[-1]]
        panels.append(Panel("log p(x | z) (nats per datum)", found, floor=min(late) if late else None))
    divergences = [key for key in logged if key.startswith("kl_")]
    if divergences:
        colours = [THIRD, MODEL, DATA, MUTED]
        found = [c for i, k in enumerate(divergences) for c in curve(f"KL of {k[3:]}", "valid", k, colours[i % 4])]
        panels.append(Panel("KL(q ‖ p) (nats per datum)", found))
    caption = (
        f"How training went, over its steps: {_text(MONITORS.get(monitor, monitor))}, on the training and "
        f"on the validation data; {_duration(run.log[-1]['seconds'])} in all. "
    )
    if run.spec["training"].get("average"):
        caption += "Validation uses a moving average of the weights. "
    if len(panels) > 1:
        caption += (
            "The bound is the reconstruction term, log p(x | z), less the KL term: what is paid for telling "
            "what is hidden. "
        )
    if floor is not None:
        caption += "The first values lie below the frame."
    return caption, _row(_plot(pictures.curves(panel, "steps"), panel.title) for panel in panels)


def _samples(run: Run, subject: _Subject) -> tuple[str, str]:
    rows = PICTURES if run.schema.is_image else 2000
    conditional = bool(run.model.context)
    given = given_as(run, subject.few(rows)[1], rows) if conditional else Given(rows)
    drawn = sample(run, given=given)
    under = " The conditions that it was given are those of the data." if conditional else ""
    if run.schema.is_image:
        levels = run.schema.levels or 256
        means = sample(run, given=given, mean=True)
        figures = [
            _picture(means, levels, "expected picture E[x | z] for drawn z", "samples, expected values"),
            _picture(drawn, levels, "draws of x: the samples themselves", "samples"),
        ]
        with contextlib.suppress(_NoData):
            shown = subject.shown(subject.few(rows)[1])
            figures.insert(0, _picture(shown, levels, "data, for comparison", "data"))
        return (
            "New pictures that the model dreams up: z is drawn from the prior p(z), then x from p(x | z). "
            f"The expected values are easier on the eye; only the draws are samples.{under}",
            _row(figures),
        )
    data = np.concatenate([part.x for part in subject.found[0].splits.values()])
    samples = _matrix(drawn)
    names = run.schema.names
    shown = names[:COLUMNS]
    body = _legend([("data", "data fill"), ("samples", "model")])
    body += _row((_plot(pictures.histogram(n, data[:, j], samples[:, j]), n) for j, n in enumerate(shown)), "small")
    caption = (
        f"New rows that the model dreams up, {rows:,} of them, beside all {len(data):,} data: how often each "
        f"value occurs, column by column, in the units of the data{_of(len(shown), len(names), 'columns')}"
    )
    if 2 <= len(names) <= HEAT_COLUMNS:
        body += _plot(pictures.correlations(names, data, samples), "correlations of the columns")
        caption += "; below, the correlation of each pair of columns, from −1 (blue) to 1 (red)"
    elif len(names) > HEAT_COLUMNS:
        body += _plot(pictures.correlation_pairs(data, samples), "correlations of the columns")
        caption += "; below, the correlation of each pair of columns, a dot each: on the line the two agree"
    return caption + "." + under, body


def _reconstructions(run: Run, subject: _Subject) -> tuple[str, str]:
    if run.schema.is_image:
        data, part = subject.few(2 * PAIRS)
        back = reconstruct(run, data)
        levels, shown = run.schema.levels or 256, subject.shown(part)
        columns = min(PAIRS, len(shown))
        blocks = []
        for start in range(0, len(shown), columns):
            blocks += [
                _filled(shown[start : start + columns], columns),
                _filled(back[start : start + columns], columns),
            ]
        return (
            f"Data that the model was not trained on (upper rows), each encoded to {_code(run)} and decoded "
            "to the expected picture E[x | z] (below it).",
            _row([_picture(np.concatenate(blocks), levels, "", "data above, reconstructions below", columns)]),
        )
    data, part = subject.few(300)
    back, names = _matrix(reconstruct(run, data)), run.schema.names
    shown = names[:COLUMNS]
    return (
        f"Data that the model was not trained on (across), each encoded to {_code(run)} and decoded to "
        f"E[x | z] (up), column by column in the units of the data; on the line nothing is lost"
        f"{_of(len(shown), len(names), 'columns')}.",
        _row((_plot(pictures.against(n, part.x[:, j], back[:, j]), n) for j, n in enumerate(shown)), "small"),
    )


def _code(run: Run) -> str:
    return "the mean of q(z | x)" if run.model.hidden else "its code z"


def _interpolation(run: Run, subject: _Subject) -> tuple[str, str]:
    data, part = subject.few(2 * PATHS)
    if len(part) < 2:
        raise _NoData("it takes two data")
    ways = {
        "linear": "linear: straight from one code to the other",
        "spherical": "spherical: along an arc about the origin",
    }
    if run.schema.is_image:
        figures = []
        for how, label in ways.items():
            rows = [
                interpolate(run, data, start=i, end=i + 1, steps=STEPS, how=how)  # pyright: ignore[reportArgumentType]
                for i in range(0, len(part) - 1, 2)
            ]
            figures.append(_picture(np.concatenate(rows), run.schema.levels or 256, label, label, STEPS))
        return (
            "Pictures on the way from one datum to another: each row starts and ends at reconstructions of "
            "two data, and between them shows E[x | z] at points between their codes z.",
            _row(figures, "wide"),
        )
    names = run.schema.names[: min(8, len(run.schema.names))]
    figures = []
    for how in ways:
        track = _matrix(interpolate(run, data, steps=STEPS, how=how))  # pyright: ignore[reportArgumentType]
        figures.append(_plot(pictures.path(how, names, _standard(run, track)[:, : len(names)]), how))
    return (
        "Expected rows E[x | z] on the way from one datum to another, at points between their codes z, "
        "straight or along an arc; each column in standard deviations from its mean"
        f"{_of(len(names), len(run.schema.names), 'columns')}.",
        _row(figures, "wide"),
    )


def _latent_map(run: Run, subject: _Subject, other: bool) -> tuple[str, str]:
    data, name, _ = subject.found
    if not run.capabilities.encode:
        raise CapabilityError(f"{run.spec['model']} has no hidden variables to map")
    return latent_map_section(latent_map(run, data, name, MAP_DATA), run, other)


def latent_map_section(found: LatentMap, run: Run, other: bool) -> tuple[str, str]:
    """Caption and body for a latent map; `other` says that it is of another model than the report's."""
    classes = run.schema.classes if found.labels is not None else None
    figures = [
        _plot(
            pictures.scatter(found.points, found.labels, classes, found.axes),
            "latent map",
            "each mark is a datum" + (_seen(run) if classes else ""),
        )
    ]
    caption = "Where data lie in the latent space: the mean of q(z | x) for each datum"
    if run.capabilities.likelihood is None:
        caption = "Where data lie in the latent space: the code z of each datum"
    if other:
        caption = (
            "This map is of a second, smaller model with two latent dimensions, trained on the same data for "
            "the sake of this picture. " + caption
        )
    if found.flattened is not None:
        caption += (
            f", flattened from more dimensions to the two principal components that vary most; they hold "
            f"{found.flattened:.0%} of the variance"
        )
    if found.manifold is not None:
        _, columns, *event = found.manifold.shape
        pad = 0 if event[-1] >= 20 else 1
        image = pictures.grid(found.manifold.reshape(-1, *event), columns, run.schema.levels or 256, pad)
        where = (
            "at equal steps of probability of the prior" if found.spread == "prior" else "over the range of the data"
        )
        figures.append(_figure(_image(image, "decoded pictures over the map"), f"pictures decoded {where}"))
        caption += "; beside it, what the model decodes at places of the same plane"
    return caption + ".", _row(figures, "wide")


def _seen(run: Run) -> str:
    knows = "y" in run.model.context or "y" in run.model.p
    return ", marked by its label" + ("" if knows else ", which the model never saw")


def _diagnosis(run: Run, subject: _Subject) -> tuple[str, str]:
    if not run.capabilities.encode:
        raise CapabilityError(f"{run.spec['model']} has no hidden variables to diagnose")
    _ = subject.found
    found = diagnose(run, subject.given, limit=DIAGNOSE_DATA)
    items = []
    for f in found.findings:
        mark, word = ("✓", "fine") if f.ok else ("!", "look")
        advice = f"<p class='try'>Try {_text(f.try_)}.</p>" if f.try_ and not f.ok else ""
        items.append(
            f'<li class="{word}"><span class="mark" aria-label="{word}">{mark}</span>'
            f"<div><b>{_text(f.name)}</b><p>{_text(f.sentence)}.</p>{advice}</div></li>"
        )
    body = f'<ul class="findings">{"".join(items)}</ul>'
    kl = next((f.evidence["kl_per_dimension"] for f in found.findings if "kl_per_dimension" in f.evidence), [])
    if len(kl) > 1:
        shown = sorted(kl, reverse=True)[:100]
        body += _plot(
            pictures.bars(shown, "latent dimensions, busiest first", "KL (nats)"),
            "KL of each latent dimension",
            "how much each latent dimension says about a datum; one near 0 is not used",
        )
    return (
        f"Known faults of models with hidden variables, looked for on {found.n:,} data "
        f"({_text(found.split)} part); each with what was found.",
        body,
    )


def _settings(run: Run) -> tuple[str, str]:
    data = run.spec["data"]
    groups = {
        "Model": _flat({"model": run.spec["model"], **run.spec["settings"]}),
        "Training": _flat(run.spec["training"]),
        "Data": {
            "name": data["name"],
            "shape": run.schema.event_shape,
            "kind": run.schema.kind,
            "binarization": run.schema.binarization,
            **data["options"],
            **{f"{name} sha256": digest[:16] + "…" for name, digest in data["splits"].items()},
        },
        "Versions": run.spec["versions"],
    }
    body = "".join(
        f"<details><summary>{title}</summary>"
        + _table(["setting", "value"], [[k, _value(v)] for k, v in group.items()])
        + "</details>"
        for title, group in groups.items()
    )
    return "Everything that was set, defaults included; open a group to see it.", body


def _reproduce(run: Run) -> tuple[str, str]:
    ref = run.spec["data"]["ref"]
    given, options = overrides(run), run.spec["data"]["options"]
    training = _changed(find("training", "gradient"), run.spec["training"])
    blocks = []
    if ref is not None and not options.keys() & {"seed", "fractions", "kinds"}:  # which only Python takes
        flags = {
            k: training.pop(k) for k in ("epochs", "minutes", "batch_size", "lr", "seed", "precision") if k in training
        }
        words = ["jensen", "train", run.spec["model"], ref, "--out", "again"]
        for key, value in {**options, **flags}.items():
            for one in value if isinstance(value, list) and key == "drop" else [value]:
                words += [f"--{key.replace('_', '-')}", str(one)]
        words += [f"{k}={_value(v)}" for k, v in given.items()]
        words += [f"train.{k}={_value(v)}" for k, v in training.items()]
        blocks.append(shlex.join(words))
        training |= flags
    settings = {**given, **{f"train.{k}": v for k, v in training.items()}}
    lines = ["import jensen", ""]
    if options:
        lines.append(f"data = jensen.load_data({ref!r}{''.join(f', {k}={v!r}' for k, v in options.items())})")
    source = "data" if options or ref is None else repr(ref)
    inner = f", settings={settings!r}" if settings else ""
    lines.append(f'run = jensen.train({run.spec["model"]!r}, {source}{inner}, out="again")')
    if ref is None:
        lines.insert(1, "# data: the array or table in memory that this was trained on")
    blocks.append("\n".join(lines))
    where = "from the shell or from Python" if len(blocks) > 1 else "from Python"
    caption = f"The same run again, {where}; the seed is among the settings."
    if ref is None:
        caption = "The same run again, from Python: the data were in memory and have no name of their own."
    if run.spec["training"].get("minutes"):
        steps = f" ({run.log[-1]['step']:,})" if run.log else ""
        caption += (
            f" Its budget was one of time, and how many steps that is{steps} depends on the machine; give "
            "<code>--epochs</code> for a run that is the same everywhere."
        )
    return caption, "".join(f"<pre><code>{_text(block)}</code></pre>" for block in blocks)


def overrides(run: Run) -> dict[str, Any]:
    """The model's settings that are not defaults, dotted, as the command line takes them."""
    return _changed(find(MODEL_ROLE, run.spec["model"]), run.spec["settings"])


def _changed(component: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that differ from what is filled in where only the names of components are given."""
    flat, plain = _flat(settings), _flat(configure(component, {}))
    slots = {k: v for k, v in flat.items() if any(other.startswith(f"{k}.") for other in flat) or _is_slot(settings, k)}
    filled = _flat(configure(component, slots))
    return {k: v for k, v in flat.items() if v != (plain.get(k) if k in slots else filled.get(k))}


def _is_slot(settings: Any, dotted: str) -> bool:
    for key in dotted.split("."):
        settings = settings[key]
    return isinstance(settings, Mapping)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, dotted: a component's name stands at the name of its slot."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{k}".removesuffix(".name"): v for k, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat


# What is read off a run


def _monitor(run: Run) -> str:
    stages = run.model.objective.stages if run.model.objective else ()
    return stages[-1].monitor if stages else "elbo"


def _best(run: Run) -> dict[str, Any]:
    """The line of the log whose weights were kept."""
    monitor = _monitor(run)
    known = [line for line in run.log if monitor in line["valid"]] or run.log
    if run.spec["training"].get("keep", "best") == "best" and "average" in run.spec["training"]:
        return max(known, key=lambda line: line["valid"].get(monitor, -math.inf))
    return known[-1]


def _title(monitor: str) -> str:
    return {"elbo": "ELBO", "iw": "IW bound"}.get(monitor, monitor.replace("_", " "))


def _kind_of(run: Run, monitor: str) -> str:
    return "exact" if monitor == "log_likelihood" else KINDS.get(run.capabilities.likelihood or "", "lower bound")


def _latest(scores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last score of each kind, tightest first."""
    last = {(s["data"], s["split"], s["estimator"], s["particles"], s["subset"]): s for s in scores}
    order = {"exact": 0, "iw": 1, "ais": 2, "prior": 3, "elbo": 4}
    return sorted(last.values(), key=lambda s: (order.get(s["estimator"], 9), -s["particles"]))


def _train_rows(run: Run) -> int | None:
    try:
        return len(run.data().split("train"))
    except GONE:
        return None


def _standard(run: Run, x: np.ndarray) -> np.ndarray:
    """Columns in standard deviations from their means, where the schema knows them."""
    centers = np.array([field.center for field in run.schema.fields])
    scales = np.array([field.scale for field in run.schema.fields])
    return (x - centers) / scales


def _matrix(table: Any) -> np.ndarray:
    """A table in the user's types as float64, (n, D)."""
    return np.asarray(table.to_numpy() if hasattr(table, "to_numpy") else table).astype(np.float64)


def _filled(x: np.ndarray, n: int) -> np.ndarray:
    """n pictures, the last of them black where there are fewer."""
    return np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])


def _apart(points: Sequence[tuple[float, float]], shift: float) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y + shift for _, y in points]


# HTML


def _text(value: object) -> str:
    return html.escape(str(value).rstrip("."))


def _unbroken(caption: str) -> str:
    """Formulas kept on one line."""
    return caption.replace(" | ", "\u00a0|\u00a0").replace(" ± ", " ±\u00a0")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":")) if value is not None else "null"


def _of(shown: int, all_: int, what: str) -> str:
    return "" if shown == all_ else f" (the first {shown} of {all_} {what})"


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 0) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i < numeric else ''}>{html.escape(v)}</{tag}>" for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _figure(inner: str, caption: str = "") -> str:
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f"<figure>{inner}{below}</figure>"


def _image(image: Any, alt: str) -> str:
    data = base64.b64encode(pictures.png(image)).decode()
    width, height = image.size
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'width="{width}" height="{height}" style="max-width:{max(width, 300)}px">'
    )


def _picture(x: np.ndarray, levels: int, caption: str, alt: str, columns: int | None = None) -> str:
    return _figure(_image(pictures.grid(x, columns, levels), alt), caption)


def _plot(figure: Any, alt: str, caption: str = "") -> str:
    drawn = pictures.svg(figure)
    width = round(figure.get_figwidth() * 96)
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}" style="max-width:{width}px"', 1)
    return _figure(drawn, caption)


def _row(figures: Iterable[str], kind: str = "") -> str:
    return f'<div class="row {kind}">{"".join(figures)}</div>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f'<span><i class="{kind}"></i>{_text(label)}</span>' for label, kind in entries)
    return f'<p class="legend">{keys}</p>'


def _sentence(run: Run) -> str:
    """What the model is, with its factors."""
    c, found = run.capabilities, find(MODEL_ROLE, run.spec["model"])
    what = found.summary.split(":")[0].split(",")[0].rstrip(".")
    shape = "×".join(map(str, run.schema.event_shape))
    kind = {"binary": "binary", "levels": "grey", "count": "count", "real": "real"}[run.schema.kind]
    if run.schema.is_image:
        kind = "colour" if run.schema.event_shape[0] == 3 and kind == "grey" else kind
        things = f"{kind} pictures of {shape}"
    else:
        things = f"tables of {run.schema.dims} {kind} columns"
    offers = {
        "exact": "It gives the exact probability of a datum",
        "lower_bound": "It bounds the probability of a datum from below",
    }.get(c.likelihood or "", "It gives no probability of a datum")
    offers += ", and makes new data" if c.sample and c.likelihood else ""
    return (
        f"{_text(what)} (<code>{_text(run.spec['model'])}</code>) of {_text(things)}, trained on "
        f"{_text(run.spec['data']['name'])}. {offers}."
    )


def _factors(run: Run) -> str:
    """p and q as products of their factors."""

    def product(letter: str, joint: Any) -> str:
        names = ", ".join(joint.names)
        given = f" | {', '.join(joint.context)}" if joint.context else ""
        right = " ".join(f"{letter}({factor})" for factor in joint)
        left = f"{letter}({names}{given})"
        return left if left == right else f"{left} = {right}"

    lines = [f"<div>{_text(product('p', run.model.p))}<span>how data come about</span></div>"]
    if len(run.model.q):
        lines.append(f"<div>{_text(product('q', run.model.q))}<span>how what is hidden is inferred</span></div>")
    return f'<div class="factors">{"".join(lines)}</div>'


def page(run: Run, parts: Sequence[Section], title: str | None = None) -> str:
    """The whole HTML file."""
    title = title or run.name
    links = "".join(f'<a href="#{s.id}">{_text(s.title)}</a>' for s in parts if s.body)
    body = "".join(
        f'<section id="{s.id}"><h2>{_text(s.title)}</h2><p class="caption">{_unbroken(s.caption)}</p>{s.body}</section>'
        for s in parts
    )
    versions = ", ".join(f"{k} {v}" for k, v in run.spec["versions"].items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)} – jensen report</title>
<style>{_css()}</style>
</head>
<body>
<header><h1>{_text(title)}</h1><p class="lead">{_sentence(run)}</p>{_factors(run)}<nav>{links}</nav></header>
<main>{body}</main>
<footer>Made by {_text(versions)}. All of this page is in this one file.</footer>
</body>
</html>
"""


def _css() -> str:
    light = {v: c for c, v in pictures.VARIABLES.items()}
    dark = {v: pictures.DARK[c] for c, v in pictures.VARIABLES.items()}
    rules = [":root{" + ";".join(f"{k}:{v}" for k, v in both.items()) + "}" for both in (light, dark)]
    return f"{rules[0]}@media (prefers-color-scheme:dark){{{rules[1]}}}{CSS}"


CSS = """
:root{--page:#fbfbfa;--card:#fff}
@media (prefers-color-scheme:dark){:root{--page:#15181b;--card:#1d2125}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:68rem;padding:1.5rem clamp(1rem,4vw,2.5rem) 3rem;
background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:.6rem 0 .4rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:0 0 .25rem}
p{margin:.3rem 0}
.lead{font-size:1.08rem;max-width:46rem}
.factors{margin:.9rem 0;font-family:Georgia,"Times New Roman",serif;font-style:italic;font-size:1.12rem}
.factors span{font:normal .85rem/1.4 system-ui,sans-serif;color:var(--muted);margin-left:1rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin-top:1rem;font-size:.92rem}
a{color:var(--model);text-decoration:none}a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:1.1rem clamp(.9rem,3vw,1.6rem) 1.2rem;margin-top:1.2rem}
.caption{color:var(--muted);max-width:52rem;font-size:.95rem}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));gap:1rem 1.4rem;
margin-top:.9rem;align-items:start}
.row.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.row.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,12.5rem),1fr));gap:.5rem 1rem}
figure{margin:0;min-width:0}
figcaption{color:var(--muted);font-size:.86rem;margin-top:.35rem}
img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:4px}
svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:.9rem 0 .6rem}
.facts div{display:flex;flex-direction:column}
.facts b{font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.facts span{color:var(--muted);font-size:.85rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.93rem;margin-top:.4rem}
th{text-align:left;font-weight:600;color:var(--muted);font-size:.84rem;white-space:nowrap}
td,th{padding:.38rem .9rem .38rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
tr:last-child td{border-bottom:0}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.number{font-weight:600}
.bar{display:block;height:.7rem;border-radius:3px;background:var(--muted);min-width:2px;margin-top:.4rem}
.bar.own{background:var(--model)}
.legend{display:flex;gap:1.4rem;font-size:.88rem;margin-top:.8rem}
.legend i{display:inline-block;width:1.5rem;height:.7rem;margin-right:.45rem;border-radius:2px}
.legend i.data{background:var(--data);opacity:.4}
.legend i.model{height:0;border-top:2.5px solid var(--model);vertical-align:.25em}
.findings{list-style:none;margin:.8rem 0;padding:0}
.findings li{display:flex;gap:.8rem;padding:.45rem 0}
.findings p{font-size:.95rem}
.findings .mark{flex:none;width:1.6rem;height:1.6rem;border-radius:50%;border:2px solid;
text-align:center;font-weight:700;line-height:1.35rem}
.fine .mark{color:var(--third)}.look .mark{color:var(--data)}
.try{color:var(--data)}
details{border-top:1px solid var(--rule);padding:.45rem 0}
summary{cursor:pointer;font-weight:600}
details td{overflow-wrap:anywhere}details td:first-child{white-space:nowrap;width:1%;padding-right:1.6rem}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.88rem}
pre{background:var(--page);border:1px solid var(--rule);border-radius:6px;padding:.7rem .9rem;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.85rem;margin-top:1.5rem}
@media print{section{break-inside:avoid}}
"""
