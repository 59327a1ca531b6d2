"""The report of every kind of model, read as a browser would."""

from __future__ import annotations

import base64
import html
import io
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError, DataError, DataWarning
from jensen.jobs.report import latents, report, views
from jensen.jobs.report.subject import Subject
from jensen.jobs.run import Run, open_run
from jensen.jobs.score import score
from jensen.jobs.train import train

SECTIONS = ["numbers", "training", "samples", "reconstructions", "interpolation", "latent-map", "diagnosis",
            "settings", "reproduce"]  # fmt: skip
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags balanced, links, images, text by section."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.sections: dict[str, str] = {}
        self.images: list[bytes] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag == "section":
            self._section = found["id"] or ""
            self.sections[self._section] = ""
        if tag == "img":
            assert found["alt"]
            head, _, data = (found["src"] or "").partition(",")
            assert head == "data:image/png;base64"
            self.images.append(base64.b64decode(data))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


PICTURE_SECTIONS = [*SECTIONS[:6], "traversals", "neighbours", *SECTIONS[6:]]
FLOW_SECTIONS = ["numbers", "training", "samples", "interpolation", "codes", "diagnosis", "settings", "reproduce"]


def look(path: Path, sections: list[str] = SECTIONS) -> Page:
    """A report, with what every report must be."""
    text = path.read_text()
    page = Page(text)
    assert list(page.sections) == sections
    assert all(link.startswith(("data:", "#")) for link in page.links), page.links
    assert "script" not in page.tags
    assert not re.search(r"url\(\s*['\"]?(?!#)", text), "a resource named in a style"
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().split()
    for data in page.images:
        image = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert image.std() > 1, "an empty picture"
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)) @ rng.normal(size=(4, 4)) + 5
    frame = pd.DataFrame(x, columns=["a<b", "_hidden", "$x$", "height"])
    frame["count"] = rng.integers(0, 4, 120)
    frame["kind"] = np.where(x[:, 0] > 5, "large one", "small one")
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def vae(folder: Path) -> Run:
    sizes = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16]}
    run = train("vae", "digits", out=folder / "vae", settings=sizes, epochs=4)
    score(run, limit=20, particles=10)
    return run


def test_vae_of_pictures(vae: Run):
    page = look(report(vae), PICTURE_SECTIONS)
    # samples, reconstructions, interpolations, manifold, traversals, neighbours, holes
    assert len(page.images) == 3 + 1 + 2 + 1 + 1 + 2 + 1
    assert "lower bound" in page.sections["numbers"]
    assert "iw, 10 particles" in page.sections["numbers"]
    assert "20 of 180 at random" in page.sections["numbers"]
    assert "equal steps of probability of the prior" in page.sections["latent-map"]
    assert "posterior collapse" in page.sections["diagnosis"]


def test_vae_of_pictures_again_gives_the_same_file(vae: Run, tmp_path: Path):
    first, second = report(vae), report(vae, tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    (kept,) = vae.folder.scores()  # pyright: ignore[reportOptionalMemberAccess]
    text = look(first, PICTURE_SECTIONS).sections["numbers"]
    assert f"{kept['nats']:.2f} ± {kept['stderr']:.2f}" in text
    assert f"{kept['bits_per_dim']:.4f}" in text


def test_more_latents_are_flattened(folder: Path):
    sizes = {"latents": 5, "encoder.hidden": [16], "decoder.hidden": [16]}
    page = look(report(train("vae", "digits", out=folder / "five", settings=sizes, epochs=2)), PICTURE_SECTIONS)
    assert "flattened" in page.sections["latent-map"]
    assert "over the range of the data" in page.sections["latent-map"]


def test_vae_of_a_table(folder: Path, table: Path):
    sizes = {"latents": 3, "encoder.hidden": [16], "decoder.hidden": [16]}
    run = train("vae", table, out=folder / "t", label="kind", settings=sizes, epochs=20)
    page = look(report(run))
    assert "a<b" in page.sections["samples"]
    assert "correlation" in page.sections["samples"]
    assert "large one" in page.sections["latent-map"]
    assert "bits/dim has no meaning" in page.sections["numbers"]


def test_ppca_is_exact_and_has_no_curves(folder: Path, table: Path):
    run = train("ppca", table, out=folder / "ppca", label="kind", latents=2)
    found = score(run)
    page = look(report(run))
    assert f"{found.nats:.2f} ± {found.stderr:.2f}" in page.sections["numbers"]
    assert "exact" in page.sections["numbers"]
    assert "No curves" in page.sections["training"]


def test_autoencoder_says_what_it_has_not(folder: Path):
    sizes = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16]}
    page = look(report(train("autoencoder", "digits", out=folder / "ae", settings=sizes, epochs=3)), PICTURE_SECTIONS)
    assert "no likelihood" in page.sections["numbers"]
    assert page.sections["samples"].startswith("SamplesLeft out: autoencoder cannot sample")
    assert len(page.images) == 1 + 2 + 1 + 1 + 2


def test_flow_of_a_table(table: Path, folder: Path):
    settings = {"layers": 2, "hidden": [16]}
    with pytest.warns(DataWarning, match=r"column 'count' \(4 numbers in 96 rows\)"):
        run = train("realnvp", table, out=folder / "flow", label="kind", settings=settings, epochs=3)
    page = look(report(run), FLOW_SECTIONS)
    assert "columns two by two (the first 4 of 5 columns)" in page.sections["samples"]
    assert "T(z) gives each of them back exactly" in page.sections["codes"]
    assert "Rows x = T(z)" in page.sections["interpolation"].replace("\u00a0", " ")
    for finding in ("round trip", "stretching", "digits of the density", "range of samples", "overfitting"):
        assert finding in page.sections["diagnosis"]
    assert "collapse" not in page.sections["diagnosis"]


def test_flow_of_pictures(folder: Path):
    settings = {"scales": 1, "couplings": 1, "channels": 4, "blocks": 0}
    page = look(report(train("realnvp", "digits", out=folder / "flow-p", settings=settings, epochs=1)), FLOW_SECTIONS)
    assert len(page.images) == 3 + 2  # data, samples, cooled; two kinds of paths
    assert "cost of the noise" in page.sections["diagnosis"]


def test_flow_of_two_columns_shows_its_density(folder: Path, tmp_path: Path):
    """And, conditional, one for each label."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(90, 2)), columns=["a", "b"])
    frame["kind"] = np.where(np.arange(90) % 2, "odd", "even")
    frame.to_csv(tmp_path / "two.csv", index=False)
    small = {"layers": 2, "hidden": [8]}
    run = train("realnvp", tmp_path / "two.csv", label="kind", out=folder / "two", settings=small, epochs=2)
    sections = [*FLOW_SECTIONS[:3], "density", *FLOW_SECTIONS[3:]]
    page = look(report(run), sections)
    assert page.sections["density"].startswith("DensityThe density p(x) itself,")
    run = train("realnvp", tmp_path / "two.csv", label="kind", settings={**small, "conditional": True}, epochs=2)
    page = look(report(run, tmp_path / "r.html"), sections)
    assert "given kind even" in page.sections["density"] and "given kind odd" in page.sections["density"]


def test_report_outlives_its_data(folder: Path, tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "x.npy", x)
    train("ppca", tmp_path / "x.npy", out=folder / "gone", latents=1)
    (tmp_path / "x.npy").unlink()
    page = look(report(open_run(folder / "gone")))
    assert "Left out, as it needs data" in page.sections["reconstructions"]
    page = look(report(open_run(folder / "gone"), tmp_path / "r.html", data=x[:20]))
    assert "Left out" not in page.sections["reconstructions"]


def test_data_that_do_not_fit_are_refused(vae: Run, tmp_path: Path):
    with pytest.raises(DataError):
        report(vae, tmp_path / "r.html", data=np.zeros((5, 3)))
    assert list(tmp_path.iterdir()) == []


def test_run_in_memory_needs_a_file_to_write(tmp_path: Path):
    run = train("ppca", np.random.default_rng(0).normal(size=(50, 3)), latents=1)
    with pytest.raises(ConfigError, match="name the file"):
        report(run)
    with pytest.raises(ConfigError, match="expected a file"):
        report(run, tmp_path)
    page = look(report(run, tmp_path / "r.html"))
    assert "data were in memory" in page.sections["reproduce"]


def test_the_command_shown_trains_the_same_model(folder: Path):
    given = {
        "latents": 2,
        "encoder": "gated",
        "encoder.hidden": [8],
        "decoder.hidden": [8],
        "train.clip": 5.0,
    }
    run = train("vae", "digits", out=folder / "again", settings=given, epochs=1, binarize="static", seed=3)
    path = report(run)
    look(path, PICTURE_SECTIONS)
    command = re.search(r"jensen train .*?(?=</code>)", html.unescape(path.read_text()))
    assert command
    words = shlex.split(command.group())
    assert words[:6] == ["jensen", "train", "vae", "digits", "--out", "again"]
    flags = dict(zip(words[6:12:2], words[7:12:2], strict=True))
    assert flags == {"--binarize": "static", "--epochs": "1", "--seed": "3"}
    assert set(words[12:]) == {
        "latents=2", "encoder=gated", "encoder.hidden=[8]", "decoder.hidden=[8]", "train.clip=5.0"
    }  # fmt: skip


def test_the_command_shown_names_all_the_conditions(folder: Path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=list("abcd"))
    frame.to_csv(folder / "t.csv", index=False)
    run = train("vae", str(folder / "t.csv"), out=folder / "given", given=["a", "c"], epochs=1, latents=2)
    command = re.search(r"jensen train .*?(?=</code>)", html.unescape(report(run).read_text()))
    assert command and "--given a,c " in command.group()


def test_neighbours_are_the_nearest_and_traversals_hold_all_else():
    """By the pictures that are drawn, told apart by their grey."""
    x = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8) * 6
    run = train(
        "ppca", Dataset("made", Schema.of_pictures((1, 4, 4)), {"train": Split(x), "test": Split(x)}), latents=2
    )
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "picture", lambda grid, *rest: drawn.append(grid) or "")
        latents.neighbours(run, Subject(run, None))
        latents.traversals(run, Subject(run, None))
    by_codes, by_pixels, traversed = drawn
    for grid in (by_codes, by_pixels):
        greys = grid.reshape(latents.ASKED, latents.NEAREST + 1, -1)[..., 0].astype(int) // 6
        for first, *others in greys.tolist():
            farthest = sorted(abs(g - first) for g in range(40) if g != first)[latents.NEAREST - 1]
            assert first not in others and max(abs(g - first) for g in others) <= farthest
    lines = traversed.reshape(2, latents.STEPS, -1)
    steps = np.diff(lines, axis=1)  # ppca decodes linearly: along a dimension all steps are one
    np.testing.assert_allclose(steps, steps[:, :1].repeat(latents.STEPS - 1, 1), atol=1e-3)


def test_traversals_hold_conditions(folder: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = {"latents": 3, "encoder.hidden": [16], "decoder.hidden": [16], "conditional": True}
    run = train("vae", "digits", out=folder / "cvae", settings=sizes, epochs=2)
    page = look(report(run), PICTURE_SECTIONS)
    assert "and the conditions, stay those of a typical datum" in page.sections["traversals"]
    seen = {}

    def decode(model, codes, mean, given):
        seen.update(codes=codes["z"], y=given["y"])
        return model.sample(len(codes["z"]), given)["x"]

    monkeypatch.setattr(latents, "decode", decode)
    latents.traversals(run, Subject(run, None))
    part = run.data().split("test")
    (label,) = seen["y"].unique().tolist()
    codes = run.encode(split="test")
    typical = np.linalg.norm((codes - codes.mean(0)) / codes.std(0), axis=1).argmin()
    assert label == part.y[typical] and len(seen["y"]) == 3 * latents.STEPS
    middle = np.delete(seen["codes"].reshape(3, latents.STEPS, 3).numpy(), 0, 0)  # others than the one that changes
    held = [np.ptp(line, axis=0) < 1e-6 for line in middle]
    assert all(h.sum() == 2 for h in held)


@pytest.mark.parametrize("settings", [{}, {"orderings": 3}])
def test_pixels_that_surprise(settings: dict, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """What is drawn is −log₂ p: its sum over a picture is that of the score, its brightest pixel the caption's."""
    small = {"hidden": [16], **settings}
    run = train("made", "digits", out=folder / f"made{len(settings)}", settings=small, epochs=1, binarize="static")
    page = look(report(run), ["numbers", "training", "samples", "surprise", *SECTIONS[3:]])
    assert "pixel by pixel" in page.sections["samples"] and "prior" not in page.sections["samples"]
    assert ("in one of its 3 orders" in page.sections["surprise"]) == bool(settings)
    drawn = []
    monkeypatch.setattr(views, "picture", lambda grid, *rest: drawn.append(grid) or "")
    caption, _ = views.surprise(run, Subject(run, None))
    shown, heat = drawn
    dist = run.model.p["x"].module()
    dist.of.network.use(0)
    with torch.no_grad():
        bits = -dist.terms(torch.as_tensor(shown).float()).double().numpy() / np.log(2)
    top, mean = re.search(r"brightest ([\d.]+) bits. They take ([\d.]+) bits", caption).groups()  # pyright: ignore
    assert float(top) == pytest.approx(bits.max(), abs=0.051)
    assert float(mean) == pytest.approx(bits.sum((1, 2, 3)).mean(), abs=0.051)
    assert heat.shape == (len(shown), 3, 8, 8)
    light = heat.astype(float).sum(1)  # of this scale it rises with the number
    order = bits.sum(1).ravel().argsort()
    assert (np.diff(light.ravel()[order]) >= -20).all() and light.max() > 690 > 50 > light.min()
