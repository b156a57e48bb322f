"""What was put of users and items over HTTP, as JSON, to the columns of their tables."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from candidfeed.data.columns import LARGEST_NUMBER
from candidfeed.data.feature_columns import words
from candidfeed.data.tables import FeatureKind
from candidfeed.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = (str, int, float)


def parse_field(name: str, value: Any, kind: FeatureKind) -> Any:
    """One value as its column holds it (`data.tables.COLUMN_TYPES`); None where nothing came.

    Raises:
        DataError: it can't be a feature of this kind.
    """
    if value is None:
        return None
    parsed = _PARSERS[kind](value)
    if parsed is None:
        raise DataError(f"{name}: expected a {kind}, came {value!r}"[:200])
    return parsed


def _category(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, _PLAIN) else None


def _tags(value: Any) -> list[str] | None:
    tags = value if isinstance(value, list) else [value]
    if not all(isinstance(one, _PLAIN) for one in tags):
        return None
    return [tag for one in tags if (tag := (_category(one) or "").strip())]


def _text(value: Any) -> list[str] | None:
    if isinstance(value, list):
        return _tags(value)
    return words(pl.Series([value]))[0].to_list() if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, _PLAIN) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST_NUMBER else None


def _time(value: Any) -> datetime | None:
    """Seconds since 1970, or ISO 8601 text; without a zone it is UTC."""
    try:
        if isinstance(value, str):
            said = datetime.fromisoformat(value.strip())
            return said.replace(tzinfo=UTC) if said.tzinfo is None else said.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(seconds=value)
    except (ValueError, OverflowError):
        pass
    return None


_PARSERS: dict[FeatureKind, Any] = {
    "category": _category,
    "tags": _tags,
    "text": _text,
    "number": _number,
    "bucket": _number,
    "time": _time,
}
