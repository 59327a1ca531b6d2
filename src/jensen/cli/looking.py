"""Commands that look: at models, settings and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import column_names, read_kinds, sound_options, text_options
from jensen.cli.inputs import STDIN, read_stdin
from jensen.cli.options import (
    Binarize,
    Drop,
    Given,
    GivenView,
    Group,
    Json,
    Kinds,
    Label,
    Missing,
    Sound,
    Text,
    Time,
    Weight,
)
from jensen.cli.printing import note, print_json, print_table

if TYPE_CHECKING:
    from jensen.data import Dataset

# What `jensen models` prints: key of a row and heading.
COLUMNS = {
    "model": "model",
    "training": "training",
    "likelihood": "likelihood",
    "sampling": "sampling",
    "encoding": "encoding",
    "lossy compression": "lossy",
    "lossless compression": "lossless",
}

MOST_COLUMNS = 60  # of a table that are described one by one

EXAMPLES = {"picture": "mnist-5k", "table": "breast-cancer", "table with gaps": "adult", "whole numbers": "nltcs"}
"""A data set of each kind on which a model's capabilities are computed; "whole numbers" of few columns and values."""


def models(as_json: Json = False) -> None:
    """What every model offers, computed from the code."""
    from jensen.jobs.models import table

    rows = table()
    if as_json:
        print_json({"models": rows})
        return
    print_table(list(COLUMNS.values()), [[row.get(key) for key in COLUMNS] for row in rows])
    typer.echo(
        "\nlossy, lossless: compression that the model allows; what takes bits-back, and a lossy one of codes that are "
        "real\nnumbers, jensen compress does not do yet. Settings of one: jensen show MODEL"
    )


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, or a component, as mlp.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Settings of a model: type, default, bounds, meaning; and of what can fill its slots."""
    from jensen import registry
    from jensen.errors import ConfigError

    try:
        found = registry.find(registry.MODEL, model)
    except ConfigError:
        parts = [c for c in _components() if c.name == model]
        if not parts:
            raise
        _show_components(parts, as_json)
        return
    if as_json:
        print_json(_model_dict(found))
    else:
        _show_model(found)


def data(
    ref: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|PATH]", help="A data set, a path or - for stdin; none lists them."),
    ] = None,
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    given: Given = None,
    given_view: GivenView = None,
    binarize: Binarize = None,
    group: Group = None,
    time: Time = None,
    weight: Weight = None,
    sound: Sound = None,
    text: Text = None,
    write_columns: Annotated[
        bool,
        typer.Option("--write-columns", help="Write the kinds of columns to FILE.columns.yaml, to be corrected there."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the data sets, or describe one: kind, sizes, ranges, gaps, labels, digests."""
    from jensen.data import catalogue, describe, load_data
    from jensen.errors import ConfigError

    options = {
        "label": label,
        "drop": drop or (),
        "kinds": read_kinds(kinds),
        "missing": missing or (),
        "given": column_names(given) or (),
        "given_view": given_view,
        "binarize": binarize,
        "group": group,
        "time": time,
        "weight": weight,
        **sound_options(sound),
        "text": text_options(text),
    }
    if ref is None:
        if any(options.values()):
            raise ConfigError("expected the name or path of a data set with these options")
        rows = catalogue()
        if as_json:
            print_json({"data": rows})
            return
        print_table(["name", "holds", "where"], [[r["name"], r["description"], r["origin"]] for r in rows])
        typer.echo("\nDescribe one: jensen data NAME. Your own: .csv, .parquet, .npz, .npy, .txt, .wav, a folder.")
        return
    by_stdin = ref == STDIN
    loaded = read_stdin(lambda p: load_data(p, **options), bool(text)) if by_stdin else load_data(ref, **options)
    report = describe(loaded)
    if write_columns:
        _write_columns(ref, loaded)
    if as_json:
        print_json(report)
    else:
        _print_data(report)
    for warning in loaded.warnings:
        note(f"warning: {warning}")


def _write_columns(ref: str, loaded: Dataset) -> None:
    """Kinds of columns beside the file that they are of."""
    from jensen.data.told import SIDECAR, described
    from jensen.errors import ConfigError

    path = Path(f"{ref}{SIDECAR}")
    if not Path(ref).is_file() or loaded.schema.is_array:
        raise ConfigError("--write-columns: expected the path of a file that holds a table")
    if path.exists():
        raise ConfigError(f"--write-columns: {path} is there already")
    path.write_text(described(loaded.schema.fields), encoding="utf-8")
    note(f"wrote {path}")


def _print_data(report: Mapping[str, Any]) -> None:
    typer.echo(f"{report['name']}: {report['description']}" if report["description"] else report["name"])
    shape = " x ".join(map(str, report["shape"]))
    is_image = "values" in report
    what = f"pictures {shape} ({report['dims']} pixels)" if is_image else f"a table of {report['dims']} columns"
    if "text" in report:
        rows = "lines, each a datum, of at most" if report["text"]["lines"] else "windows of"
        what = f"{rows} {report['dims']:,} {report['text']['words']}"
    if "sound" in report:
        seconds, rate = report["sound"]["seconds"], report["sound"]["rate"]
        what = f"clips of {report['dims']:,} samples, {seconds:.3g} s at {rate} Hz"
    kind = {"levels": f"grey levels or colours, 0..{(report['levels'] or 1) - 1}", "real": "real numbers"}
    kind["mixed"] = "each of a kind of its own"
    kind["symbol"] = f"{report['levels'] or 0:,} kinds, the end included"
    if "sound" in report:
        kind["levels"] = f"{report['levels']} levels, {report['sound']['encoding']}"
    typer.echo(f"holds   {what}, {kind.get(report['kind'], report['kind'])}")
    if report["binarization"] != "none":
        typer.echo(f"binary  {report['binarization']}")
    typer.echo(f"from    {report['origin']}\n")
    if "text" in report:
        _print_text(report)
        return
    rows = [[name, f"{s['rows']:,}", s["sha256"][:16]] for name, s in report["splits"].items()]
    print_table(["split", "rows", "sha256"], rows, numbers=["rows"])
    if report["classes"]:
        _print_labels(report["splits"])
    if is_image:
        v = report["values"]
        typer.echo(f"\nvalues  {v['min']} to {v['max']}, mean {v['mean']:.4g}")
        _print_given(report.get("given", []))
        return
    if "sound" in report:
        v = report["sound"]
        typer.echo(f"\nloud    peak {v['peak']:.3g} of 1, root mean square {v['rms']:.3g}")
        typer.echo(
            f"lost    by quantising: signal to noise {v['snr_db']:.1f} dB, largest error {v['largest_error']:.2g} "
            f"(at most {v['error_bound']:.2g})"
        )
        return
    typer.echo("")
    headers = ["column", "kind", "dtype", "gaps", "values"]
    columns = report["columns"]
    rows = [
        [c["name"], _kind(c), c["dtype"], f"{c['gaps']:,}" if c["gaps"] else "", _range(c)]
        for c in columns[:MOST_COLUMNS]
    ]
    print_table(headers, rows, numbers=["gaps"])
    if len(columns) > MOST_COLUMNS:
        kinds = Counter(c["kind"] for c in columns[MOST_COLUMNS:])
        told = ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common())
        typer.echo(f"and {len(columns) - MOST_COLUMNS:,} columns more ({told}); --json tells of all")
    if report["gaps"]:
        cells = len(columns) * next(iter(report["splits"].values()))["rows"]
        typer.echo(f"\n{report['gaps']:,} of {cells:,} cells are empty")
    if report["empty_rows"]:
        count, first = len(report["empty_rows"]), report["empty_rows"][0]
        typer.echo(f"{count:,} row{'s' if count > 1 else ''} without a cell, the first of them row {first}")
    if report["constant"]:
        names = report["constant"]
        more = f" and {len(names) - MOST_COLUMNS:,} more" if len(names) > MOST_COLUMNS else ""
        typer.echo(f"\nconstant: {', '.join(names[:MOST_COLUMNS])}{more}")
    _print_given(report["given"])


def _print_given(given: Sequence[Mapping[str, Any]]) -> None:
    """Columns that are given, or pictures."""
    if not given:
        return
    typer.echo("")
    if "shape" in given[0]:
        shape, view = " x ".join(map(str, given[0]["shape"])), given[0]["view"] or {}
        settings = ", ".join(f"{key} {value}" for key, value in view.items() if key != "name")
        words = f", a view of the data: {view['name']} {settings}".rstrip() if view else ""
        typer.echo(f"given   pictures {shape}, 0..{given[0]['levels'] - 1}{words}; {_range(given[0])}")
        return
    print_table(["given", "kind", "dtype", "values"], [[c["name"], c["kind"], c["dtype"], _range(c)] for c in given])


def _print_text(report: Mapping[str, Any]) -> None:
    found, splits = report["text"], report["splits"]
    headers = ["split", "rows", "tokens", "words", "characters", "bytes", "sha256"]
    rows = [
        [name, f"{s['rows']:,}", *(f"{found['amounts'][name][h]:,}" for h in headers[2:-1]), s["sha256"][:16]]
        for name, s in splits.items()
    ]
    print_table(headers, rows, numbers=headers[1:-1])
    _print_labels(splits)
    typer.echo(f"\nbegins  {found['begins']!r}")


def _kind(column: Mapping[str, Any]) -> str:
    """The kind of a column, with its bounds where it has some."""
    return f"bounded {column['low']:g} to {column['high']:g}" if column["kind"] == "bounded" else column["kind"]


def _range(column: Mapping[str, Any], most: int = 6) -> str:
    """What a condition can be, in words."""
    if "categories" not in column:
        if column["min"] is None:
            return "none"
        if isinstance(column["min"], str):
            return f"{column['min']} to {column['max']}"
        return f"{column['min']:g} to {column['max']:g}, mean {column['mean']:.4g}"
    names = column["categories"]
    names = [f"{name} {n:,}" for name, n in names.items()] if isinstance(names, Mapping) else names
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _print_labels(splits: Mapping[str, Any]) -> None:
    named = {name: s for name, s in splits.items() if "labels" in s}
    if not named:
        return
    labels = list(next(iter(named.values()))["labels"])
    most = 20
    rows = [[label, *(f"{s['labels'][label]:,}" for s in named.values())] for label in labels[:most]]
    unlabelled = [f"{s['unlabelled']:,}" for s in named.values()]
    if any(s["unlabelled"] for s in named.values()):
        rows.append(["(none)", *unlabelled])
    typer.echo("")
    print_table(["label", *named], rows, numbers=list(named))
    if len(labels) > most:
        typer.echo(f"and {len(labels) - most} labels more")


# Settings


def _components() -> list[Any]:
    from jensen import registry

    return [registry.find(role, name) for role in _roles() for name in registry.names(role)]


def _roles() -> list[str]:
    """Roles that a slot of some model asks for."""
    from jensen import registry

    found = [registry.find(registry.MODEL, name) for name in registry.names(registry.MODEL)]
    return list(dict.fromkeys(s.role for model in found for s in model.settings.values() if s.role))


def _settings_rows(component: Any, prefix: str = "") -> list[dict[str, Any]]:
    from jensen import registry

    meaning = component.meanings
    return [
        {
            "setting": prefix + setting.name,
            "type": setting.type_name(),
            "default": setting.default,
            "meaning": meaning.get(setting.name, ""),
            **({"choices": registry.names(setting.role)} if setting.role else {}),
        }
        for setting in component.settings.values()
    ]


def _component_dict(component: Any) -> dict[str, Any]:
    return {
        "name": component.name,
        "role": component.role,
        "about": component.summary,
        "paper": component.paper,
        "settings": _settings_rows(component),
    }


def _model_dict(model: Any) -> dict[str, Any]:
    from jensen import registry
    from jensen.jobs.models import toy
    from jensen.training.settings import ignored

    roles = dict.fromkeys(s.role for s in model.settings.values() if s.role)
    _, example = toy(model.name)
    without = ignored(example)
    ways = dict.fromkeys(str(f.module.sampling) for f in example.p if hasattr(f.module, "sampling"))
    return {
        **_component_dict(model),
        "components": {
            role: [_component_dict(registry.find(role, name)) for name in registry.names(role)] for role in roles
        },
        "training": [
            row
            for row in _settings_rows(registry.find("training", "gradient"), "train.")
            if row["setting"][6:] not in without
        ],
        "ignored": {f"train.{name}": why for name, why in without.items()},
        "sampling": [row for way in ways for row in _settings_rows(registry.find("sampling", way), "")],
        "presets": _presets(model.name),
    }


def _presets(model: str) -> list[dict[str, Any]]:
    from jensen.jobs.train import load_preset, presets

    shipped = [(name, load_preset(name)) for name in presets()]
    return [
        {"preset": n, "data": p.get("data"), "about": p.get("about", "")} for n, p in shipped if p["model"] == model
    ]


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={_default(v)}" for k, v in value.items() if k != "name")
        return f"{value.get('name', '')} ({inner})" if inner else str(value.get("name", ""))
    return str(value).replace("'", "") if isinstance(value, list) else str(value)


def _print_settings(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        kind = " | ".join(row["choices"]) if "choices" in row else row["type"]
        cells.append([row["setting"], kind, _default(row["default"]), row["meaning"]])
    print_table(["setting", "type", "default", "meaning"], cells)


def _heading(text: str) -> None:
    typer.echo("")
    typer.secho(text, bold=True)


def _title(found: Mapping[str, Any]) -> None:
    typer.echo(f"{found['name']}: {found['about']}")
    if found["paper"]:
        typer.echo(f"paper: {found['paper']}")


def _show_model(model: Any) -> None:
    found = _model_dict(model)
    _title(found)
    _heading("Settings, given as key=value")
    _print_settings(found["settings"])
    slots = {s["setting"]: s for s in found["settings"] if "choices" in s}
    for role, components in found["components"].items():
        names = [name for name, s in slots.items() if s["type"] == role]
        _heading(f"{role.capitalize()}: choices for {' and '.join(names)}")
        for component in components:
            paper = f" ({component['paper']})" if component["paper"] else ""
            typer.echo(f"{component['name']}: {component['about']}{paper}")
            rows = [{**s, "setting": f"  {names[0]}.{s['setting']}"} for s in component["settings"]]
            if rows:
                _print_plain(rows)
    _heading("Training")
    _print_settings(found["training"])
    for why in dict.fromkeys(found["ignored"].values()):
        names = [name for name, reason in found["ignored"].items() if reason == why]
        typer.echo(f"Without effect under the defaults, as {why}: {', '.join(names)}")
    if found["sampling"]:
        _heading("Sampling, given as key=value to jensen sample")
        _print_settings(found["sampling"])
    if found["presets"]:
        _heading("Presets, given as --preset NAME")
        print_table(["preset", "data", "about"], [list(p.values()) for p in found["presets"]])
    whole = (s for s in found["settings"] if s["type"].startswith("int") and s["default"] is not None)
    example = next((f" {s['setting']}={s['default']}" for s in whole), "")
    data = EXAMPLES[model.toy]
    typer.echo(f"\nTrain it: jensen train {found['name']} {data} --out runs/a{example}")


def _print_plain(rows: list[dict[str, Any]]) -> None:
    """Settings of one component, without headings."""
    lines = [[r["setting"], r["type"], _default(r["default"]), r["meaning"]] for r in rows]
    print_table([], lines)


def _show_components(parts: list[Any], as_json: bool) -> None:
    found = [_component_dict(part) for part in parts]
    if as_json:
        print_json({"components": found})
        return
    for component in found:
        typer.echo(f"{component['role']} {component['name']}: {component['about']}")
        if component["paper"]:
            typer.echo(f"paper: {component['paper']}")
        if component["settings"]:
            typer.echo("")
            _print_settings(component["settings"])
