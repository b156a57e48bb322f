"""From numbers, ISO 8601 text, dates or datetimes to UTC.

Times without a zone, numbers without a unit, and milliseconds that were called seconds are faults
of the whole column, raised at once; a single time that makes no sense is a fault of its row.
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from candidfeed.config import TimestampUnit
from candidfeed.data.columns import Column, Fault, Parsed, as_numbers, as_text, wrong_type
from candidfeed.data.tables import TIME

_MICROSECONDS: dict[TimestampUnit, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
_END_OF_9999_US = 253_402_214_400_000_000
_START_OF_YEAR_1_US = -62_135_596_800_000_000
_CALENDAR = pl.Series([_START_OF_YEAR_1_US, _END_OF_9999_US]).cast(TIME)
# A log of a recommender is younger than this; earlier median times betray a wrong unit.
_PLAUSIBLE_FROM = datetime(1990, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO_TIME = (
    r"^\s*(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2})(:\d{2})?([.,]\d{1,9})?)?"
    r"\s*(Z|z|UTC|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)?\s*$"
)


def parse_times(
    column: Column,
    *,
    unit: TimestampUnit | None,
    timezone: str | None,
    latest: datetime | None,
) -> Parsed:
    """Datetime us UTC.

    Args:
        column: numbers, ISO 8601 text, dates or datetimes.
        unit: of numbers.
        timezone: where a clock without a zone stood. An hour that the clock shows twice is its
            first; one that it skips is a fault.
        latest: for the times of events: none may be later, or before 1970. None for other times,
            which may be any.
    """
    numbers = _as_time_numbers(column, unit)
    if numbers is not None and unit is not None:
        if latest is not None:
            _check_unit(column, numbers, unit, latest)
        micros = _to_microseconds(column.raw, numbers, _MICROSECONDS[unit])
        values = micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif unit is not None:
        raise column.fault(
            f"does not hold numbers, but timestamp_unit = {unit!r} is stated",
            mask=column.raw.is_not_null(),
            mend="drop timestamp_unit",
        )
    elif column.raw.dtype.is_temporal():
        values = _from_datetimes(column, timezone)
    else:
        values = _from_text(column, timezone)
    return _with_time_faults(column, values, latest)


def _as_time_numbers(column: Column, unit: TimestampUnit | None) -> pl.Series | None:
    """Float64 where the column holds numbers, else None."""
    raw = column.raw
    if raw.dtype == pl.Null or not (raw.dtype.is_numeric() or raw.dtype == pl.String):
        return None
    numbers = as_numbers(column)
    is_number = numbers.is_not_null()
    if not is_number.any() or (unit is None and is_number.sum() < raw.is_not_null().sum()):
        return None
    if unit is None:
        example = float(numbers.drop_nulls()[0])
        likely = _likely_unit(example, latest=None) or "s"
        raise column.fault(
            "holds times as numbers without a unit",
            mask=is_number,
            mend=f'state timestamp_unit = "{likely}"{_meaning(example, likely)}',
        )
    return numbers


def _check_unit(column: Column, numbers: pl.Series, unit: TimestampUnit, latest: datetime) -> None:
    """Refuse a unit under which most times make no sense while another fits."""
    finite = numbers.filter(numbers.is_finite().fill_null(False))
    median = finite.median()
    if not isinstance(median, float) or _plausible(median, unit, latest):
        return
    likely = _likely_unit(median, latest)
    if likely is None:
        return
    is_number = numbers.is_finite().fill_null(False)
    example = float(finite[0])
    raise column.fault(
        f"is not in {unit!r}: {example:.0f} would be {_year(example, unit)}",
        mask=is_number,
        mend=f'state timestamp_unit = "{likely}"{_meaning(example, likely)}',
    )


def _likely_unit(number: float, latest: datetime | None) -> TimestampUnit | None:
    for unit in _MICROSECONDS:
        if _plausible(number, unit, latest):
            return unit
    return None


def _plausible(number: float, unit: TimestampUnit, latest: datetime | None) -> bool:
    seconds = number * _MICROSECONDS[unit] / 1e6
    end = latest.timestamp() if latest is not None else 4e9
    return _PLAUSIBLE_FROM.timestamp() <= seconds <= end


def _meaning(number: float, unit: TimestampUnit) -> str:
    if not _plausible(number, unit, None):
        return ""
    moment = _EPOCH + timedelta(microseconds=number * _MICROSECONDS[unit])
    return f" ({number:.0f} would be {moment:%Y-%m-%d})"


def _year(number: float, unit: TimestampUnit) -> str:
    years = number * _MICROSECONDS[unit] / 1e6 / 31_556_952
    return f"in the year {1970 + years:.0f}"


def _to_microseconds(raw: pl.Series, numbers: pl.Series, factor: int) -> pl.Series:
    """Int64, null where there is no finite number; the calendar's end where it is beyond it."""
    rough = numbers * factor
    rounded = rough.clip(_START_OF_YEAR_1_US, _END_OF_9999_US).round().cast(pl.Int64, strict=False)
    text = raw.str.strip_chars() if raw.dtype == pl.String else raw
    whole = pl.lit(None) if raw.dtype.is_float() else text.cast(pl.Int64, strict=False)
    # Beyond 2**53 a float is not exact to the microsecond; an integer is.
    exact = (rough > _START_OF_YEAR_1_US) & (rough < _END_OF_9999_US)
    return pl.select(
        pl.when(numbers.is_finite()).then(
            pl.coalesce(pl.when(exact).then(whole).cast(pl.Int64) * factor, rounded)
        )
    ).to_series()


def _from_datetimes(column: Column, timezone: str | None) -> pl.Series:
    dtype = column.raw.dtype
    if dtype not in (pl.Date, pl.Datetime):
        raise wrong_type(column, "times are dates, datetimes, numbers or ISO 8601 text")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return column.raw.dt.convert_time_zone("UTC").cast(TIME)
    clock = column.raw.cast(pl.Datetime("us"))
    return _at_zone(column, clock, column.raw.is_not_null(), timezone)


def _from_text(column: Column, timezone: str | None) -> pl.Series:
    text = as_text(column, what="times are dates, datetimes, numbers or ISO 8601 text")
    parts = text.str.extract_groups(_ISO_TIME).struct.unnest()
    date, minutes, seconds, fraction, zone = (parts.to_series(i) for i in range(5))
    clock = (
        date
        + "T"
        + minutes.fill_null("00:00")
        + seconds.fill_null(":00")
        + fraction.fill_null("").str.replace(",", ".", literal=True)
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    filled = text.is_not_null()
    if filled.any() and clock.is_null().all():
        raise column.fault(
            "should hold times, but none of its values is one",
            mask=filled,
            mend="write numbers, or ISO 8601 such as 2024-05-01T12:00:00Z",
        )
    zoned = (clock.dt.replace_time_zone("UTC") - _offsets(zone)).cast(TIME)
    zoneless = clock.is_not_null() & zone.is_null()
    if not zoneless.any():
        return zoned
    stated = _at_zone(column, clock, zoneless, timezone)
    return pl.select(pl.when(zoneless).then(stated).otherwise(zoned)).to_series()


def _offsets(zone: pl.Series) -> pl.Series:
    """What each `Z` or `+02:00` is ahead of UTC, Duration; zero where there is none."""
    parts = zone.str.extract_groups(r"^([+-])(\d{2}):?(\d{2})?$").struct.unnest()
    sign = pl.select(pl.when(parts.to_series(0) == "-").then(-1).otherwise(1)).to_series()
    hours = parts.to_series(1).cast(pl.Int64).fill_null(0)
    minutes = parts.to_series(2).cast(pl.Int64).fill_null(0)
    return (sign * (hours * 60 + minutes) * 60_000_000).cast(pl.Duration("us"))


def _at_zone(
    column: Column, clock: pl.Series, zoneless: pl.Series, timezone: str | None
) -> pl.Series:
    if timezone is None and zoneless.any():
        table = column.key.rpartition(".")[0]
        raise column.fault(
            "holds times without a zone",
            mask=zoneless,
            mend=f'store UTC, or state timezone = "UTC" (or where the clock stood) under [{table}]',
        )
    placed = clock.dt.replace_time_zone(
        timezone or "UTC", ambiguous="earliest", non_existent="null"
    )
    return placed.dt.convert_time_zone("UTC").cast(TIME)


def _with_time_faults(column: Column, values: pl.Series, latest: datetime | None) -> Parsed:
    filled = column.raw.is_not_null()
    unread = filled & values.is_null()
    if latest is None:
        beyond = ((values == _CALENDAR[0]) | (values == _CALENDAR[1])).fill_null(False)
        return Parsed(
            values, (Fault(f"{column.name!r} is not a time", unread | beyond, column.raw),)
        )
    early = (values < pl.Series([_EPOCH], dtype=TIME)).fill_null(False)
    late = (values > pl.Series([latest], dtype=TIME)).fill_null(False)
    faults = (
        Fault(f"{column.name!r} is empty", ~filled, column.raw),
        Fault(f"{column.name!r} is not a time", unread, column.raw),
        Fault(f"{column.name!r} is before 1970", early, column.raw),
        Fault(f"{column.name!r} is in the future", late, column.raw),
    )
    return Parsed(values, faults)
