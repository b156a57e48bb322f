"""A data set and what a service has logged since, as one data set.

What was answered becomes impressions, what was sent becomes events, what was put stands in the
tables; whoever was erased and whatever was deleted is in none of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl

from candidfeed.data.checks import check_canonical
from candidfeed.data.columns import CANONICAL_INTEGER, LARGEST_NUMBER
from candidfeed.data.files import CLOCK_SKEW
from candidfeed.data.put_fields import parse_field
from candidfeed.data.tables import (
    COLUMN_TYPES,
    EVENT_COLUMNS,
    FURTHER_COLUMNS,
    TIME,
    Dataset,
    Feature,
)
from candidfeed.errors import DataError
from candidfeed.release.store_log import StoreLog
from candidfeed.store.records import Change

# An event is one that the log has already where these agree.
_KEY: Final = ("user_id", "item_id", "kind", "timestamp")
_TITLE: Final = Feature("title", "category")
# Whether an event is put down to an impression of the store.
_ANSWERS: Final = "answers"
# A float holds every whole microsecond up to here, and a calendar every such day.
_LAST_S: Final = 2.0**33


@dataclass
class Joined:
    """The data set that a release is made of, and what became of what the store held.

    Attributes:
        n_events, n_impressions: of the store, that are in the data set.
        n_answered: of those events, how many are put down to one of those impressions.
        n_erased: users of the data set who were erased; with their events they are not in it.
        n_put_items, n_put_users, n_deleted: changed or added, and taken out.
        left_out: by reason, how many rows and the first of them.
        notes: what a person should know, a line each.
    """

    dataset: Dataset
    n_events: int = 0
    n_impressions: int = 0
    n_answered: int = 0
    n_erased: int = 0
    n_put_items: int = 0
    n_put_users: int = 0
    n_deleted: int = 0
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, rows: pl.DataFrame, bad: pl.Expr, reason: str, told: str) -> pl.DataFrame:
        """The rows that are not bad; the others are counted, the first told by its column."""
        return self.divide(rows, bad, reason, told)[0]

    def divide(
        self, rows: pl.DataFrame, bad: pl.Expr, reason: str, told: str
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows that are not bad, and those that are."""
        is_bad = rows.select(bad.fill_null(False).alias("bad"))["bad"]
        found = rows.filter(is_bad)
        if len(found):
            n, first = self.left_out.get(reason, (0, f"{told} {found[told][0]!r}"))
            self.left_out[reason] = (n + len(found), first)
        return rows.filter(~is_bad), found


def join_store(
    dataset: Dataset,
    log: StoreLog,
    *,
    erased_of: Callable[[Iterable[str]], set[str]],
    now: datetime,
) -> Joined:
    """One data set of both.

    An event answers the impression that it names by request and position; else, as in any log, it
    is put down to the latest impression of the same user and item. Either way it must come within
    `dataset.attribution_s`. What was shown later than that before `now` is left out, for what
    follows it may be still to come.

    Args:
        erased_of: which of these users were erased.
        now: events later than a day after it are left out.

    Raises:
        DataError: the two can't be one data set.
    """
    found = Joined(dataset)
    _leave_erased(found, log, erased_of)
    _put_items(found, log.items)
    _put_users(found, log.users)
    events = _usable(found, _timed(log.events), now)
    shown = _usable(found, _timed(log.shown), now, what="impression")
    shown = _impressions(found, shown, now)
    events = _known_kinds(found, events)
    if len(shown):
        events = _answers(found, events, shown)
    rows = pl.concat([_as_events(found.dataset, shown), events], how="diagonal")
    _append(found, _new_rows(found, rows))
    found.dataset = check_canonical(found.dataset)
    return found


# Who and what there is


def _leave_erased(
    found: Joined, log: StoreLog, erased_of: Callable[[Iterable[str]], set[str]]
) -> None:
    dataset = found.dataset
    erased = erased_of(dataset.users["user_id"].cast(pl.String).to_list())
    if not erased:
        return
    is_erased = _text("user_id").is_in(list(erased))
    found.n_erased = len(erased)
    found.dataset = replace(
        dataset, users=dataset.users.filter(~is_erased), events=dataset.events.filter(~is_erased)
    )


def _put_items(found: Joined, changes: Sequence[Change]) -> None:
    dataset = found.dataset
    deleted = [one.id for one in changes if one.fields is None]
    put = {one.id: one.fields for one in changes if one.id and one.fields is not None}
    found.n_put_items, found.n_deleted = len(put), len(deleted)
    is_deleted = _text("item_id").is_in(deleted)
    # Their events go too: an item that an event names is one that a release may show.
    events, items = (one.filter(~is_deleted) for one in (dataset.events, dataset.items))
    features = (_TITLE, *dataset.item_features)
    events, items = _with_put(found, events, items, put, "item_id", features)
    titles = pl.col("title").fill_null(_text("item_id"))
    found.dataset = replace(dataset, events=events, items=items.with_columns(titles))


def _put_users(found: Joined, changes: Sequence[Change]) -> None:
    dataset = found.dataset
    put = {one.id: one.fields for one in changes if one.id and one.fields is not None}
    found.n_put_users = len(put)
    events, users = _with_put(
        found, dataset.events, dataset.users, put, "user_id", dataset.user_features
    )
    found.dataset = replace(dataset, events=events, users=users)


def _with_put(
    found: Joined,
    events: pl.DataFrame,
    table: pl.DataFrame,
    put: Mapping[str, Mapping[str, Any]],
    key: str,
    features: Sequence[Feature],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table with what was put, and the log with the same type of ids.

    What was put replaces the whole row where it names a column; else it says nothing of them.
    """
    if not put:
        return events, table
    names = {one.name for one in features}
    there = set(table[key].cast(pl.String))
    said = {one: fields for one, fields in put.items() if names & fields.keys() or one not in there}
    new = _rows_of(found, said, key, features)
    events, table, new = _one_id_type(key, events, table, new)
    return events, pl.concat([table.join(new, on=key, how="anti", maintain_order="left"), new])


def _rows_of(
    found: Joined, put: Mapping[str, Mapping[str, Any]], key: str, features: Sequence[Feature]
) -> pl.DataFrame:
    def value(feature: Feature, fields: Mapping[str, Any]) -> Any:
        try:
            return parse_field(feature.name, fields.get(feature.name), feature.kind)
        except DataError as error:
            reason = f"a field of this kind can't be read: {feature.name} ({feature.kind})"
            n, first = found.left_out.get(reason, (0, str(error)))
            found.left_out[reason] = (n + 1, first)
            return None

    for fields in put.values():
        for name in fields.keys() - {one.name for one in features}:
            reason = f"a field that is no column of the data set: {name}"
            n, first = found.left_out.get(reason, (0, name))
            found.left_out[reason] = (n + 1, first)
    columns = {
        one.name: pl.Series(
            [value(one, fields) for fields in put.values()], dtype=COLUMN_TYPES[one.kind]
        )
        for one in features
    }
    return pl.DataFrame({key: pl.Series(list(put), dtype=pl.String), **columns})


def _one_id_type(key: str, *frames: pl.DataFrame) -> tuple[pl.DataFrame, ...]:
    """Integers where all ids of all frames are, else text."""
    if any(one.schema[key] == pl.Int64 for one in frames) and all(
        one.schema[key] == pl.Int64 or _are_integers(one[key]) for one in frames
    ):
        return tuple(one.with_columns(pl.col(key).cast(pl.Int64)) for one in frames)
    return tuple(one.with_columns(_text(key)) for one in frames)


def _are_integers(ids: pl.Series) -> bool:
    plain = ids.str.contains(CANONICAL_INTEGER)
    return bool(plain.all()) and not ids.cast(pl.Int64, strict=False).null_count()


def _text(key: str) -> pl.Expr:
    return pl.col(key).cast(pl.String)


# What happened


def _timed(rows: pl.DataFrame) -> pl.DataFrame:
    plain = pl.col("time_s").is_between(0.0, _LAST_S)
    micros = pl.when(plain).then((pl.col("time_s") * 1e6).round().cast(pl.Int64))
    return rows.with_columns(micros.cast(TIME).alias("timestamp"))


def _usable(
    found: Joined, rows: pl.DataFrame, now: datetime, *, what: str = "event"
) -> pl.DataFrame:
    """Rows whose time and item can be: items are those of the data set and those that were put."""
    latest = now + CLOCK_SKEW
    known = found.dataset.items["item_id"].cast(pl.String).implode()
    early, late = f"an {what} before 1970", f"an {what} later than a day from now"
    strange = f"an {what} about an item that the data set does not have and that was not put"
    rows = found.leave_out(rows, pl.col("time_s") < 0, early, "time_s")
    rows = found.leave_out(rows, ~(pl.col("timestamp") <= latest).fill_null(False), late, "time_s")
    return found.leave_out(rows, ~pl.col("item_id").is_in(known), strange, "item_id")


def _known_kinds(found: Joined, events: pl.DataFrame) -> pl.DataFrame:
    """Events of a kind that the data set knows, with values as it has them."""
    dataset = found.dataset
    kinds = _kinds(dataset)
    low, high = dataset.values
    events = found.leave_out(
        events, ~pl.col("kind").is_in(kinds),
        "an event of a kind that is no positive, no label and not in the data set's log"
        " (`kinds` and `positive` under [events] name them)", "kind",
    )  # fmt: skip
    beyond = pl.col("value").abs() > LARGEST_NUMBER
    if low is not None:
        beyond |= pl.col("value") < low
    if high is not None:
        beyond |= pl.col("value") > high
    events = found.leave_out(events, beyond, "an event whose value is out of bounds", "value")
    log = dataset.events["value"]
    if dataset.has_ratings and len(log) and not log.null_count():
        why = "an event without a value, which all of the data set's log have"
        events = found.leave_out(events, pl.col("value").is_null(), why, "kind")
    return events


def _kinds(dataset: Dataset) -> list[str]:
    if dataset.kinds:
        return list(dataset.kinds)
    named = {one for label in dataset.labels for one in label.kinds} | set(dataset.positive_kinds)
    if dataset.shown_kind is not None:
        named.add(dataset.shown_kind)
    return sorted(named | set(dataset.events["kind"].unique()))


def _impressions(found: Joined, shown: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Those that can be learned from, of one user, item and time once."""
    dataset = found.dataset
    if not len(shown):
        return shown
    if dataset.shown_kind is None or not _keeps_times(dataset):
        found.notes.append(
            f"{len(shown):,} places of slates are no impressions, for the data set does not say"
            " what was shown; declare `shown`, `timestamp` and labels to learn from them"
            " (docs/data.md)"
        )
        return shown.clear()
    if not dataset.labels:
        found.notes.append(
            "what was shown is joined and nothing is learned of it: no [labels.NAME] are declared"
            " (docs/data.md)"
        )
    settled = now - timedelta(seconds=dataset.attribution_s)
    early = "an impression whose feedback may be still to come"
    shown = found.leave_out(shown, pl.col("timestamp") > settled, early, "timestamp")
    return shown.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)


def _answers(found: Joined, events: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """The events with the time of the impression that each names (`shown_at`).

    Of those that say only that something was shown, the ones that name or follow an impression are
    that same one.
    """
    dataset = found.dataset
    window = timedelta(seconds=dataset.attribution_s)
    named = shown.select(
        "request_id", "position", pl.col("user_id").alias("to"), pl.col("item_id").alias("of"),
        pl.col("timestamp").alias("shown_at"),
    )  # fmt: skip
    is_answer = (
        (pl.col("to") == pl.col("user_id"))
        & (pl.col("of") == pl.col("item_id"))
        & (pl.col("timestamp") <= pl.col("shown_at") + window)
    )
    events = events.join(
        named, on=["request_id", "position"], how="left", maintain_order="left"
    ).with_columns(pl.when(is_answer).then("shown_at").alias("shown_at"))
    when = pl.coalesce("shown_at", "timestamp").alias("when")
    events = events.with_columns(when).with_row_index("row").sort("when")
    # In the order of time both; polars can't see it where groups are given.
    events = events.join_asof(
        shown.select("user_id", "item_id", pl.col("timestamp").alias("last")).sort("last"),
        left_on="when", right_on="last", by=["user_id", "item_id"], strategy="backward",
        tolerance=window, check_sortedness=False, coalesce=False,
    ).sort("row")  # fmt: skip
    is_shown = pl.col("kind") == dataset.shown_kind
    events = found.leave_out(
        events, is_shown & pl.col("last").is_not_null(),
        "an event that says of an impression, which is known, that it was shown", "kind",
    )  # fmt: skip
    return events.with_columns(pl.col("last").is_not_null().alias(_ANSWERS))


def _as_events(dataset: Dataset, shown: pl.DataFrame) -> pl.DataFrame:
    kind = pl.lit(dataset.shown_kind, dtype=pl.String)
    return shown.with_columns(kind.alias("kind"), pl.lit(None, pl.Float64).alias("value"))


def _new_rows(found: Joined, rows: pl.DataFrame) -> pl.DataFrame:
    """With the columns and types of the data set's events, without those that it has already."""
    dataset = found.dataset
    is_shown = pl.col("kind") == pl.lit(dataset.shown_kind, dtype=pl.String)
    time = pl.col("timestamp") if _keeps_times(dataset) else pl.lit(None, dtype=TIME)
    rows = rows.select(
        "user_id", "item_id", "kind", pl.col("value").cast(pl.Float32), time.alias("timestamp"),
        pl.lit("train").alias("part"),
        pl.when(is_shown).then("position").cast(FURTHER_COLUMNS["position"], strict=False),
        *(
            pl.col(one).cast(dtype) if one in rows.columns else pl.lit(None, dtype).alias(one)
            for one, dtype in (
                ("propensity", pl.Float32()), ("shown_at", TIME), (_ANSWERS, pl.Boolean()),
            )
        ),
    )  # fmt: skip
    further = [one for one in FURTHER_COLUMNS if _is_kept(one, dataset, rows)]
    rows = rows.select(*EVENT_COLUMNS, *further, _ANSWERS)
    events, users, rows = _one_id_type("user_id", dataset.events, dataset.users, rows)
    events, items, rows = _one_id_type("item_id", events, dataset.items, rows)
    found.dataset = replace(dataset, events=events, users=users, items=items)
    return _unlogged(found, rows)


def _is_kept(column: str, dataset: Dataset, rows: pl.DataFrame) -> bool:
    if column == "part":
        return dataset.has_given_split
    return column in dataset.events.columns or rows[column].null_count() < len(rows)


def _unlogged(found: Joined, rows: pl.DataFrame) -> pl.DataFrame:
    """Without what the log holds: where all of its times are whole seconds, to the second."""
    log = found.dataset.events.select(_KEY)
    when = rows["timestamp"]
    if len(log) and (log["timestamp"].dt.microsecond() == 0).all():
        when = when.dt.truncate("1s")
    again = rows.with_row_index("row").with_columns(when).join(
        log, on=_KEY, how="semi", nulls_equal=True
    )  # fmt: skip
    twice = pl.int_range(pl.len()).is_in(again["row"].cast(pl.Int64).implode())
    rows = found.leave_out(rows, twice, "an event that the data set's log has already", "kind")
    if _keeps_times(found.dataset):
        return rows
    why = "an event that came before: without times, of each user, item and kind one counts"
    once = pl.struct("user_id", "item_id", "kind").is_first_distinct()
    return found.leave_out(rows, ~once, why, "kind")


def _keeps_times(dataset: Dataset) -> bool:
    """Whether events of the store keep theirs: a log has times or has none."""
    return dataset.has_times or not len(dataset.events)


def _append(found: Joined, rows: pl.DataFrame) -> None:
    dataset = found.dataset
    found.n_impressions = int(rows["kind"].is_in([dataset.shown_kind]).sum())
    found.n_events = len(rows) - found.n_impressions
    found.n_answered = int(rows[_ANSWERS].sum())
    rows = rows.drop(_ANSWERS)
    columns = [one for one in FURTHER_COLUMNS if one in {*dataset.events.columns, *rows.columns}]
    events = pl.concat([dataset.events, rows], how="diagonal")
    missing = rows.select(pl.col("user_id").unique(maintain_order=True)).join(
        dataset.users, on="user_id", how="anti", maintain_order="left"
    )
    found.dataset = replace(
        dataset,
        events=events.select(*EVENT_COLUMNS, *columns),
        users=pl.concat([dataset.users, missing], how="diagonal"),
        rows_read=dataset.rows_read + len(rows),
    )
