"""Settings chosen by cells that are hidden."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas
import pytest

import jensen
from jensen.data import Split, load_data
from jensen.errors import ConfigError, IntegrityError
from jensen.jobs import trials
from jensen.jobs.candidates import CANDIDATES, Candidate
from jensen.jobs.choose import choose
from jensen.jobs.trials import CHOICES, Length, relative_error, stable_shares
from jensen.training.folder import locked

RNG = np.random.default_rng(0)


def table(n: int = 400) -> pandas.DataFrame:
    cause = RNG.normal(size=n)
    frame = pandas.DataFrame({f"x{j}": cause + 0.1 * RNG.normal(size=n) for j in range(4)})
    frame["side"] = np.where(cause > 0, "up", "down")
    return frame.mask(RNG.random(frame.shape) < 0.2)


BLIND = Candidate("vae", {"latents": 1, "objective.beta": 100.0, "encoder.hidden": [4], "decoder.hidden": [4]})
GOOD = Candidate("nade", {"network": "mlp", "network.hidden": [16], "lr": 1e-2})


def test_what_fills_in_better_is_chosen_and_trained_on_all(tmp_path):
    lines: list[str] = []
    run = choose(
        table(), candidates={"blind": BLIND, "good": GOOD}, steps=300, out=tmp_path / "r", listener=lines.append
    )
    errors = run.spec["chosen"]["errors"]
    assert run.spec["chosen"]["best"] == "good"
    assert errors["good"] < 0.5 < 0.9 < errors["blind"]
    assert [line.split(":")[0] for line in lines] == ["blind", "good", *["trained good on all cells"] * 2]
    assert lines[-1].endswith(": 2 of 2 models")
    again = jensen.open(tmp_path / "r")
    assert again.spec["chosen"] == run.spec["chosen"]
    assert again.spec["model"] == "nade"
    assert again.spec["settings"]["network"]["hidden"] == [16]
    assert not again.impute(table(), particles=20).completed().isna().any().any()


def test_errors_are_relative_to_the_mean_and_to_the_usual_name():
    data = load_data(table().fillna({"side": "up"}), fractions=(1.0, 0.0, 0.0))
    x = data.split("train").x
    hidden = (RNG.random(x.shape) < 0.3) & ~np.isnan(x)
    truth = Split(x)
    assert relative_error(data.schema, x, truth, hidden) == 0
    seen = np.where(hidden, np.nan, x)
    usual = np.nanmean(seen, axis=0)
    usual[4] = np.bincount(seen[:, 4][~np.isnan(seen[:, 4])].astype(int)).argmax()
    assert relative_error(data.schema, np.broadcast_to(usual, x.shape), truth, hidden) == pytest.approx(1)


def test_a_row_of_weight_three_counts_as_three_rows_and_one_of_none_as_none():
    data = load_data(table(), fractions=(1.0, 0.0, 0.0))
    x = data.split("train").x
    hidden = (RNG.random(x.shape) < 0.3) & ~np.isnan(x)
    filled = np.where(np.isnan(x), 0, x) + RNG.integers(0, 2, x.shape)
    times = RNG.integers(0, 4, len(x))
    each = [np.repeat(rows, times, 0) for rows in (filled, x, hidden)]
    apart = relative_error(data.schema, each[0], Split(each[1]), each[2])
    assert apart != pytest.approx(relative_error(data.schema, filled, Split(x), hidden))
    weighed = relative_error(data.schema, filled, Split(x, weight=times.astype(float)), hidden)
    assert weighed == pytest.approx(apart, rel=1e-12)


GROUPS_OF_TWO = [("a",), ("b",), ("a", "b")]


def together(*each: np.ndarray) -> list[np.ndarray]:
    """Losses of two candidates and of their mean, by their errors."""
    return [np.square(error) for error in (*each, sum(each) / len(each))]


@pytest.mark.parametrize("weight", [None, np.arange(40) % 3 * 1.5])
def test_shares_are_those_of_choices_by_weighed_rows(weight):
    """As counted one by one; a column that was never hidden does not count."""
    hidden = (RNG.random((40, 3)) < 0.4) & (np.arange(3) != 1)
    each = [np.where(hidden, loss, np.nan) for loss in together(*RNG.normal(size=(2, 40, 3)))]
    counts = dict.fromkeys("ab", 0.0)
    for weights in np.random.default_rng([5, 13]).exponential(size=(CHOICES, 40)):
        errors, weights = [], weights * (1 if weight is None else weight)
        for loss in each:
            columns = [(loss[hidden[:, d], d], weights[hidden[:, d]]) for d in (0, 2)]
            errors.append(np.mean([np.average(own, weights=w) for own, w in columns]))
        for name in (chosen := GROUPS_OF_TWO[int(np.argmin(errors))]):
            counts[name] += 1 / len(chosen) / CHOICES
    found = stable_shares(GROUPS_OF_TWO, each, 5, weight)
    assert list(found) == sorted(counts, key=lambda name: -counts[name])
    assert found == pytest.approx(counts) and sum(found.values()) == pytest.approx(1)


def test_what_is_surely_better_has_all_and_what_is_as_good_has_half():
    good, as_good, bad = RNG.normal(size=(3, 500, 2)) * np.array([1.0, 1.0, 9.0])[:, None, None]
    assert stable_shares(GROUPS_OF_TWO, together(good, bad), 0) == {"a": 1.0}
    halves = stable_shares(GROUPS_OF_TWO, together(good, as_good), 0)  # their mean has half the error
    assert halves == pytest.approx({"a": 0.5, "b": 0.5})
    unsure = stable_shares(GROUPS_OF_TWO[:2], [np.square(good), np.square(good[::-1])], 0)  # of the same error
    assert 0.4 < unsure["a"] < 0.6
    many = [np.repeat(loss, 20, 0) for loss in together(good, as_good)]  # more rows than are weighed one by one
    assert stable_shares(GROUPS_OF_TWO, many, 0) == pytest.approx(halves)


def test_candidates_that_lack_a_setting_are_left_out():
    both = {"without": Candidate("nade", {}), "with": Candidate("vae", {"encoder.hidden": [4]})}
    run = choose(table(), candidates=both, settings={"latents": 3}, epochs=1)
    assert run.spec["chosen"] == {"best": "with", "errors": {}, "taken": ["with"], "shares": {"with": 1.0}, "seeds": 2}
    assert (run.spec["model"], run.spec["settings"]["latents"]) == ("vae", 3)
    with pytest.raises(ConfigError, match="latent"):
        choose(table(), candidates=both, settings={"latentz": 3}, epochs=1)


def test_settings_of_training_count_for_those_that_heed_them():
    """EM takes no step along a gradient."""
    frame = table().drop(columns="side").dropna()
    both = {"normals": Candidate("mixture", {"components": 2}), "vae": BLIND}
    told = {"lr": 0.01, "train.clip": 5.0, "train": {"optimizer": "sgd", "seed": 3}, "train.compile": False}
    run = choose(frame, candidates=both, settings=told, epochs=2, seeds=1)
    assert set(run.spec["chosen"]["errors"]) >= {"normals", "vae"}
    run = choose(frame, candidates={"vae": BLIND}, settings=told, epochs=2, seeds=1)
    assert (run.spec["training"]["lr"], run.spec["training"]["optimizer"]) == (0.01, "sgd")


def test_a_folder_that_exists_is_refused_before_anything_is_tried(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    lines: list[str] = []
    with pytest.raises(ConfigError, match="r exists; use --overwrite to replace it"):
        choose(table(), candidates={"blind": BLIND, "good": GOOD}, out=tmp_path / "r", listener=lines.append)
    with pytest.raises(ConfigError, match="is not a run folder"):
        choose(table(), candidates={"good": GOOD}, out=tmp_path / "r", overwrite=True)
    assert not lines and (tmp_path / "r" / "notes.txt").read_text() == "mine"


def test_without_candidates_nothing_is_chosen():
    with pytest.raises(ConfigError, match="candidates: expected one or more"):
        choose(table(), candidates={})


@pytest.mark.parametrize("kinds", [{"binary"}, {"category"}, {"binary", "category"}])
def test_of_columns_that_are_not_real_no_candidate_is_tried_twice(kinds):
    """Those that differ by the density of real columns alone are one."""
    frame = pandas.DataFrame({f"{kind}{j}": RNG.integers(0, 2, 60) for kind in kinds for j in range(3)})
    named = frame.replace({name: {0: "no", 1: "yes"} for name in frame if "category" in name})
    small = {"encoder.hidden": [4], "decoder.hidden": [4]}
    own = {
        name: replace(CANDIDATES[name], settings={**CANDIDATES[name].settings, **small}) for name in ("deep", "tails")
    }
    run = choose(named, candidates=own, epochs=1, seeds=1)
    assert run.spec["chosen"]["taken"] == ["deep"]


def test_mixtures_of_more_components_than_rows_are_not_tried():
    frame = table(60).drop(columns="side").head(15).fillna(0.0)
    frame = pandas.concat([frame, frame + RNG.normal(size=frame.shape)])  # 30 rows
    wide = pandas.concat([frame, frame.add_suffix("'"), frame.add_suffix("+")], axis=1).reset_index(drop=True)
    many = {"few": Candidate("mixture", {"components": 3}), "many": Candidate("mixture", {"components": 40})}
    run = choose(wide, candidates={**many, "nade": GOOD}, epochs=1, seeds=1, fractions=(1.0, 0.0, 0.0))
    assert {*run.spec["chosen"]["errors"]} >= {"few", "nade"}
    assert "many" not in run.spec["chosen"]["errors"]


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_tables_of_one_whole_kind(kind):
    frame = pandas.DataFrame(RNG.integers(0, 2, (300, 3)).astype(float), columns=[*"abc"])
    run = choose(frame.mask(RNG.random(frame.shape) < 0.2), kinds=dict.fromkeys("abc", kind), steps=10)
    assert not run.impute(frame.head(5), particles=5).completed().isna().any().any()


@pytest.mark.parametrize("kind", ["binary", "real"])
def test_candidates_that_differ_by_how_real_columns_are_spread_are_one_elsewhere(kind):
    frame = pandas.DataFrame(RNG.integers(0, 2, (300, 3)) + (0.0 if kind == "binary" else RNG.random((300, 3))))
    small = {"latents": 1, "encoder.hidden": [4], "decoder.hidden": [4]}
    both = {name: Candidate("vae", {**small, "likelihood": name}) for name in ("gaussian", "student-t")}
    run = choose(frame.rename(columns=str), candidates=both, kinds=dict.fromkeys("012", kind), steps=10, seeds=1)
    tried = {name for name in run.spec["chosen"]["errors"] if " and " not in name}
    assert tried == (set() if kind == "binary" else set(both))  # one alone is not tried, but taken
    assert run.spec["chosen"]["taken"]


@pytest.mark.filterwarnings("ignore:column 'a' holds one value")
def test_where_no_column_varies_the_first_candidate_is_taken(tmp_path):
    frame = pandas.DataFrame({"a": [1.5] * 300, "b": ["yes"] * 300})
    both, lines = {"good": GOOD, "blind": BLIND}, []
    run = choose(frame, candidates=both, epochs=1, seeds=1, out=tmp_path / "r", listener=lines.append)
    assert lines[:2] == ["good: cannot be judged", "blind: cannot be judged"]
    assert run.spec["chosen"] == {"best": "good", "errors": {}, "taken": ["good"], "shares": {"good": 1.0}, "seeds": 1}
    assert (run.impute(frame.head(3).mask([[True, False]] * 3)).completed()["a"] == 1.5).all()


def test_what_is_no_table_is_refused():
    with pytest.raises(ConfigError, match="expected a table, got image"):
        choose("digits")
    with pytest.raises(ConfigError, match="expected 200 cells or more"):
        choose(table(20))


def test_trials_are_shorter_in_large_tables_alone():
    """So that what is chosen in a small one is what is trained."""
    few, many = (Length(rows, steps=600, epochs=None, minutes=None, batch_size=50) for rows in (4999, 5000))
    assert (few.trial, many.trial) == (1.0, 0.4)
    assert (few.of(few.trial, 3.0)["epochs"], many.of(many.trial, 3.0)["epochs"]) == (6, 3)  # 600 of 100, 240 of 100
    minutes = Length(5000, 600, None, 8.0, 50)
    trial, last = (minutes.of(share, 1 + 2.5 * minutes.trial)["minutes"] for share in (minutes.trial, 1.0))
    assert (trial, last) == (pytest.approx(1.6), pytest.approx(4.0))


class Stops:
    """Told of what is done in a choice; interrupts it, as Ctrl-C does, when it was told so often."""

    def __init__(self, at: int):
        self.at, self.told = at, 0

    def __call__(self, *_: object) -> None:
        self.told += 1
        if self.told == self.at:
            raise KeyboardInterrupt


SEVERAL = {"blind": BLIND, "good": GOOD, "normals": Candidate("mixture", {"components": 3}, 0.5, seeds=2)}


def choosing(frame, out, stops=None, candidates=SEVERAL, **more):
    told = {"listener": stops, "progress": stops} if stops else {}
    return choose(frame, candidates=candidates, epochs=2, seeds=1, out=out, **told, **more)


def weights(run) -> list[np.ndarray]:
    return [value.numpy() for one in (run, *run.members) for value in one.model.state_dict().values()]


def test_an_interrupted_choice_goes_on_and_ends_as_the_uninterrupted_one(tmp_path):
    frame = table().drop(columns="side")
    watch = Stops(-1)
    whole = choosing(frame, tmp_path / "whole", watch)
    assert len(whole.members) and watch.told > 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole"]  # and nothing beside it
    for k, at in enumerate(range(1, watch.told + 1, max(1, watch.told // 8))):
        out = tmp_path / str(k)
        with pytest.raises(KeyboardInterrupt):
            choosing(frame, out, Stops(at))
        assert (tmp_path / f"{k}.trials" / "choice.json").exists()
        with pytest.raises(KeyboardInterrupt):
            choosing(frame, out, Stops(4), resume=True)  # and once more
        rest = Stops(-1)
        run = choosing(frame, out, rest, resume=True)
        assert rest.told < watch.told - at / 4  # what was done is not done again, but for what is told of it
        assert run.spec["chosen"] == whole.spec["chosen"]
        assert all((a == b).all() for a, b in zip(weights(run), weights(whole), strict=True))
        assert not (tmp_path / f"{k}.trials").exists()
        assert weights(jensen.open(out))[0].shape == weights(run)[0].shape
    again = choosing(frame, tmp_path / "whole", resume=True)  # which was done
    assert again.spec["chosen"] == whole.spec["chosen"]


@pytest.mark.parametrize("kept", [False, True])
def test_processes_side_by_side_choose_and_learn_the_same(tmp_path, kept):
    frame = table().drop(columns="side")
    alone = choosing(frame, tmp_path / "one" if kept else None)
    lines: list[str] = []
    done: list[tuple[str, object]] = []
    run = choosing(
        frame,
        tmp_path / "two" if kept else None,
        workers=2,
        listener=lines.append,
        progress=lambda title, event: done.append((title, event)),
    )
    assert run.spec["chosen"] == alone.spec["chosen"]
    for a, b in zip(weights(run), weights(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [line.split(":")[0] for line in lines[:3]] == ["blind", "good", "normals"]
    last = len(run.members) + 1
    titles = [title for title, event in done if event is None]
    trials = [title for title in titles if title.endswith("of 4 trials")]
    models = [title for title in titles if title.endswith(f"of {last} models")]
    assert titles == trials + models and trials == sorted(trials)
    assert (trials[0], trials[-1], models[-1]) == ("0 of 4 trials", "4 of 4 trials", f"{last} of {last} models")
    np.testing.assert_allclose(run.impute().mean, alone.impute().mean, rtol=1e-4, atol=1e-4)  # of the data they have
    if kept:
        again = jensen.open(tmp_path / "two")
        assert [member.name for member in again.members] == run.spec["members"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_a_choice_by_several_processes_goes_on_by_one(tmp_path):
    frame, out = table().drop(columns="side"), tmp_path / "r"
    whole = choosing(frame, None)
    for at in (2, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            choosing(frame, out, Stops(at), workers=2)
        assert (tmp_path / "r.trials" / "choice.json").exists()
        run = choosing(frame, out, resume=True)
        for a, b in zip(weights(run), weights(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert [p.name for p in tmp_path.iterdir()] == ["r"]
        (out / "spec.yaml").unlink()
        shutil.rmtree(out)


def test_what_goes_wrong_in_another_process_is_told_as_ever(tmp_path):
    frame = table().drop(columns="side")
    with pytest.raises(ConfigError, match=r"^workers: expected >= 1, got 0$"):
        choosing(frame, None, workers=0)
    said = []
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="cuda") as told:
            choosing(frame, tmp_path / "r", settings={"device": "cuda"}, workers=workers)
        said.append(str(told.value))
        assert not list(tmp_path.iterdir())
    assert said[0] == said[1]


def test_what_goes_on_must_be_the_same_choice(tmp_path):
    frame = table().drop(columns="side")
    out = tmp_path / "r"
    with pytest.raises(ConfigError, match=r"no choice is under way at .*r: there is no .*r\.trials"):
        choosing(frame, out, resume=True)
    with pytest.raises(ConfigError, match="expected that, and no --overwrite"):
        choosing(frame, out, resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="expected that"):
        choosing(frame, None, resume=True)
    with pytest.raises(KeyboardInterrupt):
        choosing(frame, out, Stops(3))
    with pytest.raises(ConfigError, match=r"a choice is under way.*use --resume to go on or --overwrite to begin anew"):
        choosing(frame, out)
    with pytest.raises(ConfigError, match="--resume: seed was 0, got 1 when this choice began"):
        choosing(frame, out, resume=True, seed=1)
    with pytest.raises(ConfigError, match="--resume: data was another when"):
        choosing(frame.iloc[::-1], out, resume=True)
    with pytest.raises(ConfigError, match="--resume: candidates was another when"):
        choosing(frame, out, resume=True, candidates={"good": GOOD, "blind": BLIND})
    with locked(tmp_path / "r.trials"), pytest.raises(ConfigError, match="another process is choosing for"):
        choosing(frame, out, resume=True)
    (tmp_path / "r.trials" / "choice.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"choice\.json is corrupt; --overwrite begins anew"):
        choosing(frame, out, resume=True)
    choosing(frame, out, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    for other in ({"seed": 1}, {"candidates": {"good": GOOD, "normals": SEVERAL["normals"]}}):
        with pytest.raises(ConfigError, match="r is done; it was of other data, or by other arguments"):
            choosing(frame, out, resume=True, **other)
    with pytest.raises(ConfigError, match="r is done; it was of other data"):
        choosing(frame.iloc[::-1], out, resume=True)
    (tmp_path / "r.trials").mkdir()
    (tmp_path / "r.trials" / "notes.txt").write_text("mine")
    assert choosing(frame, out, resume=True).spec["choice"]


def test_runs_of_others_beside_or_in_the_folder_stay(tmp_path):
    frame = table().drop(columns="side")
    jensen.train("ppca", frame.dropna(), latents=1, out=tmp_path / "a.trials" / "1")
    with pytest.raises(ConfigError, match=r"trials for .*a stand in .*a\.trials, and something else is there"):
        choosing(frame, tmp_path / "a")
    assert jensen.open(tmp_path / "a.trials" / "1").spec["model"] == "ppca"

    def meanwhile(line: str) -> None:
        if not (tmp_path / "b").exists():
            jensen.train("ppca", frame.dropna(), latents=1, out=tmp_path / "b")

    with pytest.raises(ConfigError, match="b exists; use --overwrite"):
        choose(frame, candidates=SEVERAL, epochs=2, seeds=1, out=tmp_path / "b", listener=meanwhile)
    assert jensen.open(tmp_path / "b").spec["model"] == "ppca"


def test_a_choice_goes_on_after_a_kill_between_two_files(tmp_path):
    frame, out = table().drop(columns="side"), tmp_path / "r"
    first = choosing(frame, out)
    with pytest.raises(KeyboardInterrupt):
        choosing(frame, out, Stops(3), overwrite=True, seed=5)
    (tmp_path / "r.trials" / "2").mkdir()
    (tmp_path / "r.trials" / "2" / ".spec.yaml.1x2y").write_text("model: va")  # of the next trial
    (tmp_path / "r.trials" / ".choice.json.1x2y").write_text("{")
    (tmp_path / "r.trials" / "3" / "state").mkdir(parents=True)
    for name in ("metrics.jsonl", "model.safetensors", "schema.json"):  # some of what clearing removes
        (out / name).unlink()
    run = choosing(frame, out, resume=True, seed=5)
    assert (run.spec["training"]["seed"], first.spec["training"]["seed"]) == (5, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_a_run_is_replaced_once_trials_are_over(tmp_path):
    frame, out = table().drop(columns="side"), tmp_path / "r"
    first = choosing(frame, out)
    with pytest.raises(KeyboardInterrupt):
        choosing(frame, out, Stops(3), overwrite=True, seed=5)
    assert jensen.open(out).spec == first.spec
    run = choosing(frame, out, resume=True, seed=5)
    assert run.spec["training"]["seed"] == 5
    assert jensen.open(out).spec["training"]["seed"] == 5


def test_what_else_lies_in_the_folder_stays_when_a_run_is_replaced(tmp_path):
    frame, out = table().drop(columns="side"), tmp_path / "r"
    choosing(frame, out)
    mine = [out / "filled.csv", out / "members" / "1" / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    run = choosing(frame, out, overwrite=True, seed=5)
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    again = jensen.open(out)
    assert again.spec == run.spec and len(again.members) == len(run.members) > 0
    assert all((a == b).all() for a, b in zip(weights(run), weights(again), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_rows_are_weighed_in_the_choice(monkeypatch):
    seen = []
    monkeypatch.setattr(trials, "stable_shares", lambda *given: seen.append(given[3]) or {"good": 1.0})
    frame = table().drop(columns="side").assign(w=np.arange(400) % 3)
    choosing(frame, None, weight="w", fractions=(1.0, 0.0, 0.0))
    assert sorted(seen[0]) == sorted(frame["w"])


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="expected 200 cells or more"):
        choosing(table(20).drop(columns="side"), tmp_path / "r")
    with pytest.raises(ConfigError, match="latent"):
        choosing(table(), tmp_path / "r", settings={"latentz": 3})
    assert not list(tmp_path.iterdir())
