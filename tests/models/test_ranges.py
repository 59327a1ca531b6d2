"""Flows on positive, bounded and circular columns: densities end where the columns do, in the units of the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import jensen
from jensen.cli.arguments import read_tokens
from jensen.conditionals.ranges import Ranges
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError, DataError, DataWarning
from jensen.jobs.report.record import numbers
from jensen.registry import build, find, names

RANGES = {"positive": ["income"], "bounded": ["share:0:1"], "circular": ["angle:0:360"]}
COLUMNS = ["income", "share", "angle", "free"]
SMALL = {"hidden": [8, 8], "layers": 2}


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Columns of each kind, the last one about the cosine of the angle; most angles lie about the seam."""
    rng = np.random.default_rng(seed)
    turn = rng.vonmises(0.3, 2.0, n)
    degrees = np.degrees(turn) % 360
    free = np.cos(turn) + 0.3 * rng.normal(size=n)
    return np.stack([rng.lognormal(1, 0.8, n), rng.beta(2, 0.7, n), degrees, free], 1)


def log_truth(x: np.ndarray) -> np.ndarray:
    turn = np.radians(x[:, 2])
    return (
        stats.lognorm(0.8, scale=math.e).logpdf(x[:, 0])
        + stats.beta(2, 0.7).logpdf(x[:, 1])
        + stats.vonmises(2.0, loc=0.3).logpdf(turn)
        + math.log(math.radians(1))
        + stats.norm(np.cos(turn), 0.3).logpdf(x[:, 3])
    )


def moved(model: str, schema: Schema, by: float = 0.5, **settings: Any) -> Model:
    """In float64, weights away from where they start."""
    with seeded(0):
        built = build(model, schema, settings).double().eval()
        with torch.no_grad():
            for p in built.parameters():
                p.add_(by * torch.randn_like(p))
    return built


def log_p(model: Model, schema: Schema, x: np.ndarray) -> Tensor:
    """In the units of the data; x is not rounded on its way."""
    centers, scales = (torch.tensor([getattr(f, a) for f in schema.fields]) for a in ("center", "scale"))
    prepared = (torch.tensor(x, dtype=torch.float64) - centers) / scales
    with torch.no_grad():
        return model.evidence({"x": prepared}).log_w[0] + schema.log_jacobian


def dataset(n: int = 300) -> Dataset:
    x = rows(2 * n)
    parts = {"train": Split(x[:n]), "valid": Split(x[n : n + n // 2]), "test": Split(x[n + n // 2 :])}
    return Dataset("toy", Schema.of_table(x[:n], COLUMNS), parts)


# Densities over the range


def total(model: Model, schema: Schema, of: list[Any], n: int) -> float:
    """∫ p over the range, by midpoints of the unit cube, which quantiles of known densities carry there."""
    axis = (np.arange(n) + 0.5) / n
    u = np.stack(np.meshgrid(*[axis] * len(of), indexing="ij"), -1).reshape(-1, len(of))
    x = np.stack([known.ppf(u[:, j]) for j, known in enumerate(of)], 1)
    slope = sum(known.logpdf(x[:, j]) for j, known in enumerate(of))
    ratio = np.concatenate([log_p(model, schema, part) for part in np.array_split(x, 1 + len(x) // 20_000)]) - slope
    return float(np.exp(ratio).mean())


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"positive": ["a"]}, stats.lognorm(3, scale=5)),
        ({"bounded": ["a:0:20"]}, stats.beta(0.3, 0.3, 0, 20)),
        ({"bounded": ["a:-3:inf"]}, stats.lognorm(3, -3, 5)),
        ({"circular": ["a:-10:26"]}, stats.uniform(-10, 36)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_density_of_one_column_integrates_to_one_over_its_range(settings, known):
    schema = Schema.of_table(np.array([[2.0], [6.0], [9.0]]), ["a"])
    model = moved("maf", schema, map="spline", **SMALL, **settings)
    assert total(model, schema, [known], 40_000) == pytest.approx(1, abs=1e-3)


def test_a_density_below_a_bound_mirrors_one_above_it():
    """p(x) with x < 4 is that of −x > −4: the integral too."""
    x = np.array([[-2.0], [1.0], [3.5]])
    one, other = Schema.of_table(x, ["a"]), Schema.of_table(-x, ["a"])
    a = build("maf", one, {"bounded": ["a:-inf:4"]}).double()
    b = build("maf", other, {"bounded": ["a:-4:inf"]}).double()  # both start as the identity, of a symmetric base
    v = np.linspace(-30, 3.99, 50)[:, None]
    torch.testing.assert_close(log_p(a, one, v), log_p(b, other, -v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["maf", "flow-mixture"])
@pytest.mark.parametrize("pair", [("income", "angle"), ("share", "angle")], ids="-".join)
def test_a_density_of_two_columns_integrates_to_one(model, pair):
    columns = [COLUMNS.index(name) for name in pair]
    schema = Schema.of_table(rows(50)[:, columns], pair)
    own = (
        {"components": 2, "flow": "maf", "flow.layers": 2, "flow.hidden": [8, 8]} if model == "flow-mixture" else SMALL
    )
    ranges = {k: [word for word in v if word.partition(":")[0] in pair] for k, v in RANGES.items()}
    built = moved(model, schema, 0.15, **own, **ranges)
    known = {"income": stats.lognorm(1.5, scale=5), "share": stats.beta(0.5, 0.5), "angle": stats.uniform(0, 360)}
    assert total(built, schema, [known[name] for name in pair], 250) == pytest.approx(1, abs=2e-3)


def test_where_one_turn_ends_and_the_next_begins_the_density_is_the_same():
    """Of all columns: at the seam, and on both sides next to it."""
    schema = Schema.of_table(rows(50), COLUMNS)
    model = moved("maf", schema, 0.3, **SMALL, **RANGES)
    x = rows(200, seed=1)
    ends = []
    for angle in (0.0, 360.0, 1e-4, 360 - 1e-4):
        there = x.copy()
        there[:, 2] = angle
        ends.append(log_p(model, schema, there))
    assert ends[0].isfinite().all() and ends[0].std() > 0.1
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-4)  # the ends are float32 in prepared units
    torch.testing.assert_close(ends[2], ends[3], rtol=1e-4, atol=1e-3)


def test_several_angles_depend_on_each_other():
    """On a torus: the density integrates to one, has no seam on either circle, and is no product."""
    schema = Schema.of_table(np.random.default_rng(0).uniform(0, 6, (50, 2)), ["a", "b"])
    turn = 2 * math.pi
    model = moved("maf", schema, 0.1, circular=[f"a:0:{turn}", f"b:0:{turn}"])
    axis = (np.arange(200) + 0.5) / 200 * turn
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    p = log_p(model, schema, x).exp().view(200, 200).numpy() * (turn / 200) ** 2
    assert p.sum() == pytest.approx(1, abs=1e-3)
    assert abs(p - np.outer(p.sum(1), p.sum(0)) / p.sum()).sum() > 0.05
    for column in (0, 1):
        first, last = np.full((50, 2), 1.0), np.full((50, 2), 1.0)
        first[:, 1 - column] = last[:, 1 - column] = np.linspace(0, turn, 50)
        first[:, column], last[:, column] = 0, turn
        torch.testing.assert_close(log_p(model, schema, first), log_p(model, schema, last), rtol=0, atol=1e-4)


def test_scores_do_not_depend_on_the_unit():
    """The same table in other units, its bounds too: densities differ by the Jacobian."""
    x, unit = rows(60), np.array([1000.0, 100.0, 1 / 360, -2.0])
    own, other = Schema.of_table(x, COLUMNS), Schema.of_table(x * np.abs(unit), COLUMNS)
    a = moved("maf", own, **SMALL, **RANGES)
    b = moved("maf", other, **SMALL, positive=["income"], bounded=["share:0:100"], circular=["angle:0:1"])
    there, here = log_p(b, other, x * np.abs(unit)), log_p(a, own, x)
    torch.testing.assert_close(there + np.log(np.abs(unit)).sum(), here, rtol=0, atol=1e-3)


# Learned


def test_a_log_normal_a_beta_and_a_direction_are_learned():
    """Test rows are about as likely as under the truth; a flow that knows no ranges, as large, does worse."""
    x = rows(5000)
    parts = {"train": Split(x[:3500]), "valid": Split(x[3500:4000]), "test": Split(x[4000:])}
    data = Dataset("toy", Schema.of_table(x[:3500], COLUMNS), parts)
    truth = log_truth(x[4000:])

    def behind(**settings: Any) -> float:
        run = jensen.train("maf", data, hidden=[16, 16], layers=2, epochs=8, lr=1e-2, batch_size=128, **settings)
        found = run.score()
        assert found.kind == "exact" and found.rows is not None
        return float((torch.tensor(truth) - found.rows).mean())

    with_ranges, without = behind(**RANGES), behind()
    assert -0.02 < with_ranges < 0.12
    assert without > with_ranges + 0.2


def test_a_log_normal_is_met_before_the_first_step():
    """What starts from data sees the logarithms: their mean and deviation are all that there is to know."""
    x = np.random.default_rng(0).lognormal(3.0, 0.5, (4000, 1))
    schema = Schema.of_table(x, ["a"])
    model = build("maf", schema, {"positive": ["a"]})
    model.initialize({"x": schema.prepare(x)})
    found = log_p(model.double(), schema, x).mean()
    assert float(found) == pytest.approx(stats.lognorm(0.5, scale=math.exp(3)).logpdf(x).mean(), abs=2e-3)


@pytest.mark.parametrize("flow", names("flow"))
def test_every_flow_takes_ranges(flow):
    schema, x = Schema.of_table(rows(50), COLUMNS), rows(40, seed=2)
    small = {k: v for k, v in SMALL.items() if k in find("model", flow).settings}
    model = moved(flow, schema, 0.1, **small, **RANGES)
    found = log_p(model, schema, x)
    assert found.isfinite().all() and found.std() > 0
    with seeded(0), torch.no_grad():
        drawn = model.sample(20)["x"]
    inside(np.asarray(schema.restore(drawn.float())))


def test_flow_matching_takes_positive_and_bounded_columns():
    run = jensen.train("flow-matching", dataset(), hidden=[8], epochs=1, positive=["income"], bounded=["share:0:1"])
    assert math.isfinite(run.score().nats)
    drawn = run.sample(200)
    assert (drawn[:, 0] > 0).all() and (drawn[:, 1] > 0).all() and (drawn[:, 1] < 1).all()


def test_conditions_reach_the_directions_too():
    x = np.column_stack([rows(60), np.linspace(-1, 1, 60)])
    import pandas

    frame = pandas.DataFrame(x, columns=[*COLUMNS, "age"])
    data = jensen.load_data(frame, given="age", fractions=(1, 0, 0))
    model = moved("maf", data.schema, 0.5, **SMALL, **RANGES, marginals=False)
    prepared = data.split("train").to(data.schema)
    batch = {"x": prepared.x.double(), "c": prepared.take(slice(None))["c"].double()}
    angle = model.p["x"].module(batch["c"]).to_base(batch["x"])[0][:, 2]
    other = model.p["x"].module(batch["c"] + 1).to_base(batch["x"])[0][:, 2]
    assert ((angle - other).abs() > 1e-3).any()


# Inside and outside


def inside(x: np.ndarray) -> None:
    assert (x[:, 0] > 0).all() and (x[:, 1] > 0).all() and (x[:, 1] < 1).all()
    assert (x[:, 2] >= 0).all() and (x[:, 2] <= 360).all() and np.isfinite(x).all()


@pytest.mark.parametrize("by", [0.0, 1.0, 4.0])
def test_samples_lie_inside_whatever_the_weights(by):
    """In float32, restored to the units of the data: also those that float32 puts at a bound."""
    schema = Schema.of_table(rows(50) * [1e-3, 1, 1, 1] + [1e-9, 0, 0, 0], COLUMNS)
    model = moved("maf", schema, by, **SMALL, **RANGES).float()
    with seeded(0):
        inside(np.asarray(schema.restore(model.sample(5000)["x"])))


def test_scores_outside_are_minus_infinity_and_gradients_finite():
    schema, x = Schema.of_table(rows(50), COLUMNS), rows(6, seed=3)
    x[0, 0], x[1, 1], x[2, 1], x[3, 2], x[4, 2] = -0.1, -0.01, 1.01, -1.0, 361.0
    model = moved("maf", schema, **SMALL, **RANGES).float()
    prepared = schema.prepare(x).requires_grad_()
    found = model.evidence({"x": prepared}).log_w[0]
    assert (found[:5] == -math.inf).all() and found[5].isfinite()
    found.sum().backward()
    assert prepared.grad is not None and prepared.grad.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_run_scores_rows_outside_as_impossible(tmp_path):
    """And a report can say so."""
    run = jensen.train("maf", dataset(), out=tmp_path, epochs=1, **SMALL, **RANGES)
    x = rows(3)
    x[1, 0] = -5
    with pytest.warns(DataWarning, match="column 'income', row 2: expected a number above 0, got -5; log p"):
        found = run.score(x)
    assert found.rows is not None and found.nats == -math.inf
    assert found.rows.isfinite().tolist() == [True, False, True]
    assert "not finite" in numbers(run)[1]


def test_training_on_data_outside_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match=r"'share', row \d+: expected a number between 0\.4 and 0\.6"):
        jensen.train("maf", dataset(), out=tmp_path / "run", **SMALL, bounded=["share:0.4:0.6"])
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:float32 was off")
def test_a_value_on_a_bound_is_outside_as_in_training():
    """However near to it others lie, which float32 cannot tell from it; of a circle both ends are inside."""
    run = jensen.train("maf", dataset(), epochs=1, **SMALL, **RANGES)
    x = rows(6)
    x[0, 0], x[1, 1], x[2, 1], x[3, 1], x[4, 2], x[5, 2] = 0.0, 0.0, 1.0, 1e-12, 0.0, 360.0
    with pytest.warns(DataWarning) as told:
        found = run.score(x).rows
    assert found is not None and (found == -math.inf).tolist() == [True, True, True, False, False, False]
    assert "'share', row 2: expected a number between 0 and 1, neither of them, got 0 (and 1 row more)" in str(
        told[1].message
    )


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), center=st.floats(0.01, 0.99), scale=st.floats(1e-3, 1.0))
def test_bounds_are_rounded_inwards(low, width, center, scale):
    """So a number within the prepared bounds is, restored, within the bounds of the data."""
    high, center, scale = low + width, low + center * width, scale * width
    ranges = Ranges(("a",), (low,), (high,), (False,), ((center, scale),))
    below, above = (end.item() for end in ranges.prepared())
    assert low < below * scale + center and above * scale + center < high
    slack = 1e-6 * (1 + abs(below) + abs(above)) * scale + 1e-9 * abs(center)
    assert below * scale + center - low < slack and high - above * scale - center < slack


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"positive": ["incme"]}, "positive: 'incme': there is no such column; did you mean 'income'?"),
        ({"bounded": ["share"]}, "bounded: 'share': expected column:low:high, as share:0:1"),
        ({"bounded": ["share:a:1"]}, "bounded: 'share:a:1': expected column:low:high"),
        ({"bounded": ["share:1:0"]}, "bounded: 'share:1:0': expected low < high, got 1 and 0"),
        ({"circular": ["angle:0:inf"]}, "circular: 'angle:0:inf': a turn begins and ends at a finite number"),
        ({"positive": ["share"], "bounded": ["share:0:1"]}, "bounded: 'share:0:1': it stands there twice"),
        (
            {"circular": ["angle:0:360"], "base": "student-t"},
            "circular: expected base=normal, which becomes a uniform direction, got 'student-t'",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError) as e:
        build("maf", Schema.of_table(rows(10), COLUMNS), settings)
    assert words in str(e.value)


def test_a_flow_that_needs_more_columns_than_are_left_says_which_it_has():
    words = "; the flow has the columns that are not circular, 1"
    with pytest.raises(ConfigError, match=words):
        build("realnvp", Schema.of_table(rows(10)[:, 2:], COLUMNS[2:]), {"circular": ["angle:0:360"]})


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as e:
        build("maf", Schema.of_table(rows(10), COLUMNS), {"positive": ["a", "b"], "circular": ["c"]})
    assert len(e.value.problems) == 3


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (Schema.of_table(np.ones((3, 1)), ["n"], ["count"]), "it holds counts"),
        (Schema.of_table(np.ones((3, 1)), ["n"], ["binary"]), "it holds zeros and ones"),
        (Schema.of_pictures((1, 2, 2)), "these are pictures"),
        (jensen.load_data(np.ones((5, 2)), given="x0", fractions=(1, 0, 0)).schema, "that column is a condition"),
    ],
    ids=["counts", "bits", "pictures", "condition"],
)
def test_only_real_columns_that_are_explained_have_ranges(schema, words):
    with pytest.raises(ConfigError, match=words):
        build("maf", schema, {"positive": ["x0" if schema.given else "n"]})


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (0, 0.0, "column 'income', row 8: expected a number above 0, got 0"),
        (1, 1.0, "column 'share', row 8: expected a number between 0 and 1, neither of them, got 1"),
        (2, -1.0, "column 'angle', row 8: expected a direction from 0 to 360, got -1"),
    ],
)
@pytest.mark.parametrize("part", ["train", "valid"])
def test_training_data_out_of_range_are_refused(part, column, value, words):
    data = dataset(30)
    split = data.split(part)
    x = split.x.copy()
    x[7, column] = value
    data.splits[part] = Split(x)
    with pytest.raises(DataError) as e:
        jensen.train("maf", data, epochs=1, **SMALL, **RANGES)
    assert words in str(e.value)


def test_rows_that_float32_puts_at_a_bound_are_trained_on():
    x = rows(300)
    x[5, 0], x[6, 1], x[7, 1] = 1e-30, 1e-30, 1 - 1e-12
    data = Dataset("toy", Schema.of_table(x, COLUMNS), {"train": Split(x)})
    run = jensen.train("maf", data, epochs=2, **SMALL, **RANGES)
    found = run.score(x).rows
    assert found is not None and found.isfinite().all()
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_a_circle_holds_both_of_its_ends():
    x = rows(30)
    x[3, 2], x[4, 2] = 0.0, 360.0
    data = Dataset("toy", Schema.of_table(x, COLUMNS), {"train": Split(x)})
    run = jensen.train("maf", data, epochs=1, **SMALL, **RANGES)
    scored = run.score(x, split=None).rows
    assert scored is not None and scored.isfinite().all()


def test_settings_are_typed_as_lists():
    tokens = ["positive=[income, 3]", "bounded=[share:0:1, other:-inf:2.5]", "circular=[angle:0:360]"]
    given = read_tokens(tokens, problems := [])
    checked = {key: find("model", "maf").settings[key].check(value) for key, value in given.items()}
    assert not problems
    assert checked == {
        "positive": ["income", "3"],
        "bounded": ["share:0:1", "other:-inf:2.5"],
        "circular": ["angle:0:360"],
    }
