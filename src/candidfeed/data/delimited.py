"""CSV and TSV text, read exactly: every line is accounted for, with its line number.

Polars reads a short line as nulls and stumbles over a stray quote, so the structure is checked here
first. A file without quoted fields (most logs) is checked with NumPy and parsed by Polars; one with
quoted fields goes through the csv module, which knows on which line a record starts.
"""

import csv
import io
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.errors import DataError

ROW = "_row"
_CHUNK_BYTES = 16 * 1024 * 1024
_BATCH_RECORDS = 50_000
_BOM = b"\xef\xbb\xbf"

Content = bytes | mmap.mmap


@dataclass(frozen=True)
class DelimitedFile:
    """The text of one file and what its header names.

    Attributes:
        shown: what error messages call the file.
        path: where it is.
        content: the bytes, decompressed; mapped where they lie on disk as they are.
        separator: one ASCII character.
        header: names of the columns, in order.
        quoted: whether some field begins with a quote.
    """

    shown: str
    path: Path
    content: Content
    separator: str
    header: tuple[str, ...]
    quoted: bool


def open_delimited(
    path: Path, *, shown: str, separator: str, unpacked: bytes | None
) -> DelimitedFile:
    """Look at a file's first line without reading the rest.

    Args:
        path: the file; not opened again where `unpacked` has its decompressed content.
        shown: what error messages call it.
        separator: "," or a tab.
        unpacked: the content, where it had to be decompressed.

    Raises:
        DataError: the file is empty, is no UTF-8 text, or its header can't be read.
    """
    content = unpacked if unpacked is not None else _map(path, shown)
    if "\n" not in (text := _start(content)) and "\r" in text and content.find(b"\n") < 0:
        raise DataError(f"{shown}: its lines end in bare carriage returns; save it with line feeds")
    quote = re.compile(rb'(?:\A(?:\xef\xbb\xbf)?|[\n%b])"' % separator.encode())
    quoted = content.find(b'"') >= 0 and quote.search(content) is not None
    file = DelimitedFile(shown, path, content, separator, header=(), quoted=quoted)
    _, header = next(_records(file), (0, []))
    if not any(name.strip() for name in header):
        raise DataError(f"{shown}: has no header line; the first line should name the columns")
    return replace(file, header=tuple(header))


def read_delimited(file: DelimitedFile, columns: list[str]) -> pl.DataFrame:
    """The columns as text, one row a record, in file order.

    Returns:
        `_row` (Int64, the 1-based line on which the record starts; blank lines are skipped but
        counted) and each of `columns` (String; null where the field is empty).

    Raises:
        DataError: a line has too many or too few fields, a quote is not closed, or the text is
            not UTF-8; with the line number.
    """
    frame = _read_quoted(file, columns) if file.quoted else _read_plain(file, columns)
    return frame.with_columns(pl.col(columns).replace("", None))


def _map(path: Path, shown: str) -> Content:
    try:
        with path.open("rb") as handle:
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{shown}: can't be read ({error.strerror})") from error


def _start(content: Content) -> str:
    return bytes(content[:4096]).decode("utf-8", errors="replace")


def _read_plain(file: DelimitedFile, columns: list[str]) -> pl.DataFrame:
    lines = _line_numbers(file)
    source: Path | IO[bytes] = file.path
    if isinstance(file.content, bytes):
        source = io.BytesIO(file.content)
    if len(lines) != lines[-1]:
        kept = (line for line in bytes(file.content).split(b"\n") if line.strip(b"\r"))
        source = io.BytesIO(b"\n".join(kept))
    # By position: two columns of the same name must not stop the ones that are asked for.
    places = {column: f"c{file.header.index(column)}" for column in columns}
    table = pl.scan_csv(
        source,
        separator=file.separator,
        quote_char=None,
        glob=False,
        infer_schema=False,
        new_columns=[f"c{place}" for place in range(len(file.header))],
    )
    frame = table.select(pl.col(place).alias(column) for column, place in places.items()).collect()
    if len(frame) != len(lines) - 1:
        raise DataError(
            f"{file.shown}: {len(lines) - 1:,} lines were counted but {len(frame):,} rows came "
            "out; save the file anew as plain UTF-8 text with line feeds"
        )
    return frame.insert_column(0, pl.Series(ROW, lines[1:], dtype=pl.Int64))


def _line_numbers(file: DelimitedFile) -> NDArray[np.int64]:
    """1-based numbers of the lines that are not blank, the header's first; each line is checked."""
    numbers = []
    n_before = 0
    for chunk in _chunks(file.content):
        _check_text(chunk, file.shown, n_before)
        lengths, n_separators = _measure(np.frombuffer(chunk, np.uint8), ord(file.separator))
        filled = lengths > 0
        wrong = np.flatnonzero(filled & (n_separators != len(file.header) - 1))
        if len(wrong):
            raise _ragged(file, n_before + int(wrong[0]) + 1, int(n_separators[wrong[0]]) + 1)
        numbers.append(np.flatnonzero(filled) + n_before + 1)
        n_before += len(lengths)
    return np.concatenate(numbers).astype(np.int64)


def _chunks(content: Content) -> Iterator[bytes]:
    """The content in pieces that end where a line ends."""
    start = len(_BOM) if content[: len(_BOM)] == _BOM else 0
    while start < len(content):
        end = content.find(b"\n", min(start + _CHUNK_BYTES, len(content)))
        end = len(content) if end < 0 else end + 1
        yield bytes(content[start:end])
        start = end


def _measure(
    text: NDArray[np.uint8], separator: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each line's length in bytes without its line end, and how many separators it has."""
    ends = np.flatnonzero(text == ord("\n"))
    if not len(ends) or ends[-1] != len(text) - 1:
        ends = np.append(ends, len(text))
    starts = np.concatenate(([0], ends[:-1] + 1))
    carriage_return = (ends > starts) & (text[np.maximum(ends - 1, 0)] == ord("\r"))
    places = np.flatnonzero(text == separator)
    n_separators = np.searchsorted(places, ends) - np.searchsorted(places, starts)
    return ends - starts - carriage_return, n_separators


def _check_text(chunk: bytes, shown: str, n_before: int) -> None:
    try:
        chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        line = n_before + chunk.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown}, line {line}: is not UTF-8 text ({error.object[error.start : error.end]!r}); "
            "save the file as UTF-8"
        ) from error


def _read_quoted(file: DelimitedFile, columns: list[str]) -> pl.DataFrame:
    places = [file.header.index(column) for column in columns]
    schema = {ROW: pl.Int64} | dict.fromkeys(columns, pl.String)
    batches = [pl.DataFrame(schema=schema)]
    rows: list[tuple[int | str, ...]] = []
    records = _records(file)
    next(records)
    for line, record in records:
        if len(record) != len(file.header):
            raise _ragged(file, line, len(record))
        rows.append((line, *(record[place] for place in places)))
        if len(rows) == _BATCH_RECORDS:
            batches.append(pl.DataFrame(rows, schema=schema, orient="row"))
            rows = []
    batches.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(batches)


def _records(file: DelimitedFile) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line on which it starts."""
    binary = io.BytesIO(file.content) if isinstance(file.content, bytes) else file.path.open("rb")
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    quoting = csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE
    reader = csv.reader(text, delimiter=file.separator, quoting=quoting, strict=file.quoted)
    line = 1
    try:
        with text:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file.shown}, line {line}: can't be read ({error}); "
            "write a quote inside a quoted field as two quotes"
        ) from error
    except UnicodeDecodeError as error:
        _check_text(bytes(file.content), file.shown, 0)
        raise DataError(f"{file.shown}: is not UTF-8 text; save it as UTF-8") from error


def _ragged(file: DelimitedFile, line: int, n_fields: int) -> DataError:
    separator = "tab" if file.separator == "\t" else "comma"
    return DataError(
        f"{file.shown}, line {line}: has {n_fields} field{'s' * (n_fields != 1)}, but the header "
        f"has {len(file.header)}; mend the line, or quote a field that holds a {separator}"
    )
