"""Sphinx configuration. On each build the pages under models/ are written from the registry."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import yaml

import jensen
from jensen import registry
from jensen.jobs.train import load_preset, presets
from jensen.registry import Component

project = "jensen"
author = "the jensen authors"
release = jensen.__version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jensen"
html_static_path = ["_static"]
exclude_patterns = ["_build", "models_prose"]

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"


def prose(docstring: str) -> str:
    """A docstring without its settings and examples, as Markdown."""
    text = docstring.split("Settings:\n")[0].split(">>> ")[0]
    return text.rstrip() + "\n"


def settings_table(component: Component, components_page: str) -> str:
    """The settings of a model or component: name, type, default, meaning."""
    if not component.settings:
        return "No settings.\n"
    meaning = component.meanings
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in component.settings.values():
        if setting.role:
            kind = f"[{setting.role}]({components_page}#{setting.role})"
        else:
            kind = "`" + setting.type_name().replace("|", "\\|") + "`"
        about = meaning.get(setting.name, "").replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {kind} | `{setting.default}` | {about} |")
    return "\n".join(lines) + "\n"


def model_page(model: Component) -> str:
    """A model's page: its equations, its settings, and what was written about it by hand."""
    module = inspect.getdoc(inspect.getmodule(model.function)) or ""
    _, _, equations = module.partition("\n\n")
    by_hand = HERE / "models_prose" / f"{model.name}.md"
    parts = [
        f"# {model.name}\n\n{prose(inspect.getdoc(model.function) or '')}",
        prose(equations) if equations else "",
        f"Source: {model.paper}.\n" if model.paper else "",
        by_hand.read_text() if by_hand.exists() else "",
        *(kept_table(path) for path in sorted(RESULTS.glob(f"{model.name}*.json")) if of_model(path, model.name)),
        "## Settings\n",
        settings_table(model, "components.md"),
        f"`jensen show {model.name}` prints the same table.\n",
    ]
    return "\n".join(part for part in parts if part)


def components_page() -> str:
    """All components that can fill a slot, by role."""
    parts = [
        "# Components\n",
        "A setting whose type is a role is a slot: `decoder=conv` fills it, and",
        "`decoder.channels=[16,32]` sets up what fills it.\n",
    ]
    for role in registry.SLOTS:
        parts.append(f"## {role}\n")
        for name in registry.names(role):
            component = registry.find(role, name)
            parts += [f"### {name}\n", prose(inspect.getdoc(component.function) or "")]
            parts += [f"Source: {component.paper}.\n"] if component.paper else []
            parts.append(settings_table(component, "components.md"))
    return "\n".join(parts)


def presets_page() -> str:
    """Shipped settings, each with what it was measured to reach, read from benchmarks/results."""
    parts = [
        "# Presets\n",
        "Settings that are shipped, each for one model on one data set: `jensen train MODEL DATA --preset NAME`.",
        "Settings given besides override them, slot by slot.\n",
        likelihoods_table("binarized-mnist"),
    ]
    for name in presets():
        preset = load_preset(name)
        command = f"jensen train {preset['model']} {preset['data']} --preset {name} --out runs/{name}"
        settings = yaml.safe_dump(preset["settings"], sort_keys=False)
        parts += [f"## {name}\n", preset["about"] + "\n", f"    {command}\n", f"```yaml\n{settings}```\n"]
        kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
        parts += [preset_result(result) for result in kept if result.get("preset") == name]
    return "\n".join(parts)


def likelihoods_table(data: str) -> str:
    """The best kept score of each preset on some data, the likeliest first."""
    rows = []
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        if "preset" not in result or not all(score["data"] == data for score in result["scores"]):
            continue
        best, training = max(result["scores"], key=lambda score: score["nats"]), result["training"]
        estimator = "exact" if best["kind"] == "exact" else f"{best['estimator']}, {best['particles']:,} particles"
        spent = training.get("processor_minutes")
        rows.append(
            (
                best,
                f"`{path.stem}`",
                estimator,
                f"{spent or training['minutes']:.0f}" + ("" if spent else " by the clock"),
            )
        )
    lines = [
        f"Test log-likelihoods on {data}, measured as below, each from its preset or near it:\n",
        "| kept result | nats | estimator | minutes of one processor |",
        "|---|---|---|---|",
    ]
    for best, name, estimator, minutes in sorted(rows, key=lambda row: -row[0]["nats"]):
        estimator += f", {best['subset']}" if best["subset"] else ""
        lines.append(f"| {name} | {best['nats']:.2f} ± {best['stderr']:.2f} | {estimator} | {minutes} |")
    return "\n".join(lines) + "\n"


def preset_result(result: dict[str, Any]) -> str:
    """The curve and the scores of a preset's kept run."""
    training, machine = result["training"], result["machine"]
    name = next(key for key in training if key.startswith("best_valid_")).removeprefix("best_")
    said = {"valid_elbo": "ELBO", "valid_log_likelihood": "log p(x)"}[name]
    where = f"{machine['threads']} threads of {machine['processor']}"
    lines = [
        f"**{training['minutes']:.0f} minutes.** Measured on {result['date']}, seed {result['seed']}, {where}: "
        f"{training['epochs']} epochs in {training['minutes']:.1f} minutes, with `{result['command']}`. "
        f"{result['note']}\n",
        f"| after | best validation {said}, nats |",
        "|---|---|",
    ]
    lines += [
        f"| {m} minutes ({at['epoch']} epochs) | {at[name]:.2f} |" for m, at in training["at_minutes"].items() if at
    ]
    lines.append(f"| the end ({training['minutes']:.1f} minutes) | {training[f'best_{name}']:.2f} |")
    subset = result["scores"][0]["subset"]
    lines += ["", f"| test score, {subset or 'all data'} | nats | bits/dim, or of text | kind |", "|---|---|---|---|"]
    for score in result["scores"]:
        how = (
            score["estimator"] if score["particles"] == 1 else f"{score['estimator']}, {score['particles']:,} particles"
        )
        how += f", each token given {score['context']} before it" if score.get("context") else ""
        nats = f"{score['nats']:.2f} ± {score['stderr']:.2f}"
        bits, text = score["bits_per_dim"], score.get("text", {})
        if "bits_per_character" in text:
            bits = f"{text['bits_per_character']:.3f} a character"
        elif text:
            bits = f"perplexity {text['perplexity_per_token']:.1f} of a token"
        else:
            bits = "" if bits is None else f"{bits:.4f}"
        lines.append(f"| {how} | {nats} | {bits} | {score['kind'].replace('_', ' ')} |")
    return "\n".join(lines) + "\n"


def measured_page() -> str:
    """Tables that were kept, as they stand in benchmarks/results."""
    parts = ["# Measured side by side\n", "Qualities and memory, with another library beside ours in one run.\n"]
    for path in sorted(RESULTS.glob("*.json")):
        if kept_table(path):
            parts += [f"## {path.stem}\n", kept_table(path)]
    return "\n".join(parts)


def kept_table(path: Path) -> str:
    """A kept table with how it came about; empty where a result has none."""
    result = json.loads(path.read_text())
    if "table" not in result:
        return ""
    machine, table = result["machine"], result["table"]
    versions = "".join(f", {name} {version}" for name, version in result.get("versions", {}).items())
    lines = [
        table["about"] + "\n",
        "| " + " | ".join(table["columns"]) + " |",
        "|---" * len(table["columns"]) + "|",
        *("| " + " | ".join(row) + " |" for row in table["rows"]),
        "",
        f"`{result['command']}`, {result['date']}, {machine['threads']} threads of {machine['processor']}, "
        f"torch {machine['torch']}{versions}.\n",
    ]
    return "\n".join(lines)


def of_model(path: Path, name: str) -> bool:
    """Whether a result is kept under a model's name, as `helmholtz` or `helmholtz_bars`."""
    return path.stem == name or path.stem.startswith(f"{name}_")


def results_page() -> str:
    """Speeds that were kept: medians, and ratios of interleaved pairs."""
    parts = ["# Measured speeds\n", "Medians over interleaved rounds; a ratio is the median of the rounds' ratios.\n"]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if "medians" not in result:
            continue
        machine, ours = result["machine"], list(result["ratios"])
        parts += [
            f"## {path.stem}\n",
            f"`{result['command']}`, {result['date']}, {result['rounds']} rounds, {machine['threads']} threads of "
            f"{machine['processor']} ({', '.join(machine['features'])}), torch {machine['torch']}.\n",
            "| | " + " | ".join([result["unit"], *(f"{name} is faster by" for name in ours)]) + " |",
            "|---" * (2 + len(ours)) + "|",
        ]
        for name, median in result["medians"].items():
            cells = [f"{result['ratios'][o][name]:.2f} ×" for o in ours]
            parts.append("| " + " | ".join([name, f"{median:,.0f}", *cells]) + " |")
        parts.append("")
    return "\n".join(parts)


def index_page(models: list[Component]) -> str:
    """The list of models, and the table of contents of the folder."""
    parts = ["# Models\n", "`jensen models` prints what each of them offers, computed from the code.\n"]
    if models:
        parts += ["| model | what it is | source |", "|---|---|---|"]
        parts += [f"| [{m.name}]({m.name}.md) | {m.summary} | {m.paper} |" for m in models]
    toctree = [
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *(m.name for m in models),
        "components",
        "presets",
        "speeds",
        "measured",
        "```",
        "",
    ]
    return "\n".join([*parts, *toctree])


def write_model_pages(app: Any = None) -> None:
    """Write docs/models: an index, a page per model, and the components. Unchanged pages are kept."""
    models = [registry.find(registry.MODEL, name) for name in registry.names(registry.MODEL)]
    pages = {f"{model.name}.md": model_page(model) for model in models}
    pages |= {"index.md": index_page(models), "components.md": components_page()}
    pages |= {"presets.md": presets_page(), "speeds.md": results_page()}
    pages |= {"measured.md": measured_page()}
    folder = HERE / "models"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, page in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != page:
            path.write_text(page)


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", write_model_pages)
