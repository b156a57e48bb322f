"""Train, history and test of a data set: who may be learned from, and who is asked."""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.data.protocols import PROTOCOLS
from candidfeed.data.tables import Dataset
from candidfeed.data.vocabulary import Vocabulary
from candidfeed.errors import DataError

_NEED_TIMES = ("temporal", "per-user-last", "leave-last-one")

Rows = NDArray[np.int64]
_Count = TypeVar("_Count", int, NDArray[np.int64])


@dataclass(frozen=True)
class SourceRows:
    """Where the rows of a split stand in `Dataset.events`, from 0; int64, aligned with its columns.

    Attributes:
        train: one entry per row of `Split.train`.
        history: one entry per row of `Split.history`.
        test: one entry per row of `Split.test`.
        valid: those of `train` that the data set itself marks as validation; often empty.
    """

    train: Rows
    history: Rows
    test: Rows
    valid: Rows

    @classmethod
    def unknown(cls) -> "SourceRows":
        """For a split that was put together by hand and not cut from a data set."""
        none = np.empty(0, dtype=np.int64)
        return cls(train=none, history=none, test=none, valid=none)


@dataclass(frozen=True)
class Split:
    """One data set cut by one protocol, as dense rows.

    The vocabularies hold every user and item of the data set (tables and log): items that no
    training row names are candidates all the same.

    Attributes:
        train: what models are fitted on.
        history: rows that are known when the prediction is made but are not learned from
            (the fold-in half of each test user); empty for most protocols.
        test: what is to be predicted.
        source: where these rows come from, for the leak guard and for the data set's own
            validation part.
    """

    protocol: str
    seed: int
    users: Vocabulary
    items: Vocabulary
    train: Interactions
    history: Interactions
    test: Interactions
    test_rows_sha256: str
    source: SourceRows = field(default_factory=SourceRows.unknown)

    @property
    def known(self) -> Interactions:
        """Train and history: what each user is known to have touched when they are asked for."""
        return self.train.concat(self.history)


@dataclass(frozen=True)
class _Cut:
    """Positions in a log of the rows that become train, history and test."""

    train: Rows
    history: Rows
    test: Rows


@dataclass(frozen=True)
class _Log:
    """Positive events with the row of the source that each stands in; `part` is '' without one."""

    events: Interactions
    source: Rows
    part: NDArray[np.str_]
    has_times: bool


def default_protocol(dataset: Dataset) -> str:
    """The strictest protocol that the data set allows: temporal, then given, then random."""
    if dataset.has_times:
        return "temporal"
    return "given" if dataset.has_given_split else "random"


def make_split(dataset: Dataset, protocol: str | None = None, *, seed: int = 42) -> Split:
    """Cuts the positive events of a data set in train, history and test.

    Only events whose kind is in `dataset.positive_kinds` enter. Rows stand in the order of the
    source, except under `keras-notebook`, where they stand in the order that scikit-learn gives
    them. A test row whose item its user is already known to have touched stays in: the metrics
    drop it, so that the count of test rows is the protocol's.

    How each protocol rounds (n rows, or n rows of one user):
      random, keras-notebook: ceil(n / 5) test rows; `keras-notebook` does not use the seed.
      per-user-last: ceil(n / 5) of each user, but never a user's only row.
      temporal: train is what happened before the instant at which the row at n * 4 // 5 (in time)
          happened; rows of one instant are never parted. Of a user's later rows n // 2 are
          history, so that each of these users has a test row.
      leave-last-one: one row of each user with at least two.
      item-cold: ceil(n / 10) of the items that have rows, but never all of them.
      microsoft: ceil(n / 4) of each item's rows, so that an item's only row is test.
      recbole: n // 10 test and n // 10 history rows of each user; below ten rows one of each, as
          long as a row is left to train on.
    Rows of one user at one instant keep the order of the source.

    `test_rows_sha256` is the SHA-256 of one line per test row, sorted by their UTF-8 bytes, each
    `user id, tab, item id, tab, value, tab, time` and a line feed: the value as Python's `repr` of
    the float32 widened to a float, the time in whole microseconds since 1970 UTC, both empty where
    the event has none; backslash, tab and line feed in an id are written `\\\\`, `\\t`, `\\n`.

    Raises:
        DataError: no such protocol, the log lacks what the protocol needs, or train or test would
            be empty; the message names a protocol that works where there is one.
    """
    protocol = default_protocol(dataset) if protocol is None else protocol
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"no protocol {protocol!r}{hint} (there are: {', '.join(PROTOCOLS)})")
    if seed < 0:
        raise DataError(f"the seed must be 0 or more, not {seed}")
    users, items = _sorted_ids(dataset.users["user_id"]), _sorted_ids(dataset.items["item_id"])
    log = _positive_log(dataset, users, items)
    cut = _cut_or_refuse(log, protocol, seed, dataset.name)
    valid = log.source[log.part == "valid"] if protocol == "given" else log.source[:0]
    return _assemble(protocol, seed, users, items, log.events, log.source, cut, valid)


def inner_split(split: Split, *, seed: int) -> Split:
    """Cuts the train part again, for validation and for training a ranker out of time.

    By the same protocol, with two exceptions: `keras-notebook` is cut as `random` is, and `given`
    takes the data set's own validation part as test, or where there is none a random fifth of
    each user's rows (ceil, never a user's only row). Where a small train part leaves the protocol
    with nothing to learn from or to predict, the cut is `random`, and `protocol` says so.
    The seed matters for `random`, `keras-notebook`, `item-cold`, `microsoft`, `recbole` and `given`
    (without a validation part).

    Raises:
        DataError: train holds fewer than two rows.
    """
    train = split.train
    valid = np.isin(split.source.train, split.source.valid)
    protocol = "random" if split.protocol == "keras-notebook" else split.protocol
    if protocol == "given" and valid.any():
        cut = _mask_cut(valid)
    elif protocol == "given":
        cut = _each_users_random_fifth(train, seed)
    else:
        cut = _CUTS[protocol](train, seed)
    if not len(cut.train) or not len(cut.test):
        protocol, cut = "random", _random(train, seed)
    if not len(cut.train):
        held = f"{len(train)} row{'s' * (len(train) != 1)}"
        raise DataError(f"the train part holds {held}, too few to cut again; use more")
    source = split.source.train
    if len(source) != len(train):
        source = np.arange(len(train), dtype=np.int64)
    return _assemble(protocol, seed, split.users, split.items, train, source, cut, source[:0])


def fold_splits(split: Split, *, n_folds: int, seed: int) -> Iterator[Split]:
    """Cuts the train part `n_folds` times, each of its rows being a test row of one cut.

    A user's rows are dealt at random, as evenly as it goes; a user's only row stays in train. What
    is left in train is nearly as dense as all of it, and what suits a model depends on that.

    Raises:
        ValueError: n_folds < 2.
    """
    if n_folds < 2:
        raise ValueError(f"train can't be cut into {n_folds} folds; 2 is the least")
    train, source = split.train, split.source.train
    if len(source) != len(train):
        source = np.arange(len(train), dtype=np.int64)
    rng = np.random.default_rng(seed)
    place, n_of_user = _place_from_users_end(train, by=rng.random(len(train)))
    # Where a user's first row goes is drawn too: otherwise the first folds would get more rows.
    fold = (place + rng.integers(n_folds, size=train.n_users)[train.user]) % n_folds
    for each in range(n_folds):
        cut = _mask_cut((fold == each) & (n_of_user > 1))
        yield _assemble(
            split.protocol, seed, split.users, split.items, train, source, cut, source[:0]
        )


def rolling_splits(split: Split, *, starts: Sequence[float]) -> Iterator[Split]:
    """Cuts the train part in time, once at each of these shares of its rows.

    What happened before is train, and the fifth of the rows that comes next is history and test as
    under `temporal`; later rows are in no part. A cut that leaves a part empty is left out.

    Args:
        starts: each from 0 to 1.
    """
    log, source = split.train, split.source.train
    if len(source) != len(log):
        source = np.arange(len(log), dtype=np.int64)
    in_time = np.append(np.sort(log.time_s), np.inf)
    for start in starts:
        first = int(len(log) * start)
        cut_s, end_s = in_time[first], in_time[min(len(log), first + _fifth(len(log)))]
        late = np.flatnonzero((log.time_s >= cut_s) & (log.time_s < end_s))
        cut = _late_halved(log, np.flatnonzero(log.time_s < cut_s), late)
        if len(cut.train) and len(cut.test):
            yield _assemble(
                "temporal", split.seed, split.users, split.items, log, source, cut, source[:0]
            )


def check_no_leak(split: Split) -> None:
    """Proves that no row is in two parts and that nothing learned from lies after what is asked.

    Under `temporal` no train row is later than any history or test row; under the protocols by
    user none is later than a test row of the same user.

    Raises:
        DataError: there is a leak; the message counts the rows.
        ValueError: the split does not say where its rows come from.
    """
    parts = (split.source.train, split.source.history, split.source.test)
    if [len(p) for p in parts] != [len(split.train), len(split.history), len(split.test)]:
        raise ValueError("split: source rows do not align with its parts; cut it with make_split")
    together = np.concatenate(parts)
    twice = len(together) - len(np.unique(together))
    if twice:
        raise DataError(f"split leaks: {twice} rows are in more than one of train, history, test")
    late = _rows_after_what_is_asked(split)
    if late:
        raise DataError(f"split leaks: {late} train rows are later than what is to be predicted")


def _rows_after_what_is_asked(split: Split) -> int:
    if split.protocol == "temporal":
        asked = np.concatenate([split.history.time_s, split.test.time_s])
        return int((split.train.time_s > asked.min()).sum())
    if split.protocol in _NEED_TIMES:
        first_asked = np.full(len(split.users), np.inf)
        np.minimum.at(first_asked, split.test.user, split.test.time_s)
        return int((split.train.time_s > first_asked[split.train.user]).sum())
    return 0


def _sorted_ids(ids: pl.Series) -> Vocabulary:
    return Vocabulary(ids.unique().sort())


def _positive_log(dataset: Dataset, users: Vocabulary, items: Vocabulary) -> _Log:
    events = dataset.events.with_row_index("source_row").filter(
        pl.col("kind").is_in(dataset.positive_kinds)
    )
    if not len(events):
        kinds = ", ".join(map(repr, dataset.events["kind"].unique().sort())) or "none"
        wanted = ", ".join(map(repr, dataset.positive_kinds)) or "none"
        raise DataError(
            f"{dataset.name}: no event counts as positive (positive kinds: {wanted}; "
            f"kinds in the log: {kinds})"
        )
    for column in ("user_id", "item_id"):
        if events[column].n_unique() == 1:
            raise DataError(
                f"{dataset.name}: all {len(events)} positive events have one {column} "
                f"({_shorten(events[column][0])}); a recommender needs at least two"
            )
    positives = Interactions(
        user=users.rows(events["user_id"]),
        item=items.rows(events["item_id"]),
        value=events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        time_s=_epoch_s(events["timestamp"]),
        n_users=len(users),
        n_items=len(items),
    )
    for column, rows in (("user_id", positives.user), ("item_id", positives.item)):
        if (rows < 0).any():
            raise DataError(f"{dataset.name}: a {column} of the events is not in its table")
    part = events["part"].to_numpy().astype(str) if "part" in events.columns else np.array([""])
    source = events["source_row"].to_numpy().astype(np.int64)
    return _Log(positives, source, np.broadcast_to(part, source.shape), dataset.has_times)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _epoch_s(timestamps: pl.Series) -> NDArray[np.float64]:
    microseconds = timestamps.dt.epoch("us").cast(pl.Float64).fill_null(float("nan"))
    return microseconds.to_numpy() / 1e6


def _cut_or_refuse(log: _Log, protocol: str, seed: int, name: str) -> _Cut:
    reason = _why_impossible(log, protocol)
    if not reason:
        cut = _cut(log, protocol, seed)
        if len(cut.train) and len(cut.test):
            return cut
        reason = (
            f"of {len(log.source)} positive events by {len(np.unique(log.events.user))} users "
            f"at {_count_instants(log)} it would leave {len(cut.train)} to train on "
            f"and {len(cut.test)} to test on"
        )
    others = ("given", "per-user-last", "random")
    works = (p for p in others if p != protocol and not _why_impossible(log, p))
    usable = (p for p in works if (c := _cut(log, p, seed)) and len(c.train) and len(c.test))
    hint = next((f"; use {p!r}" for p in usable), "; a split needs more events")
    raise DataError(f"{name}: protocol {protocol!r} is not possible: {reason}{hint}")


def _count_instants(log: _Log) -> str:
    if not log.has_times:
        return "unknown times"
    n_instants = len(np.unique(log.events.time_s))
    return f"{n_instants} different time{'s' if n_instants != 1 else ''}"


def _why_impossible(log: _Log, protocol: str) -> str:
    """What the log lacks for this protocol; empty where it lacks nothing."""
    if protocol in _NEED_TIMES and not log.has_times:
        return "it needs the time of each event, and the log has none"
    if protocol == "given" and not log.part[0]:
        return "the data set brings no split of its own"
    return ""


def _cut(log: _Log, protocol: str, seed: int) -> _Cut:
    if protocol == "given":
        return _mask_cut(log.part == "test")
    return _CUTS[protocol](log.events, seed)


def _mask_cut(test: NDArray[np.bool_]) -> _Cut:
    """Source order on both sides, no history."""
    nothing = np.empty(0, dtype=np.int64)
    return _Cut(train=np.flatnonzero(~test), history=nothing, test=np.flatnonzero(test))


def _random(log: Interactions, seed: int) -> _Cut:
    test = np.zeros(len(log), dtype=bool)
    test[np.random.default_rng(seed).permutation(len(log))[: _fifth(len(log))]] = True
    return _mask_cut(test)


def _item_cold(log: Interactions, seed: int) -> _Cut:
    items = np.unique(log.item)
    n_new = min(-(-len(items) // 10), max(0, len(items) - 1))
    new = np.random.default_rng(seed).choice(items, n_new, replace=False)
    return _mask_cut(np.isin(log.item, new))


def _microsoft(log: Interactions, seed: int) -> _Cut:
    # The draws of NumPy's old generator, in the order of the log: the published rows.
    draw = np.random.RandomState(seed % 2**32).random_sample(len(log))
    from_end, n_of_item = _place_from_end(log.item, log.n_items, by=draw)
    return _mask_cut(from_end < -(-n_of_item // 4))


def _recbole(log: Interactions, seed: int) -> _Cut:
    from_end, n = _place_from_users_end(log, by=np.random.default_rng(seed).random(len(log)))
    n_test = np.where(n > 1, np.maximum(n // 10, 1), 0)
    n_history = np.where(n > 2, np.maximum(n // 10, 1), 0)
    test, late = from_end < n_test, from_end < n_test + n_history
    return _Cut(
        train=np.flatnonzero(~late), history=np.flatnonzero(late & ~test), test=np.flatnonzero(test)
    )


def _keras_notebook(log: Interactions, _seed: int) -> _Cut:
    by_item = np.argsort(log.item, kind="stable")
    shuffled = by_item[np.random.RandomState(0).permutation(len(log))]
    n_test = _fifth(len(log))
    return _Cut(train=shuffled[n_test:], history=shuffled[:0], test=shuffled[:n_test])


def _per_user_last(log: Interactions, _seed: int) -> _Cut:
    from_end, n_of_user = _place_from_users_end(log, by=log.time_s)
    return _mask_cut(from_end < np.minimum(_fifth(n_of_user), n_of_user - 1))


def _each_users_random_fifth(log: Interactions, seed: int) -> _Cut:
    from_end, n_of_user = _place_from_users_end(
        log, by=np.random.default_rng(seed).random(len(log))
    )
    return _mask_cut(from_end < np.minimum(_fifth(n_of_user), n_of_user - 1))


def _leave_last_one(log: Interactions, _seed: int) -> _Cut:
    from_end, n_of_user = _place_from_users_end(log, by=log.time_s)
    return _mask_cut((from_end == 0) & (n_of_user > 1))


def _temporal(log: Interactions, _seed: int) -> _Cut:
    if not len(log):
        return _mask_cut(np.zeros(0, dtype=bool))
    in_time = np.sort(log.time_s)
    cut_s = in_time[len(log) * 4 // 5]
    if cut_s == in_time[0]:
        # The first instant holds most rows: it is all of train, or the cut would be empty.
        cut_s = in_time[np.searchsorted(in_time, in_time[0], side="right") :].min(initial=np.inf)
    return _late_halved(
        log, np.flatnonzero(log.time_s < cut_s), np.flatnonzero(log.time_s >= cut_s)
    )


def _late_halved(log: Interactions, early: Rows, late: Rows) -> _Cut:
    """Of each user's late rows the first half, rounded down, is history, the other test."""
    from_end, n_of_user = _place_from_users_end(log.take(late), by=log.time_s[late])
    test = from_end < n_of_user - n_of_user // 2
    return _Cut(train=early, history=late[~test], test=late[test])


def _fifth(n: _Count) -> _Count:
    """A fifth, rounded up."""
    return -(-n // 5)


def _place_from_users_end(
    log: Interactions, *, by: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row: how many rows of its user come after it, and how many its user has.

    Rows of a user are ordered by `by`; equal ones keep the order of the log.
    """
    return _place_from_end(log.user, log.n_users, by=by)


def _place_from_end(
    owner: NDArray[np.int32], n_owners: int, *, by: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `_place_from_users_end`, with the user or item that each row belongs to."""
    order = np.lexsort((by, owner))
    n_by_owner = np.bincount(owner, minlength=n_owners)
    ends = np.cumsum(n_by_owner)
    from_end = np.empty(len(owner), dtype=np.int64)
    from_end[order] = ends[owner[order]] - 1 - np.arange(len(owner))
    return from_end, n_by_owner[owner]


_CUTS: dict[str, Callable[[Interactions, int], _Cut]] = {
    "random": _random,
    "keras-notebook": _keras_notebook,
    "per-user-last": _per_user_last,
    "temporal": _temporal,
    "leave-last-one": _leave_last_one,
    "item-cold": _item_cold,
    "microsoft": _microsoft,
    "recbole": _recbole,
}


def _assemble(
    protocol: str,
    seed: int,
    users: Vocabulary,
    items: Vocabulary,
    log: Interactions,
    source: Rows,
    cut: _Cut,
    valid: Rows,
) -> Split:
    test = log.take(cut.test)
    return Split(
        protocol=protocol,
        seed=seed,
        users=users,
        items=items,
        train=log.take(cut.train),
        history=log.take(cut.history),
        test=test,
        test_rows_sha256=_hash_rows(test, users, items),
        source=SourceRows(source[cut.train], source[cut.history], source[cut.test], valid),
    )


def _hash_rows(rows: Interactions, users: Vocabulary, items: Vocabulary) -> str:
    lines = pl.DataFrame(
        {
            "user": _escaped(users.ids)[rows.user],
            "item": _escaped(items.ids)[rows.item],
            "value": _texts(rows.value, lambda value: repr(float(value))),
            "time": _texts(rows.time_s, lambda time_s: str(round(float(time_s) * 1e6))),
        }
    )
    text = lines.select(pl.concat_str(pl.all(), separator="\t")).to_series().sort()
    return hashlib.sha256("".join(f"{line}\n" for line in text).encode()).hexdigest()


def _escaped(ids: pl.Series) -> pl.Series:
    text = ids.cast(pl.String)
    for raw, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n")):
        text = text.str.replace_all(raw, written, literal=True)
    return text


def _texts(
    numbers: NDArray[np.floating], write: Callable[[np.floating], str]
) -> NDArray[np.object_]:
    """Each number as text, '' for NaN; every distinct number is written once."""
    distinct, place = np.unique(numbers, return_inverse=True)
    written = ["" if np.isnan(number) else write(number) for number in distinct]
    return np.array(written, dtype=object)[place]
