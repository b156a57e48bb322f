"""From rows to the ranker's arrays: one piece of code for training and for serving, in NumPy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories, PaddedHistories
from candidfeed.data.interactions import Interactions

MAX_HISTORY = 512
N_TIME_BINS = 48
MAX_LEVELS = 20
_YEAR_S = 365 * 86_400.0
# A mean rating of n events is drawn to the mean of all as if by this many more events.
_SHRINK_EVENTS = 5.0
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


@dataclass(frozen=True)
class ItemStatistics:
    """What the training part says of each item, whoever asks.

    Attributes:
        log_count: log1p of the users who touched it, float32 [n_items].
        log_recent_count: the same in the last tenth of the events; 0 where the log has no times.
        mean_rating: shrunk towards the mean of all, float32 [n_items]; 0 without ratings.
        mean_time_s: mean time of its events, float64 [n_items]; the overall mean where unknown.
        window_lift: log of how many of the item's events fell in each time bin over how many would
            have, had it drawn its share of the bin's, one added to both; float32
            [n_items, n_bins + 1]; the last column, for an unknown time, is 0.
    """

    log_count: Floats
    log_recent_count: Floats
    mean_rating: Floats
    mean_time_s: NDArray[np.float64]
    window_lift: Floats


@dataclass(frozen=True)
class RatingScale:
    """The levels that ratings take, ascending, and what counts as liked.

    Attributes:
        levels: float32 [n_levels], at least two; two zeros where the log has no ratings.
        shares: how often each level is the nearest one in training, float64 [n_levels], sum 1.
        mean: mean rating in training; 0 without ratings.
        like_at: the least rating that counts as liked; None without ratings.
    """

    levels: Floats
    shares: NDArray[np.float64]
    mean: float
    like_at: float | None

    @staticmethod
    def of(values: Floats, like_at: float | None) -> "RatingScale":
        """Levels are the distinct ratings; of very many, the means of bins of equal mass.

        A lone rating gets a level above it that never occurs: a distribution needs two.
        """
        values = values[np.isfinite(values)] if like_at is not None else values[:0]
        if len(values) == 0:
            return RatingScale(np.zeros(2, np.float32), np.full(2, 0.5), 0.0, None)
        levels = np.unique(values)
        if len(levels) > MAX_LEVELS:
            bins = np.array_split(np.sort(values), MAX_LEVELS)
            means = [part.mean(dtype=np.float64) for part in bins]
            levels = np.unique(np.array(means, dtype=np.float32))
        if len(levels) == 1:
            levels = np.append(levels, levels + max(np.float32(1.0), np.spacing(abs(levels[0]))))
        counts = np.bincount(nearest_level(values, levels), minlength=len(levels))
        mean = float(values.mean(dtype=np.float64))
        return RatingScale(levels, counts / counts.sum(), mean, like_at)

    @property
    def liked(self) -> NDArray[np.bool_]:
        """Which levels count as liked, bool [n_levels].

        Where levels are means of bins, the one around `like_at` counts as a whole or not at all.
        """
        at = np.inf if self.like_at is None else self.like_at
        return self.levels >= at


def nearest_level(values: Floats, levels: Floats) -> NDArray[np.int32]:
    """Index of the level closest to each value, the higher one in a tie; -1 where it is NaN.

    Returns:
        int32, shape of `values`.
    """
    edges = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    nearest = np.searchsorted(edges, values, side="right")
    return np.where(np.isnan(values), -1, nearest).astype(np.int32)


@dataclass(frozen=True)
class RankerSpace:
    """Everything about items, ratings and time that turns a (user, item, now) into numbers.

    Attributes:
        items: statistics of the training part.
        item_bag: features of every item.
        scale: rating levels.
        time_edges: seconds since 1970 at which a time bin ends, float64 [n_bins - 1].
        n_item_ids: item feature ids, padding included.
    """

    items: ItemStatistics
    item_bag: Bag
    scale: RatingScale
    time_edges: NDArray[np.float64]
    n_item_ids: int

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

    def time_bins(self, time_s: NDArray[np.float64]) -> NDArray[np.int32]:
        """int32, shape as given; an unknown time has the bin after the last."""
        bins = np.searchsorted(self.time_edges, np.nan_to_num(time_s), side="right")
        return np.where(np.isnan(time_s), len(self.time_edges) + 1, bins).astype(np.int32)

    def item_units(self, rows: NDArray[np.integer]) -> Floats:
        """Weights of `item_bag` with which each item has length 1, float32 [*rows.shape, width].

        An item without features has length 0.
        """
        # Of the rows asked for: a table of all would double what a release of millions takes.
        weights = self.item_bag.weights[rows]
        norms = np.sqrt(np.square(weights).sum(axis=-1, keepdims=True))
        return (weights / np.maximum(norms, 1e-6)).astype(np.float32)


@dataclass(frozen=True)
class UserState:
    """What the ranker knows of a batch of users when they are asked for.

    Attributes:
        row: int32 [b]; the number of users stands for an unknown one.
        bag: features of these users.
        history: int32 [b, h], padded with n_items.
        tone: rating minus the user's mean, float32 [b, h]; 0 where there is none.
        mean_rating: shrunk to the mean of all, float32 [b].
        now_s: float64 [b], NaN if unknown.
    """

    row: NDArray[np.int32]
    bag: Bag
    history: NDArray[np.int32]
    tone: Floats
    mean_rating: Floats
    now_s: NDArray[np.float64]

    def take(self, places: NDArray[np.integer]) -> "UserState":
        return UserState(
            row=self.row[places],
            bag=Bag(self.bag.ids[places], self.bag.weights[places]),
            history=self.history[places],
            tone=self.tone[places],
            mean_rating=self.mean_rating[places],
            now_s=self.now_s[places],
        )

    @staticmethod
    def of(
        past: PaddedHistories, bag: Bag, row: NDArray[np.int32], scale: RatingScale
    ) -> "UserState":
        """State of the users whose past and features these are; now = their last event."""
        values, lengths = past.values, past.lengths
        rated = np.isfinite(values) & (scale.like_at is not None)
        deviation = _sum_of_rows(rated, values.astype(np.float64) - scale.mean)
        mean = scale.mean + deviation / (rated.sum(axis=1) + _SHRINK_EVENTS)
        tone = np.where(rated, values - mean[:, None], 0.0)
        last = past.times_s[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
        return UserState(
            row=row,
            bag=bag,
            history=past.items,
            tone=tone.astype(np.float32),
            mean_rating=mean.astype(np.float32),
            now_s=np.where(lengths > 0, last, np.nan),
        )


@dataclass(frozen=True)
class UserStates:
    """The state of every user row, made when it is asked for.

    Attributes:
        histories: the latest events of every user, at most MAX_HISTORY.
        bag: features of every user.
    """

    histories: Histories
    bag: Bag
    scale: RatingScale

    @staticmethod
    def of(known: Interactions, bag: Bag, scale: RatingScale) -> "UserStates":
        """With `known` as the users' past."""
        return UserStates(Histories.of(known, max_length=MAX_HISTORY), bag, scale)

    def __len__(self) -> int:
        return len(self.bag)

    @cached_property
    def width(self) -> int:
        """Events of a history in every batch."""
        return self.histories.longest

    def take(self, rows: NDArray[np.integer]) -> UserState:
        """The states of these user rows."""
        past = self.histories.padded(rows, width=self.width)
        bag = Bag(self.bag.ids[rows], self.bag.weights[rows])
        return UserState.of(past, bag, rows.astype(np.int32), self.scale)


def dense_features(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    *,
    tower: Floats,
    neighbour: Floats,
) -> Floats:
    """float32 [b, c, len(DENSE_FEATURES)] of candidates `items` int32 [b, c]; padding gives zeros.

    Args:
        tower: score of the two-tower model, float32 [b, c].
        neighbour: score of the neighbour model, float32 [b, c].
    """
    stats, real = space.items, items < space.n_items
    item = np.where(real, items, 0)
    inside = state.history < space.n_items
    n_seen = inside.sum(axis=1)[:, None]
    length = np.maximum(n_seen, 1)
    seen_counts = stats.log_count[np.where(inside, state.history, 0)]
    user_count = _sum_of_rows(inside, seen_counts)[:, None] / length
    age_years = (state.now_s[:, None] - stats.mean_time_s[item]) / _YEAR_S
    columns = {
        "tower_score": tower,
        "neighbour_score": neighbour,
        "log_count": stats.log_count[item],
        "log_recent_count": stats.log_recent_count[item],
        "window_lift": stats.window_lift[item, space.time_bins(state.now_s)[:, None]],
        "age_years": np.nan_to_num(age_years),
        "item_mean_rating": stats.mean_rating[item],
        "history_log_length": np.log1p(n_seen),
        "history_log_count": user_count,
        "count_gap": stats.log_count[item] - user_count,
        "user_mean_rating": state.mean_rating[:, None],
        "affinity": _affinity(space, state, item, inside.astype(np.float32)) / length,
        "liked_affinity": _affinity(space, state, item, state.tone) / np.sqrt(length),
    }
    shown = [np.broadcast_to(columns[name], items.shape) for name in DENSE_FEATURES]
    return np.where(real[..., None], np.stack(shown, axis=-1), 0.0).astype(np.float32)


def _affinity(
    space: RankerSpace,
    state: UserState,
    item: NDArray[np.int32],
    weights: Floats,
) -> Floats:
    """Dot product of each item's features with the weighted sum of the history's.

    Args:
        item: rows of real items, int32 [b, c].
        weights: of the history's events, float32 [b, h]; 0 where it is padding.

    Returns:
        float32 [b, c].
    """
    users, places = np.nonzero(weights)
    touched = state.history[users, places]
    ids = space.item_bag.ids
    shares = weights[users, places][:, None] * space.item_units(touched)
    at = users[:, None] * space.n_item_ids + ids[touched]
    shape = (len(item), space.n_item_ids)
    profile = np.bincount(at.ravel(), shares.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    found = profile[np.arange(len(item))[:, None, None], ids[item]] * space.item_units(item)
    return found.sum(axis=-1).astype(np.float32)


def _sum_of_rows(mask: NDArray[np.bool_], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of the marked values of each row, float64 [b].

    One after the other: in NumPy's own sums the padding would move the last bit.
    """
    sums = np.bincount(np.nonzero(mask)[0], values[mask], minlength=len(mask))
    return sums.astype(np.float64)


def ranker_inputs(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    dense: Floats,
    *,
    time_s: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.generic]]:
    """The dict that `Ranker.call` takes.

    Args:
        items: int32 [b, c]; n_items is padding.
        dense: float32 [b, c, f].
        time_s: when each pair is asked for, float64 [b, c]; the state's now where None.
    """
    real = items < space.n_items
    item = np.where(real, items, 0)
    if time_s is None:
        time_s = np.broadcast_to(state.now_s[:, None], items.shape)
    inside, own_tone = _own_events(space.n_items, state, items)
    return {
        "user": state.row,
        "user_feature_ids": state.bag.ids,
        "user_feature_weights": state.bag.weights,
        "history": state.history,
        "history_tone": state.tone,
        "user_tone": state.mean_rating - np.float32(space.scale.mean),
        "item": items,
        "item_feature_ids": space.item_bag.ids[item],
        "item_feature_weights": space.item_bag.weights[item] * real[..., None],
        "time_bin": space.time_bins(time_s),
        "in_history": inside,
        "own_tone": own_tone,
        "weight": real.astype(np.float32),
        "dense": dense,
    }


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
        mean_rating=(scale.mean + rating_sum / (n_rated + _SHRINK_EVENTS)).astype(np.float32),
        mean_time_s=(time_sum + overall) / (n_timed + 1),
        window_lift=_window_lift(train.take(timed), edges),
    )


def _log_users(events: Interactions) -> Floats:
    """log1p of the users who touched each item, float32 [n_items]."""
    n_users = np.bincount(events.matrix.indices, minlength=events.n_items)
    return np.log1p(n_users).astype(np.float32)


def _window_lift(events: Interactions, edges: NDArray[np.float64]) -> Floats:
    """See `ItemStatistics`; every event has a time."""
    shape = (events.n_items, len(edges) + 1)
    window = np.searchsorted(edges, events.time_s, side="right")
    pairs = events.item.astype(np.int64) * shape[1] + window
    counts = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    share = counts.sum(axis=0) / max(1, len(events))
    expected = counts.sum(axis=1, keepdims=True) * share
    lift = np.log((counts + 1.0) / (expected + 1.0))
    return np.pad(lift, ((0, 0), (0, 1))).astype(np.float32)
