"""From a raw column of a users' or items' table to a canonical feature column, by its kind."""

from dataclasses import replace

import polars as pl

from candidfeed.config import FeatureConfig
from candidfeed.data.columns import Column, Parsed, parse_numbers, wrong_type
from candidfeed.data.times import parse_times

_WORD = r"[\p{L}\p{N}\p{M}]+(?:['\u2019][\p{L}\p{N}\p{M}]+)*"


def parse_feature(column: Column, config: FeatureConfig) -> Parsed:
    """The column as `data.tables.Dataset` wants it; what is missing stays null.

    Raises:
        DataError: the column's type can't hold a feature of this kind.
    """
    match config.kind:
        case "category":
            return Parsed(_as_category(column), ())
        case "tags":
            return Parsed(_as_tags(column, config.separator), ())
        case "text":
            return Parsed(words(_as_category(column)), ())
        case "number" | "bucket":
            return _as_number(column)
        case "time":
            return parse_times(
                column, unit=config.timestamp_unit, timezone=config.timezone, latest=None
            )


def words(text: pl.Series) -> pl.Series:
    """Lower-cased words in the order of the text, List(String); null where the text is."""
    return text.str.to_lowercase().str.extract_all(_WORD)


def _as_category(column: Column) -> pl.Series:
    dtype = column.raw.dtype
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise wrong_type(column, "category and text features hold one text or number a row")
    return column.raw.cast(pl.String)


def _as_tags(column: Column, separator: str) -> pl.Series:
    dtype = column.raw.dtype
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested() and dtype.inner != pl.Binary:
        tags = column.raw.cast(pl.List(pl.String))
    elif dtype in (pl.String, pl.Null):
        tags = column.raw.cast(pl.String).str.split(separator)
    else:
        raise wrong_type(column, "tags are lists, or text with a separator")
    cleaned = pl.element().str.strip_chars()
    return tags.list.eval(cleaned.filter(cleaned != ""))


def _as_number(column: Column) -> Parsed:
    """A feature that is NaN is missing, as it is in a table that pandas wrote."""
    raw = column.raw.cast(pl.Int8) if column.raw.dtype == pl.Boolean else column.raw
    if raw.dtype.is_float():
        raw = raw.fill_nan(None)
    elif raw.dtype == pl.String:
        raw = raw.set(raw.str.strip_chars().str.to_lowercase() == "nan", None)
    return parse_numbers(replace(column, raw=raw), low=None, high=None, required=False)
