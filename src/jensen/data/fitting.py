"""New data made to fit the schema of a trained model, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from jensen.data import pictures, tables
from jensen.data.columns import encode
from jensen.data.raw import ALL
from jensen.data.schema import Schema
from jensen.data.sources import Source
from jensen.errors import DataError


def fit_pictures(x: Any, source: Source, schema: Schema) -> np.ndarray:
    """Pictures (N, C, H, W), or rows of a nameless table (N, C·H·W), checked against the schema.

    Raises:
        DataError: another shape, or other levels than the model, or its binarisation, takes.
    """
    where = f"{source.name}: as in training expected"
    if not isinstance(x, np.ndarray):
        if x.shape[1] != schema.dims or source.raw.named:
            alone = _alone((1, *x.shape), schema.event_shape)
            raise DataError(f"{where} pictures {schema.event_shape}, got a table of {x.shape[1]} columns{alone}")
        x = pictures.pictures({ALL: x.to_numpy().reshape(-1, *schema.event_shape)}).parts[ALL].x
        assert isinstance(x, np.ndarray)
    if source.raw.sound is not None:
        raise DataError(f"{where} pictures {schema.event_shape}, got clips of sound {x.shape[1:]}")
    if x.shape[1:] != schema.event_shape:
        alone = _alone((len(x), *x.shape[2:]), schema.event_shape)
        raise DataError(f"{where} pictures {schema.event_shape}, got {x.shape[1:]}{alone}")
    highest = (schema.fields[0].grey or schema.levels or 256) - 1
    whitest = int(x.max(initial=0))
    if whitest > highest or (whitest == 1 and schema.kind == "levels"):
        binary = "make them 0/1 first as in training, by a draw or as (x > 127).astype('uint8')"
        raise DataError(f"{where} values 0..{highest}, got 0..{whitest}{f'; {binary}' if highest == 1 else ''}")
    return x


def _alone(shape: tuple[int, ...], datum: tuple[int, ...]) -> str:
    """A hint where an array has the shape of one datum, channels of pictures first or last."""
    return "; one alone is x[None]" if shape in (datum, (*datum[1:], datum[0])) else ""


def fit_levels(x: Any, levels: int, source: Source) -> np.ndarray:
    """Pictures uint8 (N, C, H, W) with values 0..levels−1; files that show these from black to white are taken back.

    Raises:
        DataError: other values.
    """
    whitest = int(x.max(initial=0))
    if whitest < levels:
        return x
    step, rest = divmod(255, levels - 1)
    if rest == 0 and (x % step == 0).all():
        return x // step
    raise DataError(f"{source.name}: expected values 0..{levels - 1}, got 0..{whitest}")


def fit_sound(x: Any, source: Source, schema: Schema) -> np.ndarray:
    """Clips (N, T), or rows of a nameless table, checked against the schema; float32.

    Raises:
        DataError: another length or rate, or values beyond [-1, 1].
    """
    where, sound = f"{source.name}: as in training expected", source.raw.sound
    if not isinstance(x, np.ndarray):
        if x.shape[1] != schema.dims or source.raw.named:
            raise DataError(f"{where} clips of {schema.dims} samples, got a table of {x.shape[1]} columns")
        x = tables.values(x, source.name, source.line)
    elif sound is None:
        raise DataError(f"{where} clips of {schema.dims} samples, got pictures {x.shape[1:]}")
    elif x.shape[1:] != schema.event_shape or sound.rate != schema.fields[0].rate:
        was = f"{schema.dims} samples at {schema.fields[0].rate} Hz"
        raise DataError(f"{where} clips of {was}, got {x.shape[1]} at {sound.rate} Hz")
    highest = float(np.abs(x).max(initial=0))
    if not highest <= 1:
        raise DataError(f"{where} waveforms in [-1, 1], got values up to {highest:g}")
    return x.astype(np.float32)


def fit_table(x: Any, source: Source, schema: Schema, gaps: bool = False) -> np.ndarray:
    """The schema's columns of a table, by name; by position where the data have no names; float64 (N, D).

    Args:
        gaps: cells may be empty, and are NaN.

    Raises:
        DataError: columns are missing, or hold what the model cannot take.
    """
    if isinstance(x, np.ndarray):
        kind = "pictures" if source.raw.sound is None else "clips of sound"
        raise DataError(f"{source.name}: expected a table of {schema.dims} columns, got {kind} {x.shape[1:]}")
    missing = [name for name in schema.names if name not in x.columns]
    if missing and not source.raw.named and x.shape[1] == schema.dims:
        x = x.set_axis(schema.names, axis=1)
    elif missing and not source.raw.named:
        raise DataError(f"{source.name}: expected {schema.dims} columns as in training, got {x.shape[1]}")
    elif missing:
        raise DataError(f"{source.name}: columns missing that the model was trained on: {', '.join(missing)}")
    return encode(x, schema.fields, source, gaps or schema.gaps)
