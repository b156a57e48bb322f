"""What was shown, at which place, and what was done about it: what action heads learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.tables import Dataset, Label
from candidfeed.data.vocabulary import Vocabulary

UNKNOWN_POSITION = 0


@dataclass(frozen=True)
class Impressions:
    """Aligned columns, one entry an impression, by user and time.

    Attributes:
        user, item: rows, int32 [n].
        time_s: seconds since 1970 UTC, float64 [n].
        position: place of the list, from 1; UNKNOWN_POSITION where the log does not say, int32 [n].
        followed: how many events of each label followed, float32 [n, n_labels].
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_s: NDArray[np.float64]
    position: NDArray[np.int32]
    followed: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Impressions":
        return Impressions(
            self.user[rows], self.item[rows], self.time_s[rows], self.position[rows],
            self.followed[rows],
        )  # fmt: skip


def read_impressions(
    dataset: Dataset,
    users: Vocabulary,
    items: Vocabulary,
    *,
    from_s: float = -np.inf,
    until_s: float = np.inf,
) -> Impressions:
    """The impressions from one time to another, and what came of each.

    An event is put down to the impression that it names (`shown_at`), else to the last one of the
    same user and item that is not later, and not older than `dataset.attribution_s`. What lies at
    `until_s` or after is not read; an impression is left out where an event that belongs to it may
    lie there.

    Args:
        from_s, until_s: seconds since 1970 UTC; what is at `from_s` is in.
    """
    log = dataset.events.filter(_between(from_s, until_s))
    shown = _shown(log, dataset.shown_kind)
    settled = until_s - dataset.attribution_s
    shown = shown.filter(pl.col("timestamp") < _moment(settled)) if np.isfinite(settled) else shown
    window = timedelta(seconds=dataset.attribution_s)
    followed = np.zeros((len(shown), len(dataset.labels)), np.float32)
    for place, label in enumerate(dataset.labels):
        followed[:, place] = _counts(shown, log, label, window)
    order = np.lexsort((shown["timestamp"].to_numpy(), users.rows(shown["user_id"])))
    return Impressions(
        user=users.rows(shown["user_id"]),
        item=items.rows(shown["item_id"]),
        time_s=shown["timestamp"].dt.epoch("us").to_numpy() / 1e6,
        position=shown["position"].to_numpy().astype(np.int32),
        followed=followed,
    ).take(order)


def as_targets(followed: NDArray[np.float32], labels: Sequence[Label]) -> NDArray[np.float32]:
    """What heads predict, of counts [..., n_labels]: whether any came, or how many."""
    counted = np.array([label.counted for label in labels], bool)
    return np.where(counted, followed, followed > 0).astype(np.float32)


def _shown(log: pl.DataFrame, kind: str | None) -> pl.DataFrame:
    """Rows that say what was shown, with their place."""
    rows = log.filter(pl.col("kind") == kind) if kind is not None else log.clear()
    position = pl.lit(UNKNOWN_POSITION, pl.UInt16)
    if "position" in log.columns:
        position = pl.col("position").fill_null(UNKNOWN_POSITION)
    columns = rows.select("user_id", "item_id", "timestamp", position.alias("position"))
    return columns.sort("timestamp", maintain_order=True).with_row_index("row")


def _counts(
    shown: pl.DataFrame, log: pl.DataFrame, label: Label, window: timedelta
) -> NDArray[np.float32]:
    """How many events of the label belong to each impression, float32 [len(shown)]."""
    done = log.filter(pl.col("kind").is_in(label.kinds))
    # What was named is found at its own time.
    when = pl.coalesce("shown_at", "timestamp") if "shown_at" in log.columns else "timestamp"
    done = done.select("user_id", "item_id", timestamp=when).sort("timestamp")
    # In the order of time both; polars can't see it where groups are given.
    found = done.join_asof(
        shown.select("user_id", "item_id", "timestamp", "row"),
        on="timestamp", by=["user_id", "item_id"], strategy="backward", tolerance=window,
        check_sortedness=False,
    )  # fmt: skip
    rows = found["row"].drop_nulls().to_numpy()
    return np.bincount(rows, minlength=len(shown)).astype(np.float32)


def _between(from_s: float, until_s: float) -> pl.Expr:
    inside = pl.lit(True)
    if np.isfinite(from_s):
        inside &= pl.col("timestamp") >= _moment(from_s)
    if np.isfinite(until_s):
        inside &= pl.col("timestamp") < _moment(until_s)
    return inside


def _moment(time_s: float) -> pl.Expr:
    return pl.lit(datetime.fromtimestamp(time_s, UTC)).cast(pl.Datetime("us", "UTC"))
