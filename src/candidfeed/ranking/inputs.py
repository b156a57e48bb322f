"""From rows to the ranker's arrays: one piece of code for training and for serving, in NumPy."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.ranking.action_inputs import ActionSpace, Recent
from candidfeed.ranking.rating_scale import SHRINK_EVENTS, RatingScale
from candidfeed.ranking.user_state import UserState

N_TIME_BINS = 48
_YEAR_S = 365 * 86_400.0
_ITEMS_AT_ONCE = 65_536
DENSE_FEATURES = (
    "tower_score",
    "neighbour_score",
    "log_count",
    "log_recent_count",
    "window_lift",
    "age_years",
    "item_mean_rating",
    "history_log_length",
    "history_log_count",
    "count_gap",
    "user_mean_rating",
    "affinity",
    "liked_affinity",
)

Floats = NDArray[np.float32]
Inputs = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ItemStatistics:
    """What the training part says of each item, whoever asks.

    Attributes:
        log_count: log1p of the users who touched it, float32 [n_items].
        log_recent_count: the same in the last tenth of the events; 0 where the log has no times.
        mean_rating: shrunk towards the mean of all, float32 [n_items]; 0 without ratings.
        mean_time_s: mean time of its events, float64 [n_items]; the overall mean where unknown.
        lift_in_bin: log of how many of each item's events fell in a time bin over how many would
            have, had it drawn its share of the bin's, one added to both; float32
            [n_bins + 1, n_items]; the last row, for an unknown time, is 0. A row a bin: at any
            time all that are asked for read the same one, which then lies in memory.
    """

    log_count: Floats
    log_recent_count: Floats
    mean_rating: Floats
    mean_time_s: NDArray[np.float64]
    lift_in_bin: Floats


@dataclass(frozen=True)
class RankerSpace:
    """Everything about items, ratings and time that turns a (user, item, now) into numbers.

    Attributes:
        items: statistics of the training part.
        item_bag: features of every item.
        scale: rating levels.
        time_edges: seconds since 1970 at which a time bin ends, float64 [n_bins - 1].
        n_item_ids: item feature ids, padding included.
        actions: what action heads read; None without any.
    """

    items: ItemStatistics
    item_bag: Bag
    scale: RatingScale
    time_edges: NDArray[np.float64]
    n_item_ids: int
    actions: ActionSpace | None = None

    @property
    def n_items(self) -> int:
        return len(self.item_bag)

    @staticmethod
    def fit(
        train: Interactions, item_bag: Bag, n_item_ids: int, like_at: float | None
    ) -> "RankerSpace":
        edges = _time_edges(train.time_s)
        scale = RatingScale.of(train.value, like_at)
        items = _item_statistics(train, scale, edges)
        return RankerSpace(items, item_bag, scale, edges, n_item_ids)

    def of_untouched(self, bag: Bag) -> "RankerSpace":
        """The same of items that nobody has touched, as if they had been in the training part."""
        nothing = np.zeros(len(bag), np.float32)
        items = ItemStatistics(
            log_count=nothing,
            log_recent_count=nothing,
            mean_rating=np.full(len(bag), self.scale.mean, np.float32),
            mean_time_s=np.full(len(bag), self._mean_time_s),
            lift_in_bin=np.zeros((len(self.items.lift_in_bin), len(bag)), np.float32),
        )
        return replace(self, items=items, item_bag=bag, actions=None)

    @cached_property
    def _mean_time_s(self) -> float:
        """What `mean_time_s` is of an item without events."""
        untouched = np.flatnonzero(self.items.log_count == 0)
        times_s = self.items.mean_time_s
        return float(times_s[untouched[0]] if len(untouched) else times_s.mean())

    def time_bins(self, time_s: NDArray[np.float64]) -> NDArray[np.int32]:
        """int32, shape as given; an unknown time has the bin after the last."""
        # NaN stands behind all edges.
        bins = np.searchsorted(self.time_edges, time_s, side="right")
        return (bins + np.isnan(time_s)).astype(np.int32)

    def item_units(self, rows: NDArray[np.integer]) -> Floats:
        """Weights of `item_bag` with which each item has length 1, float32 [*rows.shape, width].

        An item without features has length 0.
        """
        # Of the rows asked for: a table of all would double what a release of millions takes.
        return self.item_bag.weights.take(rows, axis=0) / self._item_lengths.take(rows)[..., None]

    @cached_property
    def _item_lengths(self) -> Floats:
        """Of each item's weights, float32 [n_items], and a little where there are none."""
        lengths = np.empty(self.n_items, np.float32)
        for start in range(0, self.n_items, _ITEMS_AT_ONCE):
            some = slice(start, start + _ITEMS_AT_ONCE)
            lengths[some] = np.sqrt(np.square(self.item_bag.weights[some]).sum(axis=-1))
        return np.maximum(lengths, np.float32(1e-6))

    @cached_property
    def facts(self) -> Floats:
        """log_count, log_recent_count and mean_rating, float32 [n_items, 3].

        Beside each other, as they are read: what lies apart is fetched from memory three times.
        """
        stats = self.items
        return np.stack([stats.log_count, stats.log_recent_count, stats.mean_rating], axis=-1)


def dense_features(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    *,
    tower: Floats,
    neighbour: Floats,
    untouched: Bag | None = None,
) -> Floats:
    """float32 [b, c, len(DENSE_FEATURES)] of candidates `items` int32 [b, c]; padding gives zeros.

    Args:
        tower: score of the two-tower model, float32 [b, c].
        neighbour: score of the neighbour model, float32 [b, c].
        untouched: features of items beside the catalogue, which nobody has touched: `items` are
            rows of these then.
    """
    known = space
    if untouched is not None:
        space = space.of_untouched(untouched)
    real = items < space.n_items
    is_padded = not real.all()
    item = np.where(real, items, 0) if is_padded else items
    users, places = np.nonzero(state.history < known.n_items)
    touched = state.history[users, places]
    n_seen = np.bincount(users, minlength=len(items))[:, None]
    length = np.maximum(n_seen, 1)
    # One after the other: in NumPy's own sums the padding would move the last bit.
    counts = np.bincount(users, known.items.log_count.take(touched), minlength=len(items))
    user_count = counts[:, None] / length
    # `take` gathers rows three times as fast as an index does.
    facts = space.facts.take(item, axis=0)
    log_count = facts[..., 0]
    age_years = (state.now_s[:, None] - space.items.mean_time_s.take(item)) / _YEAR_S
    age_years[np.isnan(state.now_s)] = 0.0
    bins = space.time_bins(state.now_s)[:, None]
    tone = state.tone[users, places] if space.scale.like_at is not None else None
    affinity, liked_affinity = _affinities(known, space, item, users, touched, tone)
    columns = {
        "tower_score": tower,
        "neighbour_score": neighbour,
        "log_count": log_count,
        "log_recent_count": facts[..., 1],
        "window_lift": space.items.lift_in_bin.take(bins * np.int64(space.n_items) + item),
        "age_years": age_years,
        "item_mean_rating": facts[..., 2],
        "history_log_length": np.log1p(n_seen),
        "history_log_count": user_count,
        "count_gap": log_count - user_count,
        "user_mean_rating": state.mean_rating[:, None],
        "affinity": affinity / length,
        "liked_affinity": liked_affinity / np.sqrt(length),
    }
    dense = np.empty((*items.shape, len(DENSE_FEATURES)), np.float32)
    for place, name in enumerate(DENSE_FEATURES):
        dense[..., place] = columns[name]
    if is_padded:
        dense[~real] = 0.0
    return dense


def _affinities(
    known: RankerSpace,
    space: RankerSpace,
    item: NDArray[np.int32],
    users: NDArray[np.int64],
    touched: NDArray[np.int32],
    tone: Floats | None,
) -> tuple[Floats, Floats | np.float32]:
    """Dot products of each item's features with the sum of the history's: plain, and by tone.

    Args:
        known: what the history is of.
        space: what the items are of.
        item: rows of real items, int32 [b, c].
        users: whose each event of the histories is, int64 [n].
        touched: rows of their items, int32 [n].
        tone: of each event, float32 [n]; None where the log has no ratings.

    Returns:
        float32 [b, c] both; one 0 for the second where the log has no ratings.
    """
    n_ids = space.n_item_ids
    units, asked = known.item_units(touched), space.item_units(item)
    seen_at, asked_at = known.item_bag.ids[touched], space.item_bag.ids.take(item, axis=0)
    if len(item) > 1:
        # Each user's features have places of their own.
        seen_at = seen_at + users[:, None] * n_ids
        asked_at = asked_at + np.arange(len(item))[:, None, None] * n_ids

    def products(shares: Floats) -> Floats:
        profile = np.bincount(seen_at.ravel(), shares.ravel(), minlength=len(item) * n_ids)
        return (profile.take(asked_at) * asked).sum(axis=-1).astype(np.float32)

    if tone is None:
        return products(units), np.float32(0)
    return products(units), products(tone[:, None] * units)


def ranker_inputs(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    dense: Floats,
    *,
    time_s: NDArray[np.float64] | None = None,
) -> Inputs:
    """The dict that `Ranker.call` takes.

    Args:
        items: int32 [b, c]; n_items is padding.
        dense: float32 [b, c, f].
        time_s: when each pair is asked for, float64 [b, c]; the state's now where None.
    """
    if time_s is None:
        time_s = np.broadcast_to(state.now_s[:, None], items.shape)
    return {
        **user_inputs(space, state),
        **item_inputs(space, items),
        **pair_inputs(space, state, items, dense, time_s=time_s),
        "weight": (items < space.n_items).astype(np.float32),
    }


def user_inputs(
    space: RankerSpace, state: UserState, reads: Collection[str] | None = None
) -> Inputs:
    """What `Ranker.user_part` reads.

    Args:
        reads: what is read of it; what is dear to make and not read is left out. None: all is.
    """
    recent = {}
    if space.actions is not None and _any_of(space.actions.OF_USER, reads):
        recent = space.actions.user_inputs(Recent.of(state, n_items=space.n_items))
    return {
        "user": state.row,
        "user_feature_ids": state.bag.ids,
        "user_feature_weights": state.bag.weights,
        "history": state.history,
        "history_tone": state.tone,
        "user_tone": state.mean_rating - np.float32(space.scale.mean),
        **recent,
    }


def item_inputs(space: RankerSpace, items: NDArray[np.int32]) -> Inputs:
    """What `Ranker.item_part` reads of these items, int32 [b, c]; n_items is padding."""
    real = items < space.n_items
    item = np.where(real, items, 0)
    return {
        "item": items,
        "item_feature_ids": space.item_bag.ids[item],
        "item_feature_weights": space.item_bag.weights[item] * real[..., None],
    }


def pair_inputs(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    dense: Floats,
    *,
    time_s: NDArray[np.float64],
    reads: Collection[str] | None = None,
) -> Inputs:
    """What `Ranker.heads` reads beside the two parts.

    Args:
        items, dense: as in `ranker_inputs`.
        time_s: float64 [b, c], or [b, 1] where all of a user's are asked for at one time.
        reads: as in `user_inputs`.
    """
    made: Inputs = {"dense": dense}
    if _any_of(("time_bin",), reads):
        made["time_bin"] = space.time_bins(time_s)
    if _any_of(("in_history", "own_tone"), reads):
        made["in_history"], made["own_tone"] = _own_events(space.n_items, state, items)
    if space.actions is not None and _any_of(space.actions.OF_PAIR, reads):
        # What is asked for is shown at the first place.
        item = np.where(items < space.n_items, items, 0)
        made |= space.actions.pair_inputs(state.row, item, np.ones_like(item))
    return made


def _any_of(names: Iterable[str], reads: Collection[str] | None) -> bool:
    return reads is None or not frozenset(reads).isdisjoint(names)


def _own_events(n_items: int, state: UserState, items: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Whether each candidate stands in the history, and its tone there; float32 [b, c] both."""
    users, places = np.nonzero(state.history < n_items)
    pairs = users * (n_items + 1) + state.history[users, places]
    order = np.argsort(pairs)
    asked = np.arange(len(items))[:, None] * (n_items + 1) + items
    at = np.searchsorted(pairs[order], asked)
    # One more at the end, for the pairs that lie behind all others.
    inside = np.append(pairs[order], -1)[at] == asked
    tone = np.append(state.tone[users, places][order], 0.0)[at]
    return inside.astype(np.float32), np.where(inside, tone, 0.0).astype(np.float32)


def _time_edges(time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    known = time_s[np.isfinite(time_s)]
    if len(known) == 0:
        return np.empty(0)
    return np.unique(np.quantile(known, np.arange(1, N_TIME_BINS) / N_TIME_BINS))


def _item_statistics(
    train: Interactions, scale: RatingScale, edges: NDArray[np.float64]
) -> ItemStatistics:
    n_items = train.n_items
    timed = np.isfinite(train.time_s)
    times = train.time_s[timed]
    is_recent = timed & (train.time_s >= np.quantile(times, 0.9)) if len(times) else timed
    time_sum = np.bincount(train.item[timed], times, minlength=n_items)
    n_timed = np.bincount(train.item[timed], minlength=n_items)
    overall = times.mean() if len(times) else 0.0
    rated = np.isfinite(train.value) & (scale.like_at is not None)
    deviation = train.value[rated].astype(np.float64) - scale.mean
    rating_sum = np.bincount(train.item[rated], deviation, minlength=n_items)
    n_rated = np.bincount(train.item[rated], minlength=n_items)
    return ItemStatistics(
        log_count=_log_users(train),
        log_recent_count=_log_users(train.take(is_recent)),
        mean_rating=(scale.mean + rating_sum / (n_rated + SHRINK_EVENTS)).astype(np.float32),
        mean_time_s=(time_sum + overall) / (n_timed + 1),
        lift_in_bin=_lift_in_bin(train.take(timed), edges),
    )


def _log_users(events: Interactions) -> Floats:
    """log1p of the users who touched each item, float32 [n_items]."""
    n_users = np.bincount(events.matrix.indices, minlength=events.n_items)
    return np.log1p(n_users).astype(np.float32)


def _lift_in_bin(events: Interactions, edges: NDArray[np.float64]) -> Floats:
    """See `ItemStatistics`; every event has a time."""
    shape = (len(edges) + 1, events.n_items)
    bins = np.searchsorted(edges, events.time_s, side="right")
    pairs = bins * events.n_items + events.item
    counts = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    share = counts.sum(axis=1, keepdims=True) / max(1, len(events))
    expected = counts.sum(axis=0) * share
    lift = np.log((counts + 1.0) / (expected + 1.0))
    return np.pad(lift, ((0, 1), (0, 0))).astype(np.float32)
