"""What a report says of the run itself: its numbers, its training, its settings, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jensen.data.catalogue import lookup
from jensen.data.splits import RULE
from jensen.errors import ConfigError, DataError, IntegrityError
from jensen.jobs import plots
from jensen.jobs.plot_style import CLASSES, DASHES, DATA, MODEL
from jensen.jobs.plots import Curve, Panel
from jensen.jobs.report.page import as_setting, duration, escaped, plot, row, table
from jensen.jobs.run import Run
from jensen.registry import MODEL as MODEL_ROLE
from jensen.registry import configure, find
from jensen.units import bits_per_dim, is_bound, is_of_data

GONE = (ConfigError, DataError, IntegrityError)  # what answers for data that are no longer there
KINDS = {"exact": "exact", "lower_bound": "lower bound", "estimate": "estimate"}
MONITORS = {
    "elbo": "ELBO, a lower bound on log p(x)",
    "iw": "importance-weighted bound on log p(x)",
    "log_likelihood": "log p(x), exact",
    "reconstruction": "log p(x | z) at the code; no bound on log p(x)",
    "log_prior": "log p(z) of codes, to which the prior is fitted; no bound on log p(x)",
    "matched": "log p(x | z) at the code, less what its distance from the prior costs; no bound on log p(x)",
}


def numbers(run: Run) -> tuple[str, str]:
    """Scores, and how large the model is."""
    monitor, line = run.monitor, run.log[-1] if run.log else None
    rows, continuous = [], run.measure != "counting"
    by_dim = not continuous and not run.schema.is_text
    scores = _latest(run.folder.scores() if run.folder else [])
    for s in scores:
        how = "" if s["particles"] == 1 else f", {s['particles']:,} particles"
        how += f", each token given {s['context']:,} before it" if s.get("context") else ""
        what = f"{s['data']}, {s['split']} part, {s['n']:,} data"
        what += ", most of them learned from" if _learned_from(run, s) else ""
        rows.append(
            [
                _with_error(s["nats"], s["stderr"]),
                "–" if s["bits_per_dim"] is None else f"{s['bits_per_dim']:.4f}",
                KINDS[s["kind"]],
                f"{s['estimator']}{how}{', in float64' if s.get('precision') == 'float64' else ''}",
                what + (f" ({s['subset']})" if s["subset"] else ""),
            ]
        )
    if line is not None:
        best = _best(run)
        nats = best["valid"][monitor] + run.schema.log_jacobian * is_of_data(monitor)
        bounded = run.capabilities.likelihood is not None and is_bound(monitor)
        rows.append(
            [
                f"{nats:.2f}",
                f"{bits_per_dim(nats, run.schema.dims):.4f}" if bounded and by_dim else "–",
                _kind_of(run, monitor) if bounded else "no likelihood",
                monitor,
                f"validation, at the weights kept (step {best['step']:,})",
            ]
        )
    body = _facts(run)
    if rows:
        body += table(["nats per datum", "bits/dim", "kind", "estimator", "of"], rows, numeric=2) + _of_text(scores)
    caption = (
        f"How probable the model finds data: mean {run.density} per datum in nats "
        "(natural logarithms), ± one standard error over the data; higher is better. A lower bound says that "
        "the true value is at least that, in expectation. "
    )
    if continuous:
        caption += "These are densities in the units of the data, so bits/dim has no meaning here."
    elif run.schema.is_text:
        caption += "Below it the same number by character, token and word: bits, and perplexities, 2 to their power."
    else:
        caption += f"Bits/dim is the same in bits for each of the {run.schema.dims:,} dimensions; lower is better."
    if run.capabilities.likelihood is None:
        caption = f"This model has no likelihood: {escaped(run.capabilities.no_likelihood)}. "
        caption += "What training maximised is listed; it compares with nothing but itself."
    if run.unfinished:
        caption += f" <strong>Training has not finished: it stands {run.unfinished}.</strong>"
    if run.capabilities.likelihood is not None and not scores:
        place = shlex.quote(str(run.folder.path)) if run.folder else "RUN"
        caption += f" Not scored yet: <code>jensen score {escaped(place)}</code> adds the test data."
    return caption, body


def _learned_from(run: Run, score: Mapping[str, Any]) -> bool:
    """Whether a score is of the rows that the run was trained on, or of all of their file."""
    own = score["data"] in (run.spec["data"]["name"], run.spec["data"]["ref"])
    return own and score["split"] in ("train", "all") and "train" in run.spec["data"]["splits"]


def _of_text(scores: list[dict[str, Any]]) -> str:
    """Scores in the units of the literature, a row each."""
    rows = []
    for s in scores:
        found = s.get("text")
        if found:
            names = ("bits_per_character", "bits_per_token", "perplexity_per_token", "perplexity_per_word")
            rows.append(
                [*(f"{found[n]:,.4g}" if n in found else "–" for n in names), f"{s['data']}, {s['split']} part"]
            )
    if not rows:
        return ""
    return table(["bits/character", "bits/token", "perplexity of a token", "of a word", "of"], rows, numeric=4)


def _with_error(nats: float | None, stderr: float | None) -> str:
    """A score with its standard error, None where a number is not finite: data that a model takes for impossible."""
    if nats is None:
        return "not finite"
    return f"{nats:.2f}" if stderr is None else f"{nats:.2f} ± {stderr:.2f}"


def _facts(run: Run) -> str:
    facts = [(f"{sum(p.numel() for p in run.model.parameters()):,}", "parameters")]
    latents, hidden = run.spec["settings"].get("latents"), [f for f in run.model.q if not f.deterministic]
    if latents and len([latents] if isinstance(latents, int) else latents) == len(hidden):  # else channels of pictures
        dims = [latents] if isinstance(latents, int) else latents
        facts.append((" + ".join(f"{n:,}" for n in dims), "latent dimensions"))
    rows = _train_rows(run)
    if rows:
        facts.append((f"{rows:,}", "training data"))
    if run.log:
        facts.append((f"{run.log[-1]['step']:,}", "training steps"))
        facts.append((duration(run.log[-1]["seconds"]), "of training"))
    cells = "".join(f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span></div>" for value, name in facts)
    return f'<div class="facts">{cells}</div>'


def training(run: Run) -> tuple[str, str]:
    """Curves over the steps of training."""
    monitor = run.monitor
    if len(run.log) < 2:
        how = run.model.objective.description if run.model.objective else "training"
        return f"No curves: one pass through the data did it ({escaped(how)}).", ""
    steps = [line["step"] for line in run.log]
    shift, best = run.schema.log_jacobian, _best(run)
    panels = []

    def curve(label: str, part: str, key: str, colour: str, faint: bool = False) -> list[Curve]:
        known = [(line["step"], line[part][key]) for line in run.log if key in line[part]]
        moved = shift if is_of_data(key) else 0.0
        return [Curve(label, *_apart(known, moved), colour=colour, faint=faint)] if len(known) > 1 else []

    both = curve("training", "train", monitor, DATA, True) + curve("validation", "valid", monitor, MODEL)
    values = [y for c in both for y in c.y]
    late = [y for c in both for x, y in zip(c.x, c.y, strict=True) if x >= 0.08 * steps[-1]]
    floor = min(late) - 0.05 * (max(late) - min(late)) if late and min(values) < min(late) else None
    mark = (best["step"], best["valid"][monitor] + (shift if is_of_data(monitor) else 0.0), "weights kept")
    panels.append(Panel(f"{_title(monitor)} (nats per datum)", both, mark, floor))
    logged = run.log[-1]["valid"]
    if monitor != "reconstruction" and "reconstruction" in logged:
        found = curve("validation", "valid", "reconstruction", MODEL)
        late = [y for c in found for x, y in zip(c.x, c.y, strict=True) if x >= 0.08 * steps[-1]]
        panels.append(Panel("log p(x | z) (nats per datum)", found, floor=min(late) if late else None))
    divergences = [key for key in logged if key.startswith("kl_")]
    if divergences:
        colours = [CLASSES[i % len(CLASSES)] for i in range(len(divergences))]
        dashes = [DASHES[i // len(CLASSES) % len(DASHES)] for i in range(len(divergences))]
        found = [
            replace(c, dash=dash)
            for k, colour, dash in zip(divergences, colours, dashes, strict=True)
            for c in curve(f"KL of {k[3:]}", "valid", k, colour)
        ]
        panels.append(Panel("KL(q ‖ p) (nats per datum)", found, log=_far_apart(found)))
    what = MONITORS.get(monitor, monitor)
    if monitor == "log_likelihood" and _kind_of(run, monitor) == KINDS["estimate"]:
        what = "log p(x), an estimate"
    what = what.replace("log p(x)", run.density)
    caption = (
        f"How training went, over its steps: {escaped(what)}, on the training and "
        f"on the validation data; {duration(run.log[-1]['seconds'])} in all. "
    )
    if run.spec["training"].get("average"):
        caption += "Validation uses a moving average of the weights. "
    if divergences:
        caption += (
            "The bound is the reconstruction term, log p(x | z), less the KL term: what is paid for telling "
            "what is hidden. "
        )
    if floor is not None:
        caption += "The first values lie below the frame."
    return caption, row(plot(plots.curves(panel, "steps"), panel.title) for panel in panels)


def _far_apart(found: Sequence[Curve]) -> bool:
    """Whether some curves would lie flat at the bottom of others, and all are above zero."""
    ends = [c.y[-1] for c in found]
    return min((min(c.y) for c in found), default=0.0) > 0 and max(ends) > 50 * min(ends)


def settings(run: Run) -> tuple[str, str]:
    """All settings, defaults included."""
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
        + table(["setting", "value"], [[k, as_setting(v)] for k, v in group.items()])
        + "</details>"
        for title, group in groups.items()
    )
    return "Everything that was set, defaults included; open a group to see it.", body


def reproduce(run: Run) -> tuple[str, str]:
    """Commands that make the run again."""
    ref = run.spec["data"]["ref"]
    given, options, rule = overrides(run), run.spec["data"]["options"], run.spec["data"].get("rule", 1)
    if rule != RULE and ref is not None and lookup(ref) is None:
        options = {"rule": rule, **options}
    training = _changed(find("training", "gradient"), run.spec["training"])
    if "prior_of" in run.spec:
        return _reproduce_prior(run, training)
    blocks = []
    if ref is not None and not options.keys() & {"seed", "fractions", "kinds", "rule"}:  # which only Python takes
        flags = {
            k: training.pop(k) for k in ("epochs", "minutes", "batch_size", "lr", "seed", "precision") if k in training
        }
        words = ["jensen", "train", run.spec["model"], ref, "--out", "again"]
        for key, value in {**options, **flags}.items():
            for one in value if isinstance(value, list) and key == "drop" else [value]:
                text = ",".join(map(str, one)) if isinstance(one, list | tuple) else str(one)
                words += [f"--{key.replace('_', '-')}", text]
        words += [f"{k}={as_setting(v)}" for k, v in given.items()]
        words += [f"train.{k}={as_setting(v)}" for k, v in training.items()]
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
    return caption, "".join(f"<pre><code>{escaped(block)}</code></pre>" for block in blocks)


def _reproduce_prior(run: Run, training: Mapping[str, Any]) -> tuple[str, str]:
    """Commands that fit the prior of another run again."""
    base, name = run.spec["prior_of"], run.spec["settings"]["prior"]["name"]
    given = {"prior": name, **{k: v for k, v in overrides(run).items() if k.startswith("prior.")}}
    given |= {f"train.{k}": v for k, v in training.items()}
    words = ["jensen", "train", "prior", base, *(f"{k}={as_setting(v)}" for k, v in given.items()), "--out", "again"]
    python = f'import jensen\n\nrun = jensen.train_prior({base!r}, settings={given!r}, out="again")'
    caption = (
        "The same prior again, fitted to the codes of the same run; the report of that run says how it came about."
    )
    return caption, "".join(f"<pre><code>{escaped(block)}</code></pre>" for block in (shlex.join(words), python))


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


def _best(run: Run) -> dict[str, Any]:
    """The line of the log whose weights were kept."""
    if run.spec["training"].get("keep", "best") == "best" and "average" in run.spec["training"] and run.best:
        return run.best
    known = [line for line in run.log if run.monitor in line["valid"]] or run.log
    return known[-1]


def _title(monitor: str) -> str:
    return {"elbo": "ELBO", "iw": "IW bound"}.get(monitor, monitor.replace("_", " "))


def _kind_of(run: Run, monitor: str) -> str:
    kind = run.capabilities.likelihood or ""
    if run.model.objective is not None and run.model.objective.validation_estimates:
        return KINDS["estimate"]
    return "exact" if monitor == "log_likelihood" and kind != "estimate" else KINDS.get(kind, "lower bound")


def _latest(scores: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last score of each kind, tightest first."""
    last = {(s["data"], s["split"], s["estimator"], s["particles"], s["subset"], s.get("context")): s for s in scores}
    order = {"exact": 0, "iw": 1, "ais": 2, "prior": 3, "elbo": 4}
    return sorted(last.values(), key=lambda s: (order.get(s["estimator"], 9), -s["particles"]))


def _train_rows(run: Run) -> int | None:
    try:
        return len(run.data().split("train"))
    except GONE:
        return None


def _apart(points: Sequence[tuple[float, float]], shift: float) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y + shift for _, y in points]
