"""What a report shows of the model: samples, reconstructions, paths, codes, density, and a diagnosis."""

from __future__ import annotations

import contextlib
import math
from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps

from jensen.core import EXACT
from jensen.data import columns as table_columns
from jensen.data.sources import open_source
from jensen.distributions import StandardNormal
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs import hole_health, pictures, plots
from jensen.jobs import latent_map as maps
from jensen.jobs.completing import sequential
from jensen.jobs.diagnose import diagnose
from jensen.jobs.encode import decode, encode, interpolate, reconstruct
from jensen.jobs.flow_health import GAIN
from jensen.jobs.given import Given, given_as
from jensen.jobs.report import sound, text
from jensen.jobs.report.page import escaped, figure, inline, legend, of_all, picture, plot, row
from jensen.jobs.report.subject import NoData, Subject
from jensen.jobs.run import Run
from jensen.jobs.sample import sample

PICTURES, ROWS = 36, 2000  # of samples
COOL = 0.7  # temperature of what is shown beside samples of a flow
PAIRS = 10  # of data and reconstructions, and at most so many in a row
PATHS, STEPS = 4, 9  # of interpolation
COLUMNS = 16  # of a table that are drawn
HEAT_COLUMNS = 12  # of a table whose correlations are drawn as matrices
CORRELATED = 2000  # pairs of columns, at most, whose correlations are drawn as dots
PAIRED, DOTS = 4, 500  # columns that are drawn two by two, and marks in a plot
GRID, LABELS = 160, 4  # points across a density, and labels for which one is drawn
MAP_DATA, DIAGNOSE_DATA = 1000, 500


def samples(run: Run, subject: Subject) -> tuple[str, str]:
    """New data beside data."""
    if run.schema.is_sound:
        return sound.samples(run, subject)
    if run.schema.is_text:
        return text.samples(run, subject)
    n = PICTURES if run.schema.is_image else ROWS
    conditional = bool(run.model.conditions)
    given = given_as(run, subject.few(n)[1], n) if conditional else Given(n)
    under = " The conditions that it was given are those of the data." if conditional else ""
    drawn = sample(run, given=given)
    if run.schema.is_image:
        caption, figures = _pictures(run, given, drawn)
        with contextlib.suppress(NoData):
            shown = subject.shown(subject.few(n)[1])
            figures.insert(0, picture(shown, run.schema.levels or 256, "data, for comparison", "data"))
        return caption + under, row(figures)
    data = np.concatenate([part.x for part in subject.found[0].splits.values()])
    caption, body = _rows(run, data, _matrix(run, drawn))
    return caption + under, body


def _pictures(run: Run, given: Given, drawn: np.ndarray) -> tuple[str, list[str]]:
    """Samples, and beside them what is easier on the eye."""
    levels = run.schema.levels or 256
    if run.model.inverted:
        figures = [picture(drawn, levels, "samples", "samples")]
        with contextlib.suppress(ConfigError):  # a base without scale
            cool = sample(run, given=given, temperature=COOL)
            figures.append(picture(cool, levels, f"the same z times {COOL}: no samples", "samples, cooled"))
        return "New pictures that the model dreams up: z is drawn from the base, and the map makes x = T(z).", figures
    if not run.model.hidden:
        by = ", pixel by pixel, each given those before it" if shows_surprise(run) else ""
        return f"New pictures that the model dreams up{by}.", [picture(drawn, levels, "samples", "samples")]
    means = sample(run, given=given, mean=True)
    return (
        "New pictures that the model dreams up: z is drawn from the prior p(z), then x from p(x | z). "
        "The expected values are easier on the eye; only the draws are samples.",
        [
            picture(means, levels, "expected picture E[x | z] for drawn z", "samples, expected values"),
            picture(drawn, levels, "draws of x: the samples themselves", "samples"),
        ],
    )


def shows_surprise(run: Run) -> bool:
    """Whether each pixel has a probability given those before it."""
    return bool(run.schema.is_image and sequential(run))


def surprise(run: Run, subject: Subject) -> tuple[str, str]:
    """−log₂ p of each pixel given those before it, bright where it surprises, beside its picture."""
    part = subject.few(PAIRS)[1]
    by_pixel = subject.bits(part).sum(1)  # over colours, (n, H, W)
    top = max(float(by_pixel.max()), 1e-9)
    heat = np.rint(255 * colormaps["magma"](by_pixel / top)[..., :3]).astype(np.uint8).transpose(0, 3, 1, 2)
    module: Any = run.model.p[run.model.data].module
    orders: int = module.network.orderings
    order = f" in one of its {orders} orders" if orders > 1 else ""
    first, columns = subject.shown(part), min(5, len(part))
    return (
        "How much each pixel of pictures that the model was not trained on surprises it, −log₂ p given those before "
        f"it{order}: black is certain, and the brightest {top:.1f} bits. They take "
        f"{by_pixel.sum() / len(part):.1f} bits a picture on average.",
        row(
            [
                picture(first, run.schema.levels or 256, "data", "data", columns),
                picture(heat, 256, "surprise of each pixel", "surprise of each pixel", columns),
            ],
            "wide",
        ),
    )


def _rows(run: Run, data: np.ndarray, drawn: np.ndarray) -> tuple[str, str]:
    """Columns of samples beside columns of data, one by one and in pairs."""
    names, words = run.schema.names, [field.categories or () for field in run.schema.fields]
    shown = names[:COLUMNS]
    body = legend([("data", "data fill"), ("samples", "model")])
    drawings = (plots.histogram(n, data[:, j], drawn[:, j], words[j]) for j, n in enumerate(shown))
    body += row((plot(drawing, name) for drawing, name in zip(drawings, shown, strict=True)), "small")
    caption = (
        f"New rows that the model dreams up, {len(drawn):,} of them, beside all {len(data):,} data: how often each "
        f"value occurs, column by column, in the units of the data{of_all(len(shown), len(names), 'columns')}"
    )
    ordered = _ordered(run)
    names, data, drawn = [names[j] for j in ordered], data[:, ordered], drawn[:, ordered]
    if 2 <= len(names) <= HEAT_COLUMNS:
        body += plot(plots.correlations(names, data, drawn), "correlations of the columns")
        caption += "; below, the correlation of each pair of columns, from −1 (blue) to 1 (red)"
    elif len(names) > HEAT_COLUMNS:
        count = len(names) * (len(names) - 1) // 2
        body += plot(plots.correlation_pairs(data, drawn, CORRELATED), "correlations of the columns")
        which = "each pair" if count <= CORRELATED else f"{CORRELATED:,} of the {count:,} pairs"
        caption += f"; below, the correlation of {which} of columns, a dot each: on the line the two agree"
    few = min(PAIRED, len(names))
    some, pairs = np.random.default_rng(0).permutation(len(data))[:DOTS], []
    for i, j in combinations(range(few), 2):
        both = plots.pair((names[i], names[j]), data[some][:, [i, j]], drawn[:DOTS, [i, j]])
        pairs.append(plot(both, f"{names[i]} and {names[j]}"))
    if pairs:
        body += row(pairs)
        caption += f"; and the columns two by two{of_all(few, len(names), 'columns')}"
    return caption + ".", body


def shows_density(run: Run) -> bool:
    """Whether the density itself can be drawn: exact, of one or two real columns, given labels at most."""
    drawable = run.model.likelihood == EXACT and run.measure == "lebesgue" and not run.schema.is_image
    return drawable and run.schema.dims <= 2 and "c" not in run.model.context


@torch.no_grad()
def density(run: Run, subject: Subject) -> tuple[str, str]:
    """p(x) of one or two columns, with data; of a conditional model, for each of the first labels."""
    part, names = subject.found[2], run.schema.names
    low, high = part.x.min(0), part.x.max(0)
    margin = 0.1 * np.where(high > low, high - low, 1.0)
    axes = np.linspace(low - margin, high + margin, GRID if len(names) == 2 else 10 * GRID).T
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(names))
    x = run.schema.prepare(grid).to(run.device)
    conditional = "y" in run.model.context
    labels = [int(y) for y in np.unique(part.y)[-LABELS:]] if conditional and part.y is not None else [None]
    figures = []
    for label in labels:
        given = {} if label is None else {"y": torch.full((len(x),), label, device=run.device)}
        log_p = run.model.evidence({run.model.data: x, **given}).log_w[0].double().cpu().numpy()
        log_p = (log_p + run.schema.log_jacobian).reshape([axes.shape[1]] * len(names))
        data = part.x if label is None or part.y is None else part.x[part.y == label]
        name = "" if label is None else f"given {run.schema.label or 'label'} {(run.schema.classes or ())[label]}"
        if len(names) == 1:
            drawing = plots.against_law(names[0], data[:, 0], axes[0], np.exp(log_p), "p(x)")
        else:
            some = np.random.default_rng(0).permutation(len(data))[:DOTS]
            drawing = plots.density((names[0], names[1]), log_p.T, axes[0], axes[1], data[some])
        figures.append(plot(drawing, "density", name))
    given = " given a label" if conditional else ""
    return f"The density p(x) itself{given}, in the units of the data, with data that it was not trained on.", row(
        figures, "wide"
    )


def reconstructions(run: Run, subject: Subject) -> tuple[str, str]:
    """Data beside what comes back from their codes."""
    if run.schema.is_sound:
        return sound.reconstructions(run, subject)
    if run.schema.is_text:
        return text.reconstructions(run, subject)
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
            row([picture(np.concatenate(blocks), levels, "", "data above, reconstructions below", columns)]),
        )
    data, part = subject.few(300)
    back, places = _matrix(run, reconstruct(run, data)), _ordered(run)
    names = [run.schema.names[j] for j in places]
    shown = names[:COLUMNS]
    return (
        f"Data that the model was not trained on (across), each encoded to {_code(run)} and decoded to "
        f"E[x | z] (up), column by column in the units of the data; on the line nothing is lost"
        f"{of_all(len(shown), len(names), 'columns')}.",
        row(
            (plot(plots.against(n, part.x[:, j], back[:, j]), n) for j, n in zip(places, shown, strict=False)),
            "small",
        ),
    )


def _code(run: Run) -> str:
    return "the mean of q(z | x)" if run.model.hidden else "its code z"


def interpolation(run: Run, subject: Subject) -> tuple[str, str]:
    """Paths from datum to datum."""
    if run.schema.is_sound:
        return sound.interpolation(run, subject)
    if run.schema.is_text:
        return text.interpolation(run, subject)
    data, part = subject.few(2 * PATHS)
    if len(part) < 2:
        raise NoData("it takes two data")
    under = ", under the conditions of the nearer end" if run.model.conditions else ""
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
            figures.append(picture(np.concatenate(rows), run.schema.levels or 256, label, label, STEPS))
        ends = "two data" if run.model.inverted else "reconstructions of two data"
        return (
            f"Pictures on the way from one datum to another: each row starts and ends at {ends}, and between them "
            f"shows {_decoded(run)} at points between their codes z{under}.",
            row(figures, "wide"),
        )
    places = _ordered(run)
    names, places = [run.schema.names[j] for j in places], places[:8]
    shown, figures = names[:8], []
    for how in ways:
        track = _matrix(run, interpolate(run, data, steps=STEPS, how=how))  # pyright: ignore[reportArgumentType]
        figures.append(plot(plots.path(how, shown, _standard(run, track)[:, places]), how))
    return (
        f"{'Rows' if run.model.inverted else 'Expected rows'} {_decoded(run)} on the way from one datum to another, at "
        "points between their codes z, straight or along an arc; each column in standard deviations from its mean"
        f"{of_all(len(shown), len(names), 'columns')}{under}.",
        row(figures, "wide"),
    )


def _decoded(run: Run) -> str:
    return "x = T(z)" if run.model.inverted else "E[x | z]"


def codes(run: Run, subject: Subject) -> tuple[str, str]:
    """Exact codes of data against the base that they should be draws of."""
    data, name, part = subject.found
    noisy = any(map(run.model.is_noisy, run.model.hidden))
    z = encode(run, data, split=name, limit=MAP_DATA, draws=int(noisy)).astype(np.float64)
    z = z[:, 0] if noisy else z
    x, back = ("v", "⌊T(z)⌋") if noisy else ("x", "T(z)")
    caption = f"Codes z = T⁻¹({x}) of data that the model was not trained on; {back} gives each of them back exactly. "
    figures = []
    base = run.model.p[run.model.inverted[0]].module.base()  # pyright: ignore[reportCallIssue]
    if isinstance(base, StandardNormal):
        caption += "Where the model is right they are draws of its base N(0, I), each element and their length alike."
        length = np.linalg.norm(z, axis=1)
        at, r = np.linspace(-4, 4, 201), _around(length, z.shape[1])
        law = np.exp(-0.5 * at**2) / math.sqrt(2 * math.pi)
        figures.append(plot(plots.against_law("elements of z", z.ravel(), at, law, "N(0, 1)"), "elements of z"))
        title, label = "length of z", "N(0, I)"
        lengths = plots.against_law(title, length, r, _chi(r, z.shape[1]), label)
        figures.append(plot(lengths, title))
    if z.shape[1] == 2:
        labels = None if part.y is None else part.y[run.pick(part, MAP_DATA)]
        drawn = plots.scatter(z, labels, run.schema.classes, ("z₁", "z₂"))
        figures.append(plot(drawn, "codes", "each mark is a datum"))
    return caption, row(figures)


def latent_map(run: Run, subject: Subject, other: bool) -> tuple[str, str]:
    """Where data lie in the latent space; `other` says that it is of another model than the report's."""
    data, name, _ = subject.found
    if not run.capabilities.encode:
        raise CapabilityError(f"{run.spec['model']} has nothing that represents a datum")
    return _map(maps.latent_map(run, data, name, MAP_DATA), run, other)


def _map(found: maps.LatentMap, run: Run, other: bool) -> tuple[str, str]:
    classes = run.schema.classes if found.labels is not None else None
    figures = [
        plot(
            plots.scatter(found.points, found.labels, classes, found.axes),
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
        figures.append(figure(inline(image, "decoded pictures over the map"), f"pictures decoded {where}"))
        caption += "; beside it, what the model decodes at places of the same plane"
    return caption + ".", row(figures, "wide")


def _seen(run: Run) -> str:
    knows = "y" in run.model.context or "y" in run.model.p
    return ", marked by its label" + ("" if knows else ", which the model never saw")


def diagnosis(run: Run, subject: Subject) -> tuple[str, str]:
    """Findings, with their evidence."""
    _ = subject.found
    found = diagnose(run, subject.given, limit=DIAGNOSE_DATA)
    items = []
    for f in found.findings:
        mark, word = ("✓", "fine") if f.ok else ("!", "look")
        advice = f"<p class='try'>Try {escaped(f.try_)}.</p>" if f.try_ and not f.ok else ""
        items.append(
            f'<li class="{word}"><span class="mark" aria-label="{word}">{mark}</span>'
            f"<div><b>{escaped(f.name)}</b><p>{escaped(f.sentence)}.</p>{advice}</div></li>"
        )
    body = f'<ul class="findings">{"".join(items)}</ul>'
    evidence = {f.name: f.evidence for f in found.findings}
    kl = evidence.get("posterior collapse", {}).get("kl_per_dimension", [])
    if len(kl) > 1:
        shown = sorted(kl, reverse=True)[:100]
        body += plot(
            plots.bars(shown, "latent dimensions, busiest first", "KL (nats)"),
            "KL of each latent dimension",
            "how much each latent dimension says about a datum; one near 0 is not used",
        )
    worst = evidence.get("holes", {}).get("worst", [])
    if worst and run.schema.is_image and len(run.model.inferred) == 1 and not run.model.conditions:
        (name,) = run.model.inferred
        z = torch.tensor(worst, dtype=next(run.model.parameters()).dtype, device=run.device)
        with torch.no_grad():
            z = z.reshape(-1, *run.model.p[name].module().event_shape)
            x = decode(run.model, {name: z}, mean=True, given={}).cpu().numpy()
        image = pictures.grid(x, len(worst), run.schema.levels or 256)
        found_holes = evidence["holes"]["accuracy"] > hole_health.ACCURACY
        body += figure(
            inline(image, "pictures from where no datum has its code"),
            "what the model decodes at the draws of the prior that are told most surely from codes of data"
            + (": its holes" if found_holes else "; they are few, and no hole was found"),
        )
    layers = [x for x in evidence.get("stretching", {}).get("layers", []) if x["learned"]]
    if len(layers) > 1:
        number, to_base, to_data = ([x[key] for x in layers] for key in ("number", "to_base", "to_data"))
        body += plot(
            plots.gains(number, to_base, to_data, GAIN),
            "stretching by layer",
            "how much each layer stretches distances at most, over data; where it is large, digits are lost",
        )
    return (
        f"Known faults of such models, looked for on {found.n:,} data ({escaped(found.split)} part); each with what "
        "was found.",
        body,
    )


# Help


def _chi(r: np.ndarray, dims: int) -> np.ndarray:
    """Density of the length of a draw of N(0, I) in so many dimensions."""
    return np.exp((dims - 1) * np.log(r) - r**2 / 2 - (dims / 2 - 1) * math.log(2) - math.lgamma(dims / 2))


def _around(lengths: np.ndarray, dims: int) -> np.ndarray:
    """Points that hold nearly all lengths, and nearly all of what they should be."""
    low, high = np.quantile(lengths, [0.005, 0.995])
    middle = math.sqrt(dims)
    return np.linspace(max(1e-3, min(low, middle - 2.5)), max(high, middle + 2.5), 201)


def _ordered(run: Run) -> list[int]:
    """Places of the columns whose values have an order; all where none has."""
    fields = run.schema.fields
    return [j for j, field in enumerate(fields) if field.kind != "category"] or list(range(len(fields)))


def _standard(run: Run, x: np.ndarray) -> np.ndarray:
    """Columns in standard deviations from their means, where the schema knows them."""
    if run.schema.measure != "counting":
        return run.schema.prepare(x).double().numpy()
    centers = np.array([field.center for field in run.schema.fields])
    scales = np.array([field.scale for field in run.schema.fields])
    return (x - centers) / scales


def _matrix(run: Run, table: Any) -> np.ndarray:
    """A table in the user's types as float64, (n, D), categories by their places."""
    if run.schema.kind == "mixed":
        return table_columns.encode(table[run.schema.names], run.schema.fields, open_source(table))
    return np.asarray(table.to_numpy() if hasattr(table, "to_numpy") else table).astype(np.float64)


def _filled(x: np.ndarray, n: int) -> np.ndarray:
    """n pictures, the last of them black where there are fewer."""
    return np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])
