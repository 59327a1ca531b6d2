"""Demo: train a small model on digits, score it beside gzip and PNG, and write a report about it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jensen.core import Score
from jensen.data import load_data
from jensen.errors import ConfigError
from jensen.hardware import threads
from jensen.jobs import pictures, plots
from jensen.jobs.latent_map import latent_map
from jensen.jobs.report import Section, page, sections
from jensen.jobs.run import Run, open_run
from jensen.jobs.sample import sample
from jensen.jobs.score import score
from jensen.jobs.train import train
from jensen.training.folder import Folder, write_atomically
from jensen.training.trainer import Event
from jensen.units import bits

DATA = "mnist-5k"
SETTINGS: dict[str, Any] = {
    "latents": 32,
    "encoder.hidden": [500],
    "encoder.dropout": 0.1,
    "encoder.input_dropout": 0.2,
    "decoder.hidden": [500],
    "decoder.dropout": 0.1,
    "train.batch_size": 64,
    "train.lr": 3e-3,
    "train.threads": 1,
}
MAP_SETTINGS: dict[str, Any] = {
    "latents": 2,
    "encoder.hidden": [256, 128],
    "decoder.hidden": [128, 256],
    "encoder.input_dropout": 0.1,
    "train.lr": 2e-3,
    "train.threads": 1,
}
MAP_SHARE = 0.2  # of the time for training: a second model, with two latent dimensions, for the map
PARTICLES = 500
SHEET_COLUMNS = 25
RECORD = "demo.json"
WRITTEN = ("vae", "map", "report.html", "picture.png")


def demo(
    out: str | os.PathLike[str] = "jensen-demo",
    *,
    seconds: float = 75.0,
    listener: Callable[[Event], None] | None = None,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Train a VAE on 4,000 of MNIST's digits, bound the probability of 500 others, and write report.html.

    The digits ship in a package; nothing is downloaded. An earlier demo in the same folder is replaced, and
    nothing else in it is touched.

    Args:
        out: the folder. `vae` in it is the run, `map` a second one, for the latent map.
        seconds: for training, of both; scoring and the report take about 20 more.
        listener: told of the progress of training.
        say: told, in lines, what happens and what came out.

    Returns:
        The numbers: `nats`, `stderr`, `bits_per_dim` of the importance-weighted bound, the same of the
        `elbo`, and the bits/dim of the `baselines`.

    Raises:
        ConfigError: the folder holds things of these names that are not an earlier demo's.
    """
    began = time.perf_counter()
    folder = Path(out)
    _make_room(folder)
    data = load_data(DATA, binarize="static")
    say(f"Training a VAE on {len(data.split('train')):,} binarised digits ...")

    def fit(where: Path, settings: Mapping[str, Any], budget: float) -> Run:
        return train(
            "vae", DATA, out=where, overwrite=True, settings=settings, binarize="static",
            minutes=budget / 60, listener=listener,
        )  # fmt: skip

    start = time.perf_counter()
    run = fit(folder / "vae", SETTINGS, (1 - MAP_SHARE) * seconds)
    left = seconds - (time.perf_counter() - start)  # less where the machine became busier
    say("Training a second one, with two latent dimensions, for the map ...")
    map_run = fit(folder / "map", MAP_SETTINGS, min(MAP_SHARE, max(MAP_SHARE / 2, left / seconds)) * seconds)
    trained = time.perf_counter()
    path = folder / "report.html"
    with threads(1):  # two that share busy cores wait for one another, several times longer
        say(f"Scoring {len(data.split('test'))} test digits with {PARTICLES} draws each ...")
        bound, elbo = score(run, particles=PARTICLES), score(run, estimator="elbo")
        others = baselines(data.split("test").x)
        scored = time.perf_counter()
        say("Writing the report ...")
        parts = [_comparison(bound, elbo, others), *sections(run, elsewhere=map_run)]
        write_atomically(path, page(run, parts, "Digits, dreamed up and weighed"))
        write_atomically(folder / "picture.png", pictures.png(picture(run, map_run)))
    ended = time.perf_counter()
    result = {
        "nats": bound.nats,
        "stderr": bound.stderr,
        "bits_per_dim": bound.bits_per_dim,
        "bits_per_dim_stderr": bits(bound.stderr) / bound.dims,
        "kind": bound.kind,
        "estimator": bound.estimator,
        "particles": bound.particles,
        "n": bound.n,
        "elbo": {"nats": elbo.nats, "stderr": elbo.stderr, "bits_per_dim": elbo.bits_per_dim},
        "baselines": {name: other["bits_per_dim"] for name, other in others.items()},
        "report": str(path),
        "seconds": {
            "training": trained - began,
            "scoring": scored - trained,
            "report": ended - scored,
            "all": ended - began,
        },
    }
    write_atomically(folder / RECORD, json.dumps({"data": DATA, "finished": True, **result}, indent=1))
    for line in _summary(folder, path, bound, elbo, others):
        say(line)
    return result


# What the model is measured against


def baselines(x: np.ndarray) -> dict[str, dict[str, Any]]:
    """Bits/dim of general compressors on binary pictures (n, 1, H, W): gzip -9 and PNG with one bit a pixel.

    PNG is tried twice: as one file a picture, headers included, and as one sheet of all pictures.
    """
    n, _, height, width = x.shape
    columns = next(c for c in range(min(SHEET_COLUMNS, n), 0, -1) if n % c == 0)
    sheet = x.reshape(n // columns, columns, height, width).swapaxes(1, 2).reshape(-1, columns * width)
    sizes = {
        "gzip": ("gzip -9 of the packed bits", gzip_size(x)),
        "png_sheet": ("PNG, 1 bit a pixel, all on one sheet", png_size(sheet)),
        "png_files": ("PNG, 1 bit a pixel, a file each", sum(png_size(picture[0]) for picture in x)),
    }
    return {
        key: {"name": name, "bytes": size, "bytes_per_picture": size / n, "bits_per_dim": 8 * size / x.size}
        for key, (name, size) in sizes.items()
    }


def gzip_size(x: np.ndarray) -> int:
    """Bytes of gzip, level 9, on 0/1 values packed eight to a byte."""
    return len(gzip.compress(np.packbits(x.reshape(-1)).tobytes(), 9, mtime=0))


def png_size(x: np.ndarray) -> int:
    """Bytes of a PNG of one bit a pixel, optimised, on 0/1 values (H, W)."""
    out = io.BytesIO()
    Image.fromarray(x.astype(bool)).save(out, format="PNG", optimize=True)
    return len(out.getvalue())


# What is shown


def picture(run: Run, map_run: Run) -> Image.Image:
    """The demo at a glance: digits that the model dreamed up, beside the map of the other's latent space."""
    dreamed = pictures.grid(sample(run, 144, seed=0, mean=True), 16, 2, pad=0, scale=2)
    found = latent_map(map_run, map_run.data(), "test")
    labels = run.schema.classes if found.labels is not None else None
    drawn = plots.scatter(found.points, found.labels, labels, found.axes)
    chart = Image.open(io.BytesIO(pictures.png(drawn))).convert("RGB")
    return pictures.beside([dreamed.convert("RGB"), chart], 504)


def remake_picture(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Draw the picture of a finished demo again, as `docs/_static/demo.png` was drawn."""
    write_atomically(Path(out), pictures.png(picture(open_run(Path(folder) / "vae"), open_run(Path(folder) / "map"))))
    return Path(out)


def _comparison(bound: Score, elbo: Score, others: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [
        (f"this model, IW-{bound.particles} bound", bound, True),
        ("this model, ELBO", elbo, True),
        *((other["name"], other["bits_per_dim"], False) for other in others.values()),
    ]
    most = max(value for _, value, own in rows if not own)
    cells = ""
    for name, value, own in rows:
        per_dim = value.bits_per_dim if own else value
        text = f"{per_dim:.4f}" + (f" ± {bits(value.stderr) / value.dims:.4f}" if own else "")
        nats = f"{value.nats:.2f} ± {value.stderr:.2f}" if own else "–"
        bar = f'<span class="bar{" own" if own else ""}" style="width:{100 * per_dim / most:.1f}%"></span>'
        cells += (
            f"<tr><td>{name}</td><td class=number>{nats}</td><td class=number>{text}</td>"
            f'<td style="width:35%">{bar}</td></tr>'
        )
    body = (
        f'<div class="scroll"><table><thead><tr><th>{bound.n:,} test digits</th>'
        "<th class=number>nats per digit</th><th class=number>bits/dim</th><th></th></tr></thead>"
        f"<tbody>{cells}</tbody></table></div>"
    )
    caption = (
        "A good model of data is a good compressor of them: bits/dim is how many bits each of the "
        f"{bound.dims} pixels costs, lower is better. The model's numbers are bounds, ± one standard error "
        "over the digits. It has learned from other digits, and its own size is not counted; gzip and PNG "
        "know nothing of digits beforehand."
    )
    return Section("comparison", "Beside gzip and PNG", caption, body)


def _summary(
    folder: Path, report: Path, bound: Score, elbo: Score, others: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Lines for the terminal."""
    lines = ["", f"{bound.n} test digits of {bound.dims} pixels{'nats per digit':>26}{'bits/dim':>20}"]
    for name, s in ((f"VAE, IW-{bound.particles} (lower bound)", bound), ("VAE, ELBO (lower bound)", elbo)):
        per_dim = f"{s.bits_per_dim:.4f} ± {bits(s.stderr) / s.dims:.4f}"
        lines.append(f"  {name:<38}{s.nats:>9.2f} ± {s.stderr:.2f}{per_dim:>20}")
    lines += [f"  {other['name']:<38}{'':>16}{other['bits_per_dim']:>11.4f}" for other in others.values()]
    jensen = "jensen" if shutil.which("jensen") else "./run jensen"
    place = shlex.quote(str(folder / "vae"))
    return [
        *lines,
        "",
        f"Look at {report.resolve().as_uri()}",
        "",
        "Try next",
        f"  {jensen} sample {place} -n 64 --out digits.png",
        f"  {jensen} score {place} --particles 5000",
        f"  {jensen} interpolate {place} --out path.png",
        f"  {jensen} train vae {DATA} --binarize static --out runs/mine latents=64 decoder=gated",
        f"  {jensen} show vae",
    ]


def _make_room(folder: Path) -> None:
    """Claim the folder. Raises `ConfigError` where something of ours would replace what no demo wrote."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, expected a folder")
    ours = (folder / RECORD).exists()
    taken = [name for name in WRITTEN if (folder / name).exists()]
    if taken and not ours:
        raise ConfigError(f"--out: {folder / taken[0]} exists and is no earlier demo's; name another folder")
    write_atomically(folder / RECORD, json.dumps({"data": DATA, "finished": False}))
    for run in (Folder(folder / name) for name in ("vae", "map")):
        if not run.spec_path.exists():  # cut short between the first file and the second
            run.clear()
            for place in (run.state_path.parent, run.path):
                with contextlib.suppress(OSError):
                    place.rmdir()
