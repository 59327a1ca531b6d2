"""From a name, a path or data in memory to a `Dataset`: read, take columns apart, split, binarise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from jensen.data import audio, pictures, splits, tables
from jensen.data.audio_levels import Encoding
from jensen.data.columns import encode, fitted, infer
from jensen.data.conditions import (
    check_present,
    conditions,
    fit_conditions,
    given_pictures,
    picture_field,
    views_as_given,
)
from jensen.data.dataset import Dataset, Split
from jensen.data.field import Field
from jensen.data.fitting import fit_pictures, fit_sound, fit_table
from jensen.data.raw import ALL
from jensen.data.rows import Rows, take_apart
from jensen.data.schema import Schema
from jensen.data.sources import Source, by_position, open_source, reference, texts_of_column
from jensen.data.text import TextOptions, as_texts, column_of_text, fit_rows, load_text, refuse_columns
from jensen.data.told import sidecar
from jensen.data.views import named_view, view_of
from jensen.errors import ConfigError, DataError, did_you_mean

Binarize = Literal["none", "static", "dynamic"]
LABEL = "label"  # of rows whose labels stood in an array of their own
_FRACTIONS = (0.8, 0.1, 0.1)
_VALID_SHARE = 0.1  # of the training rows, where a file brings a test split and no validation split


def load_data(
    ref: Any,
    *,
    binarize: Binarize | None = None,
    seed: int = 0,
    label: str | None = None,
    drop: str | Sequence[str] = (),
    given: str | Sequence[str] = (),
    given_view: str | Mapping[str, Any] | None = None,
    group: str | None = None,
    time: str | None = None,
    weight: str | None = None,
    fractions: Sequence[float] = _FRACTIONS,
    kinds: Mapping[str, Any] | None = None,
    missing: str | Sequence[str] = (),
    length: int | None = None,
    rate: int | None = None,
    levels: int | None = None,
    encoding: Encoding | None = None,
    text: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
    gaps: bool = False,
    rule: int = splits.RULE,
) -> Dataset:
    """Load a data set by name, from a path or from memory, split it and give it a schema.

    Args:
        ref: a registered name; a path to .npz, .npy, .csv[.gz], .tsv[.gz], .parquet, .wav, .flac, .txt[.gz] or a folder
            of pictures, of sound or of texts; an array, a tensor, a pandas or polars frame, or a list of texts; a frame
            for each of `train`, `valid` and `test`, or arrays or lists of texts that are named as in an .npz (`train`,
            `train_labels`, `test`, ...); or a `Dataset`, returned as it is unless options ask for more.
        binarize: make 0/1 pictures of grey ones: `static`, drawn once with the seed, or `dynamic`, the
            training split drawn afresh in each batch and the others once.
        seed: of the split and the binarisation.
        label: column of labels, which becomes `y`; an empty cell is a row without a label, y = -1.
        drop: columns to leave out.
        given: columns that are conditions: a model is given them, and explains the others. Words, truth values and at
            most ten different whole numbers are categories, all else is real; `kinds` may say which. Data that bring
            arrays of what is given beside their rows (`train_given` of an .npz) name no columns.
        given_view: a view of each picture that a model is given, to make the whole of it: "downscale,factor=4",
            "sketch", "grey" or "half,side=left", by name and settings.
        group: column of groups; the rows of one stay in one split.
        time: column of times; the oldest rows are the training split.
        weight: column of non-negative row weights.
        fractions: shares of train, valid and test, where the data bring no split of their own.
        kinds: kind of a column where it is not to be guessed, by name: `real`, `positive`, `count`, `binary`,
            `category`, `ordinal` or `time`; or a mapping, as {kind: bounded, low: 0, high: 1} or {kind: ordinal,
            categories: [low, high]}. Beside a file FILE they may stand in FILE.columns.yaml.
        missing: words and numbers that stand for a missing cell of a table, as "?" or "-999".
        length: of sound, samples of a clip; by default enough for 95 % of the training recordings, and at most 16,000.
            A longer recording becomes several clips, which stay in one split.
        rate: of sound, in Hz, to which recordings of another are resampled; by default that of most of them.
        levels, encoding: of sound, what a waveform is quantised to: 256 levels unless said otherwise, by the law
            "mu-law" (the default) or "linear".
        text: of text, what its tokens are, what a datum is, and which column of a table holds it: see
            `jensen.data.text.TextOptions`.
        schema: that of a trained model, which these data must fit. Registered data sets are split as ever;
            other data that bring no split of their own are one split, `all`.
        gaps: cells of a table may be empty, NaN in its rows, whatever the trained model whose schema it takes.
        rule: by which rows are cut (`jensen.data.splits`), as a run records it; registered data keep to the first.

    Raises:
        ConfigError: the name, path, column or option does not exist.
        DataError: the data cannot be read or used, or do not fit the schema; names the file, column and row.

    >>> data = load_data(np.arange(20.0).reshape(10, 2))
    >>> {name: len(split) for name, split in data.splits.items()}
    {'train': 8, 'valid': 1, 'test': 1}
    """
    drop, given, missing = ([one] if isinstance(one, str) else list(one) for one in (drop, given, missing))
    options: dict[str, Any] = {"binarize": binarize, "label": label, "group": group, "time": time, "weight": weight}
    options["given_view"] = given_view
    given_view = None if given_view is None else named_view(given_view)
    options["missing"] = missing or None
    of_sound = {"length": length, "rate": rate, "levels": levels, "encoding": encoding}
    recipe = (
        _recipe(ref, options | of_sound | {"text": text or None}, seed, drop, given, fractions, kinds, rule)
        if schema is None
        else None
    )
    shares = splits.check_fractions(fractions)
    _check_options(binarize, seed, group, time, label, drop, given, kinds, missing, schema)
    if isinstance(ref, Dataset):
        same = schema in (None, ref.schema) and given in ([], ref.schema.given_names) and given_view is None
        if same and binarize in (None, ref.schema.binarization):
            return ref
        if schema is None and ref.schema.levels == 2:
            raise ConfigError(f"binarize: {ref.name} is binarised already ({ref.schema.binarization})")
    source = open_source(ref, missing if schema is None else schema.missing)
    rule = 1 if source.registered else rule
    if missing and source.columns is None:
        raise ConfigError(f"missing: expected a table with columns, got something else ({source.name})")
    beside = sidecar(ref, source.columns) if schema is None else {}
    column = column_of_text(text, schema)
    if source.raw.texts is not None and schema is None and column is not None:
        raise ConfigError(f"text: column: expected a table with columns, got texts ({source.name})")
    if column is not None and source.raw.named:
        options.pop("label")
        if schema is None:
            label = label or source.label
            source = texts_of_column(source, column, label, "text: column")
        else:
            source = as_texts(source, schema, label)
    if source.raw.texts is not None:
        refuse_columns({**options, "drop": drop, "given": given, "kinds": kinds}, of_sound, source, column)
        return load_text(source, text, schema, seed, shares, rule, recipe, label)
    if text:
        if unknown := TextOptions.unknown(text):
            raise ConfigError(unknown)
        hint = "; say which column holds it, as --text column=NAME" if source.raw.named else ""
        raise ConfigError(f"text: expected a text, got something else ({source.name}){hint}")
    audio.check_options(length, rate, levels, encoding, source, schema)
    if source.raw.holds_recordings:
        clips = audio.cut(source.raw, schema if schema is not None and schema.is_sound else None, **of_sound)
        source = replace(source, raw=clips)
    if schema is None:
        label = label or (source.label if source.label not in given else None)
        drop += [column for column in source.drop if column not in (label, *given, *drop)]
    else:
        if label is None and source.has(schema.label):
            label = schema.label
        of_array = label is None and schema.label is None and schema.classes is not None
        if of_array and source.has(LABEL) and LABEL not in (*schema.names, *schema.given_names):
            label = LABEL
        given = [] if source.raw.brings_given or schema.given_picture else schema.given_names
        if given:
            source = by_position(source, schema)
            check_present(source, schema.given)
    _check_given(source, given, given_view, schema)
    columns = {"label": label, "group": group, "time": time, "weight": weight}
    kinds = {**{name: beside[name] for name in beside if name not in (*drop, *columns.values())}, **(kinds or {})}
    rows = {name: take_apart(part, source, columns, drop, given) for name, part in source.raw.parts.items()}

    columns = _columns(rows, kinds or {}, source) if schema is None else schema.fields
    x = {name: matrix(part, source, schema, columns, gaps) for name, part in rows.items()}
    _check_shapes(x, source)
    chosen, note = _choose(rows, seed, shares, rule, source, whole=schema is not None)
    if schema is None:
        train, index = chosen["train"]
        schema = _schema(source, rows, x, columns, train, index, binarize, seed, label)
        schema = _with_given(schema, source, rows, train, index, kinds or {}, given_view)
        schema = schema.model_copy(update={"missing": tuple(missing)}) if missing else schema
    c = {name: _conditions(part, schema, source, name) for name, part in rows.items()}
    found = {
        name: _seen(_binarized(rows[part].split(x[part], c[part], index, schema.classes), schema, name), schema)
        for name, (part, index) in chosen.items()
    }
    notes = filter(None, [source.description, *source.raw.notes, note])
    return Dataset(source.name, schema, found, "; ".join(notes), source.origin, recipe)


def _check_given(
    source: Source, given: Sequence[str], given_view: Mapping[str, Any] | None, schema: Schema | None
) -> None:
    """Raises `ConfigError` where more is said to be given than a model can be, or a view is none of these data's."""
    if source.raw.brings_given and (given or given_view):
        option = "given" if given else "given_view"
        raise ConfigError(f"{option}: {source.name} brings what is given of its rows with it; name no more")
    if given and given_view:
        raise ConfigError("given_view: expected columns that are given, or a view of a picture, got both")
    if given_view and schema is None and not source.raw.is_image:
        raise ConfigError(f"given_view: expected pictures, got other data ({source.name})")


def _conditions(part: Rows, schema: Schema, source: Source, name: str) -> np.ndarray | None:
    """What is given of a part's rows, as it goes into a split; views wait until pictures are binarised."""
    picture = schema.given_picture
    if not schema.given or (picture is not None and picture.view is not None):
        return None
    if picture is not None:
        return given_pictures(part.given, picture, source, name)
    if part.given is None or isinstance(part.given, np.ndarray):
        expected = ", ".join(schema.given_names)
        raise DataError(f"{source.name}: {name}: as in training expected numbers that are given ({expected})")
    if list(part.given.columns) != schema.given_names and part.given.shape[1] != len(schema.given):
        got = part.given.shape[1]
        raise DataError(f"{source.name}: {name}: as in training expected {len(schema.given)} numbers given, got {got}")
    return conditions(part.given.set_axis(schema.given_names, axis=1), schema.given, source)


def _seen(split: Split, schema: Schema) -> Split:
    """A split of pictures whose views are given, with these."""
    picture = schema.given_picture
    if picture is None or picture.view is None:
        return split
    if split.redraw:
        raise ConfigError("given_view: it is taken once, and these pictures are drawn anew each time; binarize=static")
    return replace(split, c=views_as_given(split.x, schema.levels or 2, picture))


def _recipe(
    ref: Any,
    given_options: Mapping[str, Any],
    seed: int,
    drop: Sequence[str],
    given: Sequence[str],
    fractions: Sequence[float],
    kinds: Mapping[str, Any] | None,
    rule: int,
) -> tuple[str, dict[str, Any]] | None:
    """What a run records of data, in plain values; options that are not given stay out."""
    where = reference(ref)
    if where is None:
        return None
    options = {name: value for name, value in given_options.items() if value is not None}
    options |= {"seed": seed} if seed else {}
    options |= {"drop": list(drop)} if drop else {}
    options |= {"given": list(given)} if given else {}
    options |= {"fractions": list(fractions)} if tuple(fractions) != _FRACTIONS else {}
    options |= {"kinds": dict(kinds)} if kinds else {}
    options |= {"rule": rule} if rule != splits.RULE else {}
    return where, options


def _check_options(
    binarize: str | None,
    seed: int,
    group: str | None,
    time: str | None,
    label: str | None,
    drop: Sequence[str],
    given: Sequence[str],
    kinds: Mapping[str, Any] | None,
    missing: Sequence[str],
    schema: Schema | None,
) -> None:
    """Raises `ConfigError` listing every option that is wrong or does not go with another."""
    problems = []
    if binarize not in (None, "none", "static", "dynamic"):
        problems.append(f"binarize: expected none, static or dynamic, got {binarize!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        problems.append(f"seed: expected a whole number >= 0, got {seed!r}")
    if group and time:
        problems.append(f"expected group or time, got both ({group!r}, {time!r})")
    for column in dict.fromkeys(given):
        if given.count(column) > 1:
            problems.append(f"given: {column!r} stands twice")
        for option, named in (("label", [label]), ("drop", drop)):
            if column in named:
                problems.append(f"given: {column!r} is named by {option}, too; expected one of them")
    if schema is not None and given and list(given) != schema.given_names:
        problems.append(f"given: expected {', '.join(schema.given_names) or 'none'} as in training")
    if schema is not None and kinds:
        problems.append("kinds: expected none, since those of the trained model are used")
    wrong = [word for word in missing if not isinstance(word, str) or not word.strip()]
    if wrong:
        problems.append(f"missing: expected words, as '?' or '-999', got {', '.join(map(repr, wrong))}")
    if schema is not None and missing and tuple(missing) != schema.missing:
        problems.append(f"missing: expected {', '.join(schema.missing) or 'none'} as in training")
    if schema is not None and binarize not in (None, schema.binarization):
        problems.append(f"binarize: expected {schema.binarization} as in training, got {binarize}")
    if problems:
        raise ConfigError(problems)


def _columns(rows: Mapping[str, Rows], kinds: Mapping[str, Any], source: Source) -> tuple[Field, ...]:
    """A field for each column of a table that has no schema yet, moments left out; () of all else."""
    frames = [part.x for part in rows.values()]
    if any(isinstance(frame, np.ndarray) for frame in frames):
        return ()
    if len({tuple(frame.columns) for frame in frames}) > 1:
        _check_shapes({name: part.x.to_numpy() for name, part in rows.items()}, source)
    first = next(iter(rows.values()))
    given = [] if first.given is None or source.raw.brings_given else list(first.given.columns)
    names = [*first.x.columns, *given]
    for name in kinds:
        if name not in names:
            raise ConfigError(f"kinds: {source.name} has no column {name!r}{did_you_mean(name, names)}")
    return infer(frames, {name: kind for name, kind in kinds.items() if name not in given}, source)


def matrix(
    part: Rows, source: Source, schema: Schema | None, columns: Sequence[Field] = (), gaps: bool = False
) -> np.ndarray:
    """x as it goes into a split: uint8 pictures, float32 clips, or the checked float64 cells of a table."""
    if schema is not None and schema.is_text:
        return fit_rows(part.x, source, schema)
    if schema is not None and schema.is_array:
        return (fit_sound if schema.is_sound else fit_pictures)(part.x, source, schema)
    if schema is not None:
        return fit_table(part.x, source, schema, gaps)
    return part.x if isinstance(part.x, np.ndarray) else encode(part.x, columns, source)


def _check_shapes(x: Mapping[str, np.ndarray], source: Source) -> None:
    first = next(iter(x.values())).shape[1:]
    for name, values in x.items():
        if values.shape[1:] != first:
            raise DataError(f"{source.name}: {name}: expected rows of shape {first}, got {values.shape[1:]}")


def _choose(
    rows: Mapping[str, Rows], seed: int, shares: splits.Fractions, rule: int, source: Source, whole: bool
) -> tuple[dict[str, tuple[str, np.ndarray]], str]:
    """For each split, the part that it is cut from and its rows there; and a note on what was done.

    Args:
        whole: data of unknown origin are not cut.
    """
    chosen = {name: (name, np.arange(len(part))) for name, part in rows.items()}
    if whole and not source.registered:
        return chosen, ""
    if ALL in rows:
        cut = rows[ALL].cut(seed, shares, rule)
        few = "" if "valid" in cut or "test" in cut else "too few rows to split: all are in train"
        return {name: (ALL, index) for name, index in cut.items()}, few
    if "train" not in rows:
        raise DataError(f"{source.name}: expected a train split, got {', '.join(rows)}")
    if "valid" in rows:
        return chosen, ""
    cut = rows["train"].cut(seed, (1 - _VALID_SHARE, _VALID_SHARE, 0.0), rule)
    note = f"valid was cut from train ({_VALID_SHARE:.0%})" if "valid" in cut else ""
    return {**{name: ("train", index) for name, index in cut.items()}, **_without(chosen, "train")}, note


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _schema(
    source: Source,
    rows: Mapping[str, Rows],
    x: Mapping[str, np.ndarray],
    columns: Sequence[Field],
    train: str,
    index: np.ndarray,
    binarize: Binarize | None,
    seed: int,
    label: str | None,
) -> Schema:
    """The schema of data that have none yet, but for what is given; moments by the training rows, those at an index."""
    labelled = any(part.y is not None for part in rows.values())
    classes = source.raw.classes or _classes(rows) if labelled else None
    if source.raw.sound is not None and binarize in (None, "none"):
        return Schema(fields=(source.raw.sound,), classes=classes)
    if source.raw.is_image:
        return _picture_schema(source, x[train].shape[1:], binarize, seed, classes)
    if binarize not in (None, "none"):
        kind = "sound" if source.raw.sound is not None else "a table"
        raise ConfigError(f"binarize: expected grey pictures, got {kind} ({source.name})")
    extra: dict[str, Any] = {"classes": classes, "label": label, "container": source.container}
    frame: Any = next(iter(source.raw.parts.values())).x
    if label is not None:
        extra["label_dtype"] = str(frame[label].dtype)
        taken = (label, *(field.name for field in columns))
        extra["order"] = tuple(column for column in frame.columns if column in taken)
    return Schema(fields=fitted(columns, x[train][index], list(x.values())), **extra)


def _with_given(
    schema: Schema,
    source: Source,
    rows: Mapping[str, Rows],
    train: str,
    index: np.ndarray,
    kinds: Mapping[str, Any],
    given_view: Mapping[str, Any] | None,
) -> Schema:
    """A schema with what is given: a view of the picture, what comes beside the rows, or columns of them."""
    if kinds and schema.is_array:
        kind = "sound" if schema.is_sound else "pictures"
        raise ConfigError(f"kinds: expected a table with columns, got {kind} ({source.name})")
    if given_view is not None:
        view = view_of(schema.event_shape, schema.levels or 2, given_view)
        return schema.model_copy(update={"given": (picture_field(view.shape, view.levels, given_view),)})
    first = rows[train].given
    if first is None:
        return schema
    if isinstance(first, np.ndarray):
        return schema.model_copy(update={"given": (picture_field(first.shape[1:], source.raw.given_levels or 256),)})
    fields = fit_conditions([part.given for part in rows.values()], first.iloc[index], kinds, source)
    if source.raw.brings_given:
        return schema.model_copy(update={"given": fields})
    frame: Any = next(iter(source.raw.parts.values())).x
    taken = (schema.label, *schema.names, *(field.name for field in fields))
    order = tuple(column for column in frame.columns if column in taken)
    return schema.model_copy(update={"given": fields, "order": order})


def _classes(rows: Mapping[str, Rows]) -> tuple[str, ...] | None:
    """The labels that occur, numbers before words."""
    present = {name for part in rows.values() if part.y is not None for name in part.y if name is not None}
    return tuple(sorted(present, key=tables.order)) or None


def _picture_schema(
    source: Source,
    shape: tuple[int, ...],
    binarize: Binarize | None,
    seed: int,
    classes: tuple[str, ...] | None,
) -> Schema:
    levels = source.raw.levels
    assert levels
    if binarize in (None, "none"):
        extra = {"binarization": "static", "grey": 256} if source.raw.published else {}
        return Schema.of_pictures(shape, levels, classes=classes, **extra)
    if source.raw.published and binarize == "static":
        raise ConfigError(f"binarize: {source.name} is binarised already; leave it out")
    if levels == 2:
        raise ConfigError(f"binarize: expected grey pictures, got 0/1 pictures ({source.name})")
    return Schema.of_pictures(shape, 2, grey=levels, binarization=binarize, binarization_seed=seed, classes=classes)


def _binarized(split: Split, schema: Schema, name: str) -> Split:
    """Grey pictures as the schema's binarisation wants them; others as they are."""
    if schema.levels != 2 or split.x.max(initial=0) <= 1:
        return split
    if schema.binarization == "dynamic" and name == "train":
        return replace(split, redraw=True)
    top = (schema.fields[0].grey or 256) - 1
    return replace(split, x=pictures.binarize(split.x, top, schema.binarization_seed, name))
