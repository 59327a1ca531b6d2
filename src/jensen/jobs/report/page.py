"""The page: HTML in one file, with no script and nothing outside it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.jobs import pictures, plot_style
from jensen.jobs.run import Run
from jensen.registry import MODEL, find


@dataclass(frozen=True)
class Section:
    """One part of a report: what is to be seen, and a sentence that says what that is. Both are HTML."""

    id: str
    title: str
    caption: str
    body: str


def page(run: Run, parts: Sequence[Section], title: str | None = None) -> str:
    """The whole HTML file."""
    title = title or run.name
    links = "".join(f'<a href="#{s.id}">{escaped(s.title)}</a>' for s in parts if s.body)
    body = "".join(
        f'<section id="{s.id}"><h2>{escaped(s.title)}</h2>'
        f'<p class="caption">{unbroken(s.caption)}</p>{s.body}</section>'
        for s in parts
    )
    versions = ", ".join(f"{k} {v}" for k, v in run.spec["versions"].items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)} – jensen report</title>
<style>{_css()}</style>
</head>
<body>
<header><h1>{escaped(title)}</h1><p class="lead">{_sentence(run)}</p>{_factors(run)}<nav>{links}</nav></header>
<main>{body}</main>
<footer>Made by {escaped(versions)}. All of this page is in this one file.</footer>
</body>
</html>
"""


def _sentence(run: Run) -> str:
    """What the model is, with its factors."""
    c, found = run.capabilities, find(MODEL, run.spec["model"])
    what = found.summary.split(":")[0].split(",")[0].rstrip(".")
    shape = "×".join(map(str, run.schema.event_shape))
    kind = {"binary": "binary", "levels": "grey", "count": "count", "real": "real", "mixed": "mixed", "symbol": ""}[
        run.schema.kind
    ]
    if run.schema.is_image:
        kind = "colour" if run.schema.event_shape[0] == 3 and kind == "grey" else kind
        things = f"{kind} pictures of {shape}"
    elif run.schema.is_text:
        what_rows = "lines" if run.schema.tokens.lines else "windows"
        things = f"{what_rows} of text of {run.schema.dims:,} {run.schema.tokens.words}"
    elif run.schema.is_sound:
        things = f"clips of {run.schema.dims:,} samples at {run.schema.fields[0].rate} Hz"
    else:
        things = f"tables of {run.schema.dims} {kind} columns"
    offers = {
        "exact": "It gives the exact probability of a datum",
        "lower_bound": "It bounds the probability of a datum from below",
        "estimate": "It estimates the probability of a datum",
    }.get(c.likelihood or "", "It gives no probability of a datum")
    offers += ", and makes new data" if c.sample and c.likelihood else ""
    offers = offers.replace("of a datum", f"of a datum given {run.given}") if run.given else offers
    return (
        f"{escaped(what)} (<code>{escaped(run.spec['model'])}</code>) of {escaped(things)}, trained on "
        f"{escaped(run.spec['data']['name'])}. {offers}."
    )


def _factors(run: Run) -> str:
    """p and q as products of their factors."""

    def product(letter: str, joint: Any) -> str:
        names = ", ".join(joint.names)
        given = f" | {', '.join(joint.context)}" if joint.context else ""
        right = " ".join(f"{letter}({factor})" for factor in joint)
        left = f"{letter}({names}{given})"
        return left if left == right else f"{left} = {right}"

    lines = [f"<div>{escaped(product('p', run.model.p))}<span>how data come about</span></div>"]
    if len(run.model.q):
        lines.append(f"<div>{escaped(product('q', run.model.q))}<span>how what is hidden is inferred</span></div>")
    return f'<div class="factors">{"".join(lines)}</div>'


# Its elements


def escaped(value: object) -> str:
    """Text for HTML, without a full stop at its end."""
    return html.escape(str(value).rstrip("."))


def unbroken(caption: str) -> str:
    """Formulas kept on one line."""
    return caption.replace(" | ", "\u00a0|\u00a0").replace(" ± ", " ±\u00a0")


def as_setting(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":")) if value is not None else "null"


def of_all(shown: int, all_: int, what: str) -> str:
    """A remark where only some are shown."""
    return "" if shown == all_ else f" (the first {shown} of {all_} {what})"


def duration(seconds: float) -> str:
    """A time in about two digits."""
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 0) -> str:
    """Rows of text under a head; the first `numeric` columns are numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i < numeric else ''}>{html.escape(v)}</{tag}>" for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def figure(inner: str, caption: str = "") -> str:
    """HTML with a caption below it."""
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{inner}{below}</figure>"


def inline(image: Any, alt: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(pictures.png(image)).decode()
    width, height = image.size
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'width="{width}" height="{height}" style="max-width:{max(width, 300)}px">'
    )


def picture(x: np.ndarray, levels: int, caption: str, alt: str, columns: int | None = None) -> str:
    """A grid of pictures (n, C, H, W)."""
    return figure(inline(pictures.grid(x, columns, levels), alt), caption)


def plot(drawing: Any, alt: str, caption: str = "") -> str:
    """A matplotlib figure as SVG."""
    drawn = plot_style.svg(drawing)
    width = round(drawing.get_figwidth() * 96)
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}" style="max-width:{width}px"', 1)
    return figure(drawn, caption)


def row(figures: Iterable[str], kind: str = "") -> str:
    """Figures side by side, as far as the page is wide; `kind` is "", "wide" or "small"."""
    return f'<div class="row {kind}">{"".join(figures)}</div>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Labels, each with the classes of its mark."""
    keys = "".join(f'<span><i class="{kind}"></i>{escaped(label)}</span>' for label, kind in entries)
    return f'<p class="legend">{keys}</p>'


def _css() -> str:
    light = {v: c for c, v in plot_style.VARIABLES.items()}
    dark = {v: plot_style.DARK[c] for c, v in plot_style.VARIABLES.items()}
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
