"""From one raw column to one canonical column, with the rows that could not be read and why.

A fault of some rows is returned, for the quarantine. A fault of the whole column, such as a wrong
type, is raised at once. Times have a module of their own.
"""

from dataclasses import dataclass

import polars as pl

from candidfeed.data.delimited import ROW
from candidfeed.data.sources import FILE, Wanted
from candidfeed.data.tables import POSITION
from candidfeed.errors import DataError

MAX_ID_BYTES = 1024
# Squares of it, summed over a log, still fit into a float32.
LARGEST_NUMBER = 1e12
LAST_POSITION = 10_000
_SHOWN_CHARACTERS = 80
_EXACT_FLOAT = 2.0**53
CANONICAL_INTEGER = r"^(?:0|-?[1-9][0-9]{0,18})$"


@dataclass(frozen=True)
class Column:
    """A raw column and where it came from.

    Attributes:
        name: what the file calls it.
        key: the key of the TOML file that names it (`events.value`).
        raw: the values as they came.
        files: the file of each value, Enum.
        rows: the 1-based line or row of each value, Int64.
    """

    name: str
    key: str
    raw: pl.Series
    files: pl.Series
    rows: pl.Series

    @classmethod
    def of(cls, frame: pl.DataFrame, wanted: Wanted) -> "Column":
        """One of the columns of a frame that `sources.read_source` made."""
        return cls(wanted.column, wanted.key, frame[wanted.role], frame[FILE], frame[ROW])

    def example(self, mask: pl.Series) -> str:
        """Where the first of the marked values stands, and what it is."""
        first = mask.arg_max() or 0
        return f"{place(self.files[first], self.rows[first])}: {show(self.raw[first])}"

    def fault(self, wrong: str, *, mask: pl.Series, mend: str) -> DataError:
        """A fault of the whole column."""
        return DataError(
            f"{self.files[0]}: column {self.name!r} ({self.key}) {wrong} "
            f"({self.example(mask)}); {mend}"
        )


@dataclass(frozen=True)
class Fault:
    """Rows that can't be used for one reason.

    Attributes:
        reason: for a person.
        bad: which rows, Boolean without nulls.
        received: what came in every row, of any type.
        quoted: whether text in `received` is shown in quotes.
    """

    reason: str
    bad: pl.Series
    received: pl.Series
    quoted: bool = True


@dataclass(frozen=True)
class Parsed:
    """The canonical values, null where a fault says so or where nothing came."""

    values: pl.Series
    faults: tuple[Fault, ...]


def show(value: object, *, quoted: bool = True) -> str:
    """A value for a person to read, cut short; quoted text has no control characters."""
    if value is None:
        return "(nothing)"
    plain = str(value.to_list() if isinstance(value, pl.Series) else value)
    text = repr(value) if quoted and isinstance(value, str) else plain
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}… ({len(plain):,} characters)"


def place(file: str, row: int) -> str:
    """Where to look: Parquet has rows, text has lines."""
    return f"{file}, {'row' if '.parquet' in file.lower() else 'line'} {row}"


def parse_ids(column: Column) -> Parsed:
    """Int64 where every usable id is an integer in its plain form, else String.

    "007" is no plain form: it and "7" are two ids.
    """
    raw = column.raw
    if raw.dtype.is_float():
        raw = _whole_floats(column)
    if raw.dtype.is_integer():
        whole = raw.cast(pl.Int64, strict=False)
        fits = whole.null_count() == raw.null_count()
        values = whole if fits else raw.cast(pl.String)
        empty = Fault(f"{column.name!r} is empty", raw.is_null(), column.raw)
        return Parsed(values, (empty,))
    text = as_text(column, what="ids are integers or text")
    is_empty = text.is_null() | (text.str.strip_chars() == "").fill_null(True)
    is_long = (text.str.len_bytes() > MAX_ID_BYTES).fill_null(False)
    faults = (
        Fault(f"{column.name!r} is empty", is_empty, column.raw),
        Fault(f"{column.name!r} is longer than {MAX_ID_BYTES:,} bytes", is_long, column.raw),
    )
    usable = text.filter(~(is_empty | is_long))
    if len(usable) and usable.str.contains(CANONICAL_INTEGER).all():
        values = text.cast(pl.Int64, strict=False)
        if values.filter(~(is_empty | is_long)).null_count() == 0:
            return Parsed(values, faults)
    return Parsed(text, faults)


def parse_names(column: Column, *, allowed: tuple[str, ...] | None) -> Parsed:
    """Names of event kinds, String."""
    text = as_text(column, what="kinds are names")
    is_empty = text.is_null() | (text == "").fill_null(True)
    faults = [Fault(f"{column.name!r} is empty", is_empty, column.raw)]
    if allowed is not None:
        unknown = ~text.is_in(list(allowed)).fill_null(True)
        faults.append(Fault(f"{column.name!r} is none of kinds", unknown, column.raw))
    return Parsed(text, tuple(faults))


def parse_numbers(
    column: Column, *, low: float | None, high: float | None, required: bool
) -> Parsed:
    """Float32. Bounds are inclusive; `required` makes an empty field a fault."""
    numbers = as_numbers(column)
    filled = column.raw.is_not_null()
    unread = filled & numbers.is_null()
    if filled.any() and unread.sum() == filled.sum():
        raise column.fault("should hold numbers, but none of its values is one", mask=unread, mend=(
            "name the right column, or write numbers with a decimal point"
        ))  # fmt: skip
    values = numbers.cast(pl.Float32, strict=False)
    wild = filled & ~values.is_finite().fill_null(True)
    huge = (numbers.abs() > LARGEST_NUMBER).fill_null(False)
    faults = [
        Fault(f"{column.name!r} is not a number", unread, column.raw),
        Fault(f"{column.name!r} is NaN or infinite", wild, column.raw),
        Fault(f"{column.name!r} is beyond {LARGEST_NUMBER:g} in size", huge, column.raw),
    ]
    if required:
        faults.append(Fault(f"{column.name!r} is empty", ~filled, column.raw))
    if low is not None:
        below = (numbers < low).fill_null(False)
        faults.append(Fault(f"{column.name!r} is less than {low:g}", below, column.raw))
    if high is not None:
        above = (numbers > high).fill_null(False)
        faults.append(Fault(f"{column.name!r} is greater than {high:g}", above, column.raw))
    return Parsed(values, tuple(faults))


def parse_positions(column: Column) -> Parsed:
    """Places of a list from 1, UInt16; an empty field is a place that is not known."""
    numbers = as_numbers(column)
    whole = (numbers == numbers.floor()) & (numbers >= 1) & (numbers <= LAST_POSITION)
    wrong = column.raw.is_not_null() & ~whole.fill_null(False)
    values = numbers.set(wrong, None).cast(POSITION, strict=False)
    why = f"{column.name!r} is no whole number from 1 to {LAST_POSITION:,}"
    return Parsed(values, (Fault(why, wrong, column.raw),))


def as_text(column: Column, *, what: str) -> pl.Series:
    dtype = column.raw.dtype
    if dtype in (pl.String, pl.Null) or dtype.is_integer():
        return column.raw.cast(pl.String)
    raise wrong_type(column, what)


def wrong_type(column: Column, what: str) -> DataError:
    return column.fault(
        f"has the wrong type, {column.raw.dtype}",
        mask=column.raw.is_not_null(),
        mend=f"{what}; name the right column or write it with another type",
    )


def _whole_floats(column: Column) -> pl.Series:
    """Integers that were stored as floats, as happens where some are missing."""
    numbers = column.raw.cast(pl.Float64).fill_nan(None)
    broken = ((numbers != numbers.floor()) | (numbers.abs() >= _EXACT_FLOAT)).fill_null(False)
    if broken.any():
        raise column.fault(
            "holds ids as floating-point numbers",
            mask=broken,
            mend="ids are integers or text; write them so",
        )
    return numbers.cast(pl.Int64)


def as_numbers(column: Column) -> pl.Series:
    """Float64, null where the text is no number."""
    dtype = column.raw.dtype
    if dtype == pl.String:
        return column.raw.str.strip_chars().cast(pl.Float64, strict=False)
    if dtype.is_numeric() or dtype == pl.Null:
        return column.raw.cast(pl.Float64, strict=False)
    raise wrong_type(column, "values are numbers")
