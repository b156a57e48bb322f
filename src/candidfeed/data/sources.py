"""The files behind one `path` of the TOML file, as one frame of raw columns.

A path is a file, a folder or a glob. Each row keeps the file and the line (CSV, TSV) or the row
(Parquet) that it came from, so that a fault can be found again.
"""

import glob
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from candidfeed.config import suggest
from candidfeed.data.delimited import ROW, open_delimited, read_delimited
from candidfeed.data.memory import require_memory
from candidfeed.errors import DataError

FILE = "_file"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FORMATS = "CSV (.csv), TSV (.tsv) or Parquet (.parquet), each also gzipped (.gz)"
# Of the number of a row and of its file; how often the columns are held; of text for each byte.
_ROW_BYTES, _COPIES, _BYTES_OF_TEXT = 9, 1.6, 6
_LONGEST_HEADER = 2**16
_LESS_TO_READ = "read a part of the files, fewer columns, or use a larger machine"
# What a file really is, where its name says otherwise.
_SIGNATURES = {
    b"\x1f\x8b": "is gzip-compressed; name it with .gz at the end",
    b"PAR1": "is Parquet; name it .parquet",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook; save it as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "is zstd-compressed; decompress it first",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


@dataclass(frozen=True)
class Wanted:
    """A column to read: what we call it, what the file calls it, and the key that says so."""

    role: str
    column: str
    key: str


def read_source(pattern: str, *, folder: Path, wanted: list[Wanted]) -> pl.DataFrame:
    """All files of one `path`, one after the other in the order of their names.

    Args:
        pattern: a file, a folder or a glob, relative to `folder` or absolute.
        folder: where the TOML file is.
        wanted: the columns to read; nothing else is.

    Returns:
        `_file` (Enum), `_row` (Int64, 1-based line or row) and one raw column per role.

    Raises:
        DataError: no such file, an empty one, one that can't be read, a missing column, a column
            whose type differs between files, no row at all, or more than memory holds.
    """
    paths = _resolve(pattern, folder)
    needed = sum(needed_bytes(path, wanted) for path in paths)
    require_memory(needed, f"{pattern}: reading it", mend=_LESS_TO_READ)
    names = pl.Enum([_shown(path, folder) for path in paths])
    frames = [_read_file(path, _shown(path, folder), wanted, names) for path in paths]
    if not any(len(frame) for frame in frames):
        only = "has a header but no row" if len(frames) == 1 else "has no row in any of its files"
        raise DataError(f"{pattern}: {only}; nothing can be learned from it")
    frames = _alike(frames, wanted)
    return _one_below_the_other(frames)


def _one_below_the_other(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """All rows, a column at a time: whole frames beside their copy would take twice the memory.

    Takes the columns out of `frames`.
    """
    columns = []
    for name in frames[0].columns:
        parts = [frame.select(name) for frame in frames]
        frames[:] = [frame.drop(name) for frame in frames]
        columns.append(pl.concat(parts, how="vertical_relaxed", rechunk=True).to_series())
    return pl.DataFrame(columns)


def needed_bytes(path: Path, wanted: list[Wanted]) -> int:
    """Memory that reading a file takes at its peak; 0 where it can't be told.

    By measured peaks (docs/log.md). Long texts of Parquet, and gzip, take more.
    """
    if path.suffix.lower() != ".parquet":
        return int(_BYTES_OF_TEXT * path.stat().st_size * _share_of_columns(path, len(wanted)))
    try:
        table = pl.scan_parquet(path, glob=False)
        types = table.collect_schema()
        n_rows = table.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError):
        return 0
    known = [types[one.column] for one in wanted if one.column in types]
    is_wide = [not (one.is_numeric() or one.is_temporal()) for one in known]
    return int(_COPIES * n_rows * (_ROW_BYTES + sum(16 if wide else 8 for wide in is_wide)))


def _share_of_columns(path: Path, n_wanted: int) -> float:
    """Of a text file's columns those that are read; all where its first line does not tell."""
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        return 1.0
    with path.open("rb") as file:
        n_columns = file.readline(_LONGEST_HEADER).count(separator.encode()) + 1
    return min(1.0, n_wanted / n_columns)


def _resolve(pattern: str, folder: Path) -> list[Path]:
    path = folder / pattern
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_in(path, pattern)
    if path.exists():
        raise DataError(f"{pattern}: is no regular file; write it to a file first")
    if glob.has_magic(pattern):
        found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        files = [match for match in found if match.is_file()]
        if files:
            return files
        raise DataError(f"{pattern}: no file matches this pattern in {folder}")
    siblings = sorted(one.name for one in path.parent.glob("*")) if path.parent.is_dir() else []
    hint = suggest(path.name, siblings) if siblings else ""
    raise DataError(f"{pattern}: no such file or folder in {folder}{hint}")


def _files_in(path: Path, pattern: str) -> list[Path]:
    """Every file below a folder; names that begin with `_` or `.` are a writer's own notes."""
    files = []
    for one in sorted(path.rglob("*")):
        hidden = any(part.startswith(("_", ".")) for part in one.relative_to(path).parts)
        if one.is_file() and not hidden:
            files.append(one)
    if not files:
        raise DataError(f"{pattern}: the folder holds no file; expected {_FORMATS}")
    return files


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _read_file(path: Path, shown: str, wanted: list[Wanted], names: pl.Enum) -> pl.DataFrame:
    compressed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if compressed else path).suffix.lower()
    if suffix != ".parquet" and suffix not in _SEPARATORS:
        raise DataError(f"{shown}: can't tell its format from its name; expected {_FORMATS}")
    _check_start(path, shown, suffix=suffix, compressed=compressed)
    unpacked = _unpack(path, shown) if compressed else None
    if unpacked == b"":
        raise DataError(f"{shown}: is empty once unpacked; write the log to it first")
    if suffix == ".parquet":
        frame = _read_parquet(path, shown, wanted, unpacked=unpacked)
    else:
        frame = _read_text(path, shown, wanted, separator=_SEPARATORS[suffix], unpacked=unpacked)
    return frame.insert_column(0, pl.repeat(shown, len(frame), dtype=names, eager=True).alias(FILE))


def _check_start(path: Path, shown: str, *, suffix: str, compressed: bool) -> None:
    try:
        with path.open("rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise DataError(f"{shown}: can't be read ({error.strerror})") from error
    if not start:
        raise DataError(f"{shown}: is empty (0 bytes); write the log to it first")
    if compressed or suffix == ".parquet":
        return
    for signature, fault in _SIGNATURES.items():
        if start.startswith(signature):
            raise DataError(f"{shown}: {fault}")


def _unpack(path: Path, shown: str) -> bytes:
    """The whole content: gzip keeps its checksum at the end, so a cut file is noticed."""
    try:
        with gzip.open(path) as handle:
            return handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{shown}: can't be unpacked as gzip ({error}); copy it again") from error


def _read_text(
    path: Path, shown: str, wanted: list[Wanted], *, separator: str, unpacked: bytes | None
) -> pl.DataFrame:
    file = open_delimited(path, shown=shown, separator=separator, unpacked=unpacked)
    _check_columns(list(file.header), shown, wanted, separator=separator)
    table = read_delimited(file, sorted({one.column for one in wanted}))
    return table.select(ROW, *(pl.col(one.column).alias(one.role) for one in wanted))


def _read_parquet(
    path: Path, shown: str, wanted: list[Wanted], *, unpacked: bytes | None
) -> pl.DataFrame:
    try:
        table = pl.scan_parquet(path if unpacked is None else io.BytesIO(unpacked), glob=False)
        names = table.collect_schema().names()
        _check_columns(names, shown, wanted, separator=None)
        chosen = table.select(pl.col(one.column).alias(one.role) for one in wanted).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{shown}: can't be read as Parquet ({reason}); write it again") from error
    names_as_text = chosen.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    rows = names_as_text.with_columns(pl.col(pl.String).replace("", None))
    return rows.with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64))


def _check_columns(
    names: list[str], shown: str, wanted: list[Wanted], *, separator: str | None
) -> None:
    for one in wanted:
        if one.column not in names:
            hint = suggest(one.column, names)
            if separator is not None and len(names) == 1:
                hint += "; a .csv is separated by commas, a .tsv by tabs"
            raise DataError(f"{shown}: has no column {one.column!r} ({one.key}){hint}")
        if names.count(one.column) > 1:
            raise DataError(
                f"{shown}: column {one.column!r} ({one.key}) stands in the header "
                f"{names.count(one.column)} times; give each column its own name"
            )


def _alike(frames: list[pl.DataFrame], wanted: list[Wanted]) -> list[pl.DataFrame]:
    """The frames that have rows, once their column types are known to fit together."""
    filled = [frame for frame in frames if len(frame)]
    first = filled[0]
    for frame in filled[1:]:
        for one in wanted:
            ours, theirs = first.schema[one.role], frame.schema[one.role]
            numbers = ours.is_numeric() and theirs.is_numeric()
            if ours != theirs and not numbers and pl.Null not in (ours, theirs):
                raise DataError(
                    f"{frame[FILE][0]}: column {one.column!r} is {theirs}, but {ours} in "
                    f"{first[FILE][0]}; write all files with the same types"
                )
    return filled
