"""Every format is read to the same data, and every fault is named with its file, column and row."""

from __future__ import annotations

import gzip

import numpy as np
import pandas
import polars
import pytest
import torch
from PIL import Image

from jensen.data import describe, load_data
from jensen.data.audio import wav
from jensen.errors import ConfigError, DataError

FRAME = pandas.DataFrame({"b": np.arange(12) * 3, "a": np.linspace(0.1, 0.7, 12), "flag": np.arange(12) % 2})
GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 5)).astype(np.uint8)


def values(ref, **options) -> np.ndarray:
    """All rows of a data set, in the order of the file."""
    data = load_data(ref, **options)
    splits = list(data.splits.values())
    order = np.argsort(np.concatenate([split.index for split in splits]))
    return np.concatenate([split.x for split in splits])[order]


@pytest.fixture
def picture_folder(tmp_path):
    """Forty-eight grey pictures in two classes."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(GREY[:6]):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "readme.md").write_text("not a picture")
    return tmp_path


def put(folder, **counts):
    """Files `0.png`, `1.png`, ... in a folder, so many of each ending."""
    folder.mkdir(exist_ok=True)
    for ending, count in counts.items():
        for i in range(count):
            path = folder / f"{i}.{ending}"
            if ending == "png":
                Image.fromarray(GREY[i]).save(path)
            elif ending == "wav":
                path.write_bytes(wav(np.zeros(50), 8000))
            else:
                path.write_text("once upon a time")
    return folder


@pytest.mark.parametrize(
    ("counts", "is_kind", "note"),
    [
        ({"png": 5, "txt": 1}, "is_image", "left out: 1 text (0.txt)"),
        ({"wav": 6, "png": 2, "txt": 4}, "is_sound", "2 pictures (0.png, 1.png), 4 texts (0.txt, 1.txt, 2.txt, ...)"),
        ({"txt": 3, "wav": 1}, "is_text", "left out: 1 recording (0.wav)"),
    ],
)
def test_the_kind_of_most_files_in_a_folder_is_read_and_others_are_said_to_be_left_out(tmp_path, counts, is_kind, note):
    data = load_data(put(tmp_path, **counts))
    assert getattr(data.schema, is_kind) and note in data.description
    assert "left out" not in load_data(put(tmp_path / "only", png=3)).description


def test_a_folder_with_as_many_files_of_two_kinds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"got 2 pictures, as 0\.png and 2 texts, as 0\.txt; keep one kind in it"):
        load_data(put(tmp_path, png=2, txt=2, wav=1))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "npy", "npz"])
def test_tables_in_every_format(tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    cells = FRAME.to_numpy(np.float64)
    if ending == "parquet":
        FRAME.to_parquet(path)
    elif ending == "npy":
        np.save(path, cells)
    elif ending == "npz":
        np.savez(path, X=cells)
    else:
        FRAME.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    np.testing.assert_array_equal(values(path), cells)
    named = ["x0", "x1", "x2"] if ending in ("npy", "npz") else ["b", "a", "flag"]
    assert load_data(str(path)).schema.names == named


@pytest.mark.parametrize(
    "memory",
    [
        FRAME,
        polars.from_pandas(FRAME),
        FRAME.to_numpy(),
        torch.from_numpy(FRAME.to_numpy()),
        FRAME.set_index(np.arange(12)[::-1]),
    ],
    ids=["pandas", "polars", "numpy", "torch", "index"],
)
def test_tables_in_memory(memory):
    np.testing.assert_array_equal(values(memory), FRAME.to_numpy(np.float64))


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_quotes(tmp_path, delimiter):
    path = tmp_path / "t.csv"
    FRAME.rename(columns={"a": f"a{delimiter}c"}).to_csv(path, index=False, sep=delimiter)
    assert load_data(path).schema.names == ["b", f"a{delimiter}c", "flag"]


def test_one_dimension_is_one_column(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    assert values(tmp_path / "x.npy").shape == (5, 1)


def test_own_splits_and_labels_of_an_npz(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(
        path,
        train_images=GREY[:10],
        train_labels=np.arange(10) % 3,
        test_images=GREY[10:],
        test_labels=np.zeros(10),
    )
    data = load_data(path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 9, "valid": 1, "test": 10}
    assert "valid was cut from train" in data.description
    assert data.schema.classes == ("0", "1", "2")
    assert (data.split("train").y == data.split("train").index % 3).all()
    np.testing.assert_array_equal(data.split("test").x[:, 0], GREY[10:])


def test_real_labels_of_an_npz_are_left_out_and_said_to_be(tmp_path):
    np.savez(tmp_path / "r.npz", X=np.ones((4, 2)), y=np.array([0.5, 1.0, 2.0, 3.0]))
    data = load_data(tmp_path / "r.npz")
    assert data.split("train").y is None
    assert "left out" in data.description


@pytest.mark.parametrize(
    ("array", "levels"),
    [
        (GREY, 256),
        (GREY.astype(np.int64), 256),
        (GREY.astype(np.float32), 256),
        (GREY.astype(np.float32) / 255, 256),
        (GREY / 255, 256),
        (torch.from_numpy(GREY) / 255, 256),
        (GREY > 99, 2),
        ((GREY > 99).astype(np.float32), 2),
    ],
)
def test_pictures_as_arrays(array, levels):
    data = load_data(array)
    assert (data.schema.levels, data.schema.event_shape) == (levels, (1, 6, 5))
    np.testing.assert_array_equal(values(array)[:, 0], GREY if levels == 256 else GREY > 99)


@pytest.mark.parametrize("shape", [(8, 6, 5, 3), (8, 3, 6, 5)])
def test_colours_last_or_first(shape):
    assert load_data(np.full(shape, 9, np.uint8)).schema.event_shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.random.default_rng(0).random((3, 4, 4)), "exactly k/255, got real values"),
        (GREY.astype(np.int64) - 9, "expected values 0..255, got -9.."),
        (np.full((2, 3, 3), np.nan), "got nan in picture 1"),
        (np.zeros((2, 5, 5, 4), np.uint8), "with C 1 or 3, got shape (2, 5, 5, 4)"),
        (np.zeros((2, 3, 3, 3, 1), np.uint8), "got shape (2, 3, 3, 3, 1)"),
        (np.zeros((0, 3, 3), np.uint8), "expected at least one picture"),
        (np.zeros((0, 3)), "expected at least one row"),
        (np.zeros((3, 0)), "expected at least one column"),
        (np.zeros(()), "got shape ()"),
        (np.array([["a", "b"]]), "expected numbers, got dtype <U1"),
        (np.array([[1 + 2j]]), "expected numbers, got dtype complex128"),
    ],
)
def test_wrong_arrays_are_named(array, message):
    with pytest.raises(DataError) as error:
        load_data(array)
    assert message in str(error.value)


def test_a_folder_of_pictures(picture_folder):
    data = load_data(picture_folder)
    assert data.schema.classes == ("cat", "dog")
    np.testing.assert_array_equal(values(picture_folder)[:, 0], np.concatenate([GREY[:6]] * 2))
    train = data.split("train")
    assert (train.y == (train.index >= 6)).all()


def test_a_folder_with_splits(tmp_path):
    for split, n in (("train", 5), ("valid", 2), ("test", 3)):
        (tmp_path / split).mkdir()
        for i in range(n):
            Image.fromarray(GREY[i]).save(tmp_path / split / f"{i}.png")
    data = load_data(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 5, "valid": 2, "test": 3}
    assert data.schema.classes is None


def test_one_coloured_picture_makes_all_rgb(picture_folder):
    Image.fromarray(np.zeros((6, 5, 4), np.uint8)).save(picture_folder / "rgba.png")
    assert load_data(picture_folder).schema.event_shape == (3, 6, 5)
    assert -1 in load_data(picture_folder, fractions=(1, 0, 0)).split("train").y


def test_bitmaps_are_binary(tmp_path):
    for i in range(4):
        Image.fromarray(GREY[i] > 99).save(tmp_path / f"{i}.png")
    assert load_data(tmp_path).schema.kind == "binary"


@pytest.mark.parametrize("odd", ["dog/x.png", "!.png"])
def test_the_picture_whose_size_differs_is_named(picture_folder, odd):
    """Last or first among the others."""
    Image.fromarray(GREY[0][:, :4]).save(picture_folder / odd)
    with pytest.raises(DataError, match=rf"{odd}: expected 5x6 pixels as in 0\.png, got 4x6"):
        load_data(picture_folder)


def test_broken_and_deep_pictures_name_the_file(picture_folder):
    whole = (picture_folder / "cat" / "0.png").read_bytes()
    (picture_folder / "cat" / "9.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"9\.png: not a readable picture"):
        load_data(picture_folder)
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(picture_folder / "cat" / "9.png")
    with pytest.raises(DataError, match=r"9\.png: expected 8 bits a channel, got pixels of mode I;16"):
        load_data(picture_folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header row"),
        ("a,b\n", "expected at least one row of data"),
        ("a,a,b,b\n1,2,3,4\n", "expected distinct column names, got 'a', 'b' twice"),
        ("a,b\n1,2\n3,x\n4,5\n", "column 'b' is not numeric: row 2 (line 3) holds 'x'"),
        ("a,b\n1,2\nx,2\n3,y\n4,5", "column 'a' is not numeric: row 2 (line 3) holds 'x'"),
        ("a,b\n1,2\n3,-inf\n", "infinite values"),
        ("a,b\n1,2\n3,4,5\n", ", line 3: expected 2 cells as in the header, separated by ',', got 3"),
        ("a,b\n1,2,3\n4,5,6\n", ", line 2: expected 2 cells as in the header, separated by ',', got 3"),
        ('a;b\n1;2\n"3;4\n5;6\n', ', line 3: expected a quote " that is closed, got one that never is'),
        ("id,b\n9007199254740995,2\n", "column 'id', row 1 (line 2): 9007199254740995 is too large"),
        ("a;b\n1,5;2\n", "row 1 (line 2) holds '1,5'; decimals take a point"),
    ],
)
def test_wrong_csv_files_are_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        load_data(path)
    assert message in str(error.value)
    assert "t.csv" in str(error.value)


def test_a_csv_that_is_not_utf8(tmp_path):
    (tmp_path / "t.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        load_data(tmp_path / "t.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n", encoding="utf-8-sig")
    assert load_data(tmp_path / "t.csv").schema.names == ["a", "b"]


@pytest.mark.parametrize("ending", ["npz", "npy", "csv.gz", "parquet"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, ending, share):
    path = tmp_path / f"t.{ending}"
    cells = np.random.default_rng(0).normal(size=(500, 3))
    if ending == "npz":
        np.savez_compressed(path, X=cells)
    elif ending == "npy":
        np.save(path, cells)
    elif ending == "parquet":
        pandas.DataFrame(cells, columns=list("abc")).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(pandas.DataFrame(cells).to_csv(index=False).encode()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as error:
        load_data(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_python_objects_are_never_unpickled(tmp_path, ending):
    path = tmp_path / f"o.{ending}"
    objects = np.array([{"a": 1}, None], dtype=object)
    if ending == "npz":
        np.savez(path, X=objects)
    else:
        np.save(path, objects)
    with pytest.raises(DataError, match="holds Python objects"):
        load_data(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": GREY}, "expected an array named train or X (or train_images, X_images), got other"),
        ({"train": GREY, "test": GREY[:, :4]}, "test: expected pictures of shape (1, 6, 5), got (1, 4, 5)"),
        ({"train": np.ones((3, 2)), "test": np.ones((3, 1))}, "test: expected rows of shape (2,), got (1,)"),
        ({"X": np.ones((3, 2)), "y": np.arange(2)}, "expected 3 labels, one for each row, got 2"),
        ({"test": np.ones((3, 2))}, "expected a train split, got test"),
    ],
)
def test_wrong_npz_files_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as error:
        load_data(tmp_path / "a.npz")
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path / 'a.npz'}: ")


def test_arrays_of_other_names_in_an_npz_are_noted(tmp_path):
    np.savez(tmp_path / "a.npz", train=GREY, train_labels=np.arange(20) % 2, mean=np.ones(3))
    assert "not looked at: mean" in load_data(tmp_path / "a.npz").description
    np.savez(tmp_path / "b.npz", X=GREY, y=np.arange(20) % 2, class_names=np.array(["a", "b"]))
    assert "not looked at" not in load_data(tmp_path / "b.npz").description


def test_transparency_is_said_to_be_left_out(tmp_path):
    alpha = np.full((6, 5), 255, np.uint8)
    for i in range(4):
        Image.fromarray(np.stack([GREY[i]] * 3 + [alpha], 2)).save(tmp_path / f"{i}.png")
    assert "transparency" not in load_data(tmp_path).description
    Image.fromarray(np.stack([GREY[0]] * 3 + [alpha - 9], 2)).save(tmp_path / "4.png")
    assert "transparency is left out, of 1 of 5 pictures" in load_data(tmp_path).description
    assert "transparency is left out" in load_data(tmp_path / "4.png").description


@pytest.mark.parametrize("array", [np.zeros((5, 2, 3, 4, 5), np.uint8), np.full((2, 3, 3), np.nan)])
def test_a_wrong_npy_file_is_named_with_its_folder(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=f"^{tmp_path / 'a.npy'}: expected"):
        load_data(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("trained", "one", "message"),
    [
        (GREY, GREY[0], r"got a table of 5 columns; one alone is x\[None\]"),
        (np.full((4, 6, 5, 3), 9, np.uint8), np.full((6, 5, 3), 9, np.uint8), r"; one alone is x\[None\]"),
        (np.full((4, 3, 6, 5), 9, np.uint8), np.full((3, 6, 5), 9, np.uint8), r"; one alone is x\[None\]"),
        (GREY, GREY[:, :4], r"got \(1, 4, 5\)$"),
        (GREY, GREY[0, :4], r"got a table of 5 columns$"),
    ],
)
def test_one_picture_alone_is_told_from_pictures_of_another_size(trained, one, message):
    with pytest.raises(DataError, match=message):
        load_data(one, schema=load_data(trained).schema)


def test_unknown_names_paths_and_things(tmp_path):
    with pytest.raises(
        ConfigError, match="'mnist-5' is neither a data set nor an existing path; did you mean 'mnist-5k'"
    ):
        load_data("mnist-5")
    (tmp_path / "people.csv").write_text("a\n1\n")
    with pytest.raises(
        ConfigError, match=r"poeple\.csv: there is no such file or folder; did you mean 'people\.csv'\?$"
    ):
        load_data(tmp_path / "poeple.csv")
    with pytest.raises(ConfigError, match=r"zzz\.parquet: there is no such file or folder$"):
        load_data(str(tmp_path / "zzz.parquet"))
    with pytest.raises(ConfigError, match="there is no folder"):
        load_data(tmp_path / "nowhere" / "people.csv")
    with pytest.raises(ConfigError, match="got list"):
        load_data([1, 2])
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(
        DataError, match=r"a\.xls: expected a folder of pictures, of sound or of texts, or a file ending in"
    ):
        load_data(tmp_path / "a.xls")


def test_kinds_of_columns():
    flags = pandas.DataFrame({"a": [True, False, True, True], "b": [0, 1, 1, 0]})
    assert load_data(flags).schema.kind == "binary"
    counts = pandas.DataFrame({"n": [3, 0, 2, 9]})
    assert load_data(counts).schema.kind == "real"
    assert load_data(counts, kinds={"n": "count"}).schema.kind == "count"
    with pytest.raises(DataError, match=r"column 'n', row 1: expected a count 0, 1, 2, \.\.\., got -1"):
        load_data(counts - 4, kinds={"n": "count"})
    with pytest.raises(DataError, match="column 'n', row 1: expected 0 or 1, got 3"):
        load_data(counts, kinds={"n": "binary"})
    with pytest.raises(DataError, match=r"row 2: expected a count below 16,777,216, .* got 16777216; .*--kind n=real"):
        load_data(pandas.DataFrame({"n": [2**24 - 1, 2**24]}), kinds={"n": "count"})
    gaps = pandas.DataFrame(
        {"a": pandas.array([1, 0, None, 1], "Int64"), "b": pandas.array([True, None] * 2, "boolean")}
    )
    assert load_data(gaps).schema.kind == "binary"
    assert load_data(gaps.assign(a=pandas.array([None] * 4, "Int64"))).schema.kind == "real"


def test_new_tables_must_fit_the_schema():
    schema = load_data(FRAME).schema
    shuffled = FRAME[["flag", "a", "b"]].assign(extra="words")
    assert list(load_data(shuffled, schema=schema).splits) == ["all"]
    np.testing.assert_array_equal(values(shuffled, schema=schema), FRAME.to_numpy(np.float64))
    np.testing.assert_array_equal(values(FRAME.to_numpy(), schema=schema), FRAME.to_numpy(np.float64))
    with pytest.raises(DataError, match="columns missing that the model was trained on: b, flag"):
        load_data(FRAME[["a"]], schema=schema)
    with pytest.raises(DataError, match="expected 3 columns as in training, got 2"):
        load_data(np.ones((4, 2)), schema=schema)
    with pytest.raises(DataError, match=r"expected a table of 3 columns, got pictures \(1, 6, 5\)"):
        load_data(GREY, schema=schema)
    with pytest.raises(ConfigError, match="binarize: expected none as in training, got static"):
        load_data(GREY, schema=schema, binarize="static")


def test_new_pictures_must_fit_the_schema():
    schema = load_data(GREY).schema
    np.testing.assert_array_equal(values(GREY.reshape(20, -1), schema=schema)[:, 0], GREY)
    with pytest.raises(DataError, match=r"expected pictures \(1, 6, 5\), got \(1, 4, 5\)"):
        load_data(GREY[:, :4], schema=schema)
    with pytest.raises(DataError, match=r"expected values 0\.\.255, got 0\.\.1"):
        load_data(GREY > 99, schema=schema)
    with pytest.raises(DataError, match=r"expected pictures \(1, 6, 5\), got a table of 3 columns"):
        load_data(FRAME, schema=schema)


def test_labels_are_those_of_the_trained_model():
    frame = FRAME.assign(y=["b", "a"] * 6)
    schema = load_data(frame, label="y").schema
    again = load_data(frame.assign(y=["a", "new"] * 6), schema=schema).split("all")
    assert again.y.tolist() == [0, -1] * 6
    assert load_data(FRAME, schema=schema).split("all").y is None


def test_a_data_set_is_taken_as_it_is_or_refitted():
    data = load_data(FRAME)
    assert load_data(data) is data
    other = load_data(FRAME * 2.0).schema
    refitted = load_data(data, schema=other)
    assert refitted.schema == other
    np.testing.assert_array_equal(refitted.split("train").x, data.split("train").x)


def test_a_data_set_says_how_to_load_it_again(tmp_path):
    path = tmp_path / "t.csv"
    FRAME.to_csv(path, index=False)
    made = load_data(path, seed=3, drop="b", fractions=[0.5, 0.25, 0.25])
    where, options = made.recipe
    again = load_data(where, **options)
    assert {n: s.sha256 for n, s in again.splits.items()} == {n: s.sha256 for n, s in made.splits.items()}
    assert load_data(FRAME).recipe is None
    assert load_data("iris").recipe == ("iris", {})


def test_a_data_set_is_shown_in_one_line():
    assert repr(load_data("iris")) == "<Dataset iris: real, shape (4,); train 120, valid 15, test 15>"


@pytest.mark.parametrize(
    ("header", "told"),
    [("0.5,-1.2", True), ("7,3", True), ("0,1", False), ("1,2", False), ("a,2", True), ("a,b", False), ("a,nan", False)]
    + [("a,b,2", False)],
)
def test_names_that_are_numbers_may_be_data(tmp_path, header, told):
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n" + "1.5,2.5\n3.5,4.5\n" * 10)
    assert ("add a header line" in load_data(path).description) == told


def test_description():
    report = describe(load_data(FRAME.assign(c=7.5, y=list("ab") * 6), label="y"))
    assert report["constant"] == ["c"]
    assert report["classes"] == ["a", "b"]
    assert report["columns"][0] == {
        "name": "b",
        "kind": "real",
        "dtype": "int64",
        "gaps": 0,
        "constant": False,
        **{k: report["columns"][0][k] for k in ("min", "max", "mean")},
    }
    assert sum(report["splits"]["train"]["labels"].values()) == report["splits"]["train"]["rows"]
    assert describe(load_data(GREY))["values"]["max"] == 255


def test_pictures_one_or_three_pixels_wide_come_as_samples_are_written():
    """(N, C, H, W) where channels could stand first or last, and it is said; where only one fits, that one."""
    rng = np.random.default_rng(0)
    for shape, found in (
        ((9, 1, 5, 3), (1, 5, 3)),
        ((9, 3, 5, 1), (3, 5, 1)),
        ((9, 1, 1, 1), (1, 1, 1)),
        ((9, 5, 1, 3), (3, 5, 1)),
        ((9, 5, 7, 1), (1, 5, 7)),
        ((9, 3, 7, 5), (3, 7, 5)),
    ):
        x = rng.integers(0, 256, shape).astype(np.uint8)
        data = load_data(x)
        assert data.schema.event_shape == found
        assert ("was taken as (N, C, H, W)" in data.description) == (shape[1] in (1, 3) and shape[3] in (1, 3))
        same = np.moveaxis(x, 3, 1) if shape[1:] != found else x
        whole = load_data(same, schema=data.schema).split("all").x
        np.testing.assert_array_equal(whole, same)
