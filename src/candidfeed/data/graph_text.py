"""The text format of NGCF, LightGCN and most graph recommenders: one line a user.

A folder holds `train.txt`, perhaps `valid.txt`, and `test.txt`; each line is `user item item ...`,
integers with spaces between them. There are no times, no ratings and no features, and the split is
the folder's own.
"""

from pathlib import Path

import polars as pl

from candidfeed.data.checks import check_canonical, sift
from candidfeed.data.columns import Fault, place, show
from candidfeed.data.tables import TIME, Dataset
from candidfeed.errors import DataError

PARTS = ("train", "valid", "test")
INTERACTION = "interaction"
# Dense numbers are small; so a pair of them fits into one Int64.
_MAX_NUMBER = 2**31
_LINE = "a line is `user item item ...`: dense integers from 0, spaces between them"


def is_graph_text(folder: Path) -> bool:
    return (folder / "train.txt").is_file()


def read_graph_text(folder: Path) -> Dataset:
    """Read one folder; a user whose line names no item is kept as a user without events.

    A pair that stands again, in its line or in a later part, goes to quarantine: in the test part
    it would be a leak.

    Raises:
        DataError: `train.txt` or `test.txt` is missing or empty, or a line holds something that is
            no integer >= 0.
    """
    tokens = pl.concat(
        _read_part(folder / f"{part}.txt", part) for part in PARTS if _is_there(folder, part)
    )
    pairs = tokens.filter(pl.col("place") > 0)
    keep, quarantine = sift(pairs.select("file", "row"), _repeated(pairs))
    events = pairs.filter(keep).select(
        "user_id",
        "item_id",
        pl.lit(INTERACTION).alias("kind"),
        pl.lit(None, dtype=pl.Float32).alias("value"),
        pl.lit(None, dtype=TIME).alias("timestamp"),
        "part",
    )
    items = pairs.select(pl.col("item_id").unique().sort())
    return check_canonical(
        Dataset(
            name=folder.resolve().name,
            events=events,
            users=tokens.select(pl.col("user_id").unique().sort()),
            items=items.with_columns(pl.col("item_id").cast(pl.String).alias("title")),
            user_features=(),
            item_features=(),
            quarantine=quarantine,
            rows_read=len(pairs),
            max_bad_share=0.0,
            positive_kinds=(INTERACTION,),
            like_at=None,
        )
    )


def _is_there(folder: Path, part: str) -> bool:
    path = folder / f"{part}.txt"
    if path.is_file():
        return True
    if part == "valid":
        return False
    raise DataError(
        f"{path}: no such file; the folder needs train.txt and test.txt (valid.txt if there is one)"
    )


def _read_part(path: Path, part: str) -> pl.DataFrame:
    """One row a number of the file.

    Returns:
        `file`, `row` (1-based line), `place` in the line (0 is the user itself), `user_id`,
        `item_id` (the user's own number at place 0) and `part`.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text ({error.reason} at byte {error.start})") from error
    table = pl.DataFrame({"text": pl.Series(lines, dtype=pl.String)}).with_row_index("row", 1)
    numbers = (
        table.with_columns(pl.col("text").str.extract_all(r"\S+"))
        .filter(pl.col("text").list.len() > 0)
        .with_columns(pl.int_ranges(pl.col("text").list.len()).alias("place"))
        .explode("text", "place")
        .with_columns(pl.col("text").cast(pl.Int64, strict=False).alias("item_id"))
    )
    wrong = numbers.filter(~pl.col("item_id").is_between(0, _MAX_NUMBER - 1).fill_null(False))
    if len(wrong):
        first = wrong.row(0, named=True)
        raise DataError(
            f"{place(str(path), first['row'])}: {show(first['text'])} is no user or item number; "
            f"{_LINE}"
        )
    if not len(numbers):
        raise DataError(f"{path}: is empty; {_LINE}")
    return numbers.select(
        pl.lit(path.name).alias("file"),
        pl.col("row").cast(pl.Int64),
        "place",
        pl.col("item_id").first().over("row").alias("user_id"),
        "item_id",
        pl.lit(part).alias("part"),
    )


def _repeated(pairs: pl.DataFrame) -> tuple[Fault, ...]:
    """Each pair after its first: in the same part a duplicate, in a later one a leak."""
    pair = pairs["user_id"] * _MAX_NUMBER + pairs["item_id"]
    if pair.n_unique() == len(pair):
        return ()
    again = ~pair.is_first_distinct()
    first_part = pairs.select(pl.col("part").first().over(pair.alias("pair"))).to_series()
    received = pairs.select(
        pl.format("user {}, item {}", pl.col("user_id"), pl.col("item_id"))
    ).to_series()
    faults = [
        Fault(
            "the user's line names the item twice", again & (pairs["part"] == first_part), received
        )
    ]
    for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test")):
        leak = again & (first_part == earlier) & (pairs["part"] == later)
        reason = f"leak: {earlier}.txt has this user and item too"
        faults.append(Fault(reason, leak, received))
    return tuple(Fault(one.reason, one.bad, one.received, quoted=False) for one in faults)
