"""The canonical tables: every reader makes a `Dataset`, everything else takes one."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

FeatureKind = Literal["category", "tags", "number", "bucket", "text", "time"]
TIME = pl.Datetime("us", "UTC")
POSITION = pl.UInt16()
EVENT_COLUMNS = ("user_id", "item_id", "kind", "value", "timestamp")
FURTHER_COLUMNS: dict[str, pl.DataType] = {
    "part": pl.String(),
    "position": POSITION,
    "propensity": pl.Float32(),
    "shown_at": TIME,
}
COLUMN_TYPES: dict[FeatureKind, pl.DataType] = {
    "category": pl.String(),
    "tags": pl.List(pl.String()),
    "text": pl.List(pl.String()),
    "number": pl.Float32(),
    "bucket": pl.Float32(),
    "time": TIME,
}


@dataclass(frozen=True)
class Feature:
    """One column that is known of users or of items.

    A sensitive feature is kept for audits and is not given to a model.
    """

    name: str
    kind: FeatureKind
    sensitive: bool = False


@dataclass(frozen=True)
class Label:
    """What a head of the ranker predicts of an impression.

    Attributes:
        kinds: events of these kinds that follow it are what happened.
        counted: whether their number is predicted, and not whether there is any.
        weight: in the published weighted sum that a list is ordered by.
    """

    name: str
    kinds: tuple[str, ...]
    counted: bool = False
    weight: float = 0.0


@dataclass(frozen=True)
class Dataset:
    """A log and what is known of its users and items, checked.

    Attributes:
        name: what the person typed (`ml-100k`, a folder's or a TOML file's name).
        events: `user_id`, `item_id` (Int64 or String), `kind` (String), `value` (Float32, null
            where the event carries none), `timestamp` (Datetime us UTC, all null where the log has
            no times), in the order of the source. Where the data set brings its own split there is
            a further column `part` with `train`, `valid` or `test`; where it says at which place of
            a list something was shown, `position` (UInt16 from 1, null where it is not known).
            What a service has logged adds `propensity` to what was shown (Float32, P(this item at
            this place), null where it is not known) and `shown_at` to what was done: when that was
            shown which it answers by name (null: put down by user, item and time).
        users: `user_id` and one column per entry of `user_features`; every user of `events` is in.
        items: `item_id`, `title` (String) and one column per entry of `item_features`; every item
            of `events` is in. Feature columns have the types in COLUMN_TYPES.
        quarantine: rows that can't be used: `file`, `row` (1-based line in the source), `reason`,
            `received` (all String but row).
        rows_read: rows of the event source, the quarantined ones included.
        max_bad_share: the share of quarantined rows up to which training goes on.
        kinds: those that events may have; any where there are none.
        values: the least and the greatest value that is right; None where there is no bound.
        positive_kinds: event kinds that count as a positive for retrieval and for top-k metrics.
        like_at: the least value at which an event counts as liked; None where values are not
            ratings.
        shown_kind: events of this kind say what was shown; None where the log does not.
        labels: what is to be predicted of an impression.
        attribution_s: how many seconds after an impression an event is put down to it.
        licence: terms that the person is told once; empty where there are none.
    """

    name: str
    events: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    user_features: tuple[Feature, ...]
    item_features: tuple[Feature, ...]
    quarantine: pl.DataFrame
    rows_read: int
    max_bad_share: float
    positive_kinds: tuple[str, ...]
    like_at: float | None
    shown_kind: str | None = None
    labels: tuple[Label, ...] = ()
    attribution_s: float = 3600.0
    kinds: tuple[str, ...] = ()
    values: tuple[float | None, float | None] = (None, None)
    licence: str = ""

    @property
    def has_times(self) -> bool:
        return self.events["timestamp"].null_count() == 0 and len(self.events) > 0

    @property
    def has_ratings(self) -> bool:
        return self.like_at is not None

    @property
    def has_given_split(self) -> bool:
        return "part" in self.events.columns
