"""What a release is once it is in memory: all that the pipeline reads, and nothing that it writes.

`release/export.py` makes it from trained models, `release/bundle.py` writes and reads it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.histories import PaddedHistories, chronological
from candidfeed.data.interactions import Interactions
from candidfeed.data.vocabulary import UNKNOWN, Vocabulary
from candidfeed.feed.cards import Cards
from candidfeed.feed.exported import ExportedFunction, compile_all
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.newcomers import ContentMap, Newcomers
from candidfeed.ranking.calibration import Calibrator
from candidfeed.ranking.inputs import RankerSpace
from candidfeed.retrieval.index.inner_products import inner_products
from candidfeed.retrieval.index.vector_index import VectorIndex
from candidfeed.retrieval.user_knn import UserNeighbours

# What follows from the rest, but would take a service of millions of items half a second at start.
_DERIVED = ("n_people", "by_popularity", "born_s", "by_age", "lacks_features")
# A share of likes is drawn to that of all items as if by so many more ratings.
_SHRINK_RATINGS = 5.0
_ITEMS_AT_ONCE = 65_536
# Longer than from any time that a table can hold to any other.
_BEHIND_S = 1e12

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
UserId = int | str


@dataclass(frozen=True)
class FeedSettings:
    """What is fixed when a release is made, beside its arrays.

    Attributes:
        dataset: its name.
        n_candidates: how many unseen items retrieval hands to the ranker.
        quotas: how many of them each of `retrieval.merge.SOURCES` may bring.
        value_weights: the published weighted sum that a list is ordered by: of `engaged`, P(the
            user acts on it), `liked`, P(they like it), and the log's own labels.
        candidate_width: candidates that `ranker` takes at once, at least n_candidates.
        tower_width, ranker_width: events of a history that `tower` and `ranker` take.
        tower_reads_vectors: whether the tower's function takes the vectors of a history's items
            beside their rows, instead of holding those of all items once more.
        action_width: candidates that `ranker_actions` takes at once; 0 where `ranker` speaks of
            actions itself, because the order depends on them, or where the log has none.
        positive_kinds: events of these kinds are a past; of any kind where it is empty.
    """

    dataset: str
    n_candidates: int
    quotas: Mapping[str, int]
    value_weights: Mapping[str, float]
    candidate_width: int
    tower_width: int
    ranker_width: int
    tower_reads_vectors: bool = False
    action_width: int = 0
    positive_kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Past:
    """What one user is known to have touched, oldest first, each item once.

    Attributes:
        items: int32 [n]; newcomers too, where stage one reads them.
        values: the event's value, float32 [n]; NaN where it carries none.
        times_s: float64 [n]; NaN where unknown.
    """

    items: Rows
    values: Floats
    times_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, which: NDArray[np.bool_]) -> "Past":
        """Where the mask is true."""
        return Past(self.items[which], self.values[which], self.times_s[which])

    def padded(self, width: int, *, n_items: int) -> PaddedHistories:
        """The latest `width` events as the history of one user, padded to exactly `width`."""
        n = min(len(self), width)
        last = slice(len(self) - n, None)
        lengths = np.array([n], np.int32)
        if n == width:
            items, values = self.items[last][None], self.values[last][None]
            return PaddedHistories(items, values, self.times_s[last][None], lengths, n_items)
        items = np.full((1, width), n_items, np.int32)
        values = np.full((1, width), np.nan, np.float32)
        times_s = np.full((1, width), np.nan)
        items[0, :n], values[0, :n] = self.items[last], self.values[last]
        times_s[0, :n] = self.times_s[last]
        return PaddedHistories(items, values, times_s, lengths, n_items)

    def then(self, later: "Past") -> "Past":
        """Both, oldest first; an item of both counts once, its last time."""
        if not len(later):
            return self
        items = np.concatenate([self.items, later.items])
        times_s = np.concatenate([self.times_s, later.times_s])
        values = np.concatenate([self.values, later.values])
        order = np.argsort(np.where(np.isnan(times_s), -np.inf, times_s), kind="stable")
        _, last_from_end = np.unique(items[order][::-1], return_index=True)
        kept = order[np.sort(len(order) - 1 - last_from_end)]
        return Past(items[kept], values[kept], times_s[kept])

    def without(self, item: int) -> "Past":
        """The same as if the user had never touched this item."""
        return self.take(self.items != item)


@dataclass(frozen=True)
class Pasts:
    """The past of every user, one after the other.

    Attributes:
        ends: where each user's events end, int64 [n_users].
        items, values, times_s: as in `Past`, of all users.
    """

    ends: NDArray[np.int64]
    items: Rows
    values: Floats
    times_s: NDArray[np.float64]

    @staticmethod
    def of(known: Interactions) -> "Pasts":
        events = chronological(known)
        ends = np.cumsum(np.bincount(events.user, minlength=events.n_users))
        return Pasts(ends, events.item, events.value, events.time_s)

    def of_user(self, row: int) -> Past:
        events = slice(self.ends[row - 1] if row else 0, self.ends[row])
        return Past(self.items[events], self.values[events], self.times_s[events])


@dataclass(frozen=True)
class Person:
    """Whom the feed is for.

    Attributes:
        row: row in the users' vocabulary; the number of users where the id is not known.
        bag: their features, one row.
    """

    user_id: UserId
    row: int
    bag: Bag
    past: Past

    @property
    def last_time_s(self) -> float:
        """Time of their last known event; NaN where none is known."""
        return float(self.past.times_s[-1]) if len(self.past) else float("nan")


@dataclass(frozen=True)
class Neighbours:
    """Item-to-item weights: how much having touched one item speaks for another.

    Attributes:
        weights: float32 [n_items, n_items], dense or CSR; row: touched, column: candidate. An
            empty CSR matrix where the catalogue is too large for any.
    """

    weights: Floats | sp.csr_matrix

    @property
    def are_none(self) -> bool:
        """Whether no item speaks for another."""
        return self._zeros is not None

    @cached_property
    def _zeros(self) -> Floats | None:
        """What is said of every item where none speaks for another."""
        if not isinstance(self.weights, sp.csr_matrix) or self.weights.nnz:
            return None
        # One zero for all of them: a million would be memory to fetch for each request.
        return np.broadcast_to(np.float32(0), self.weights.get_shape()[1:])

    def scores(self, touched: Rows, own_row: int) -> Floats:
        """What the touched items add up to for every item, float32 [n_items]; whoever asks."""
        if self._zeros is not None:
            return self._zeros
        # In one order: the sum's last bits must not depend on when an item was touched.
        part = self.weights[np.sort(touched)]
        if isinstance(part, np.ndarray):
            return part.sum(axis=0)
        n_items = part.get_shape()[1]
        summed = np.bincount(part.indices, part.data, minlength=n_items)
        return summed.astype(np.float32)

    def contributions(self, touched: Rows, candidates: Rows, own_row: int) -> Floats:
        """What each touched item adds to each candidate's score, float32 [touched, candidates]."""
        if self.are_none:
            return np.zeros((len(touched), len(candidates)), np.float32)
        part = self.weights[touched][:, candidates]
        return part if isinstance(part, np.ndarray) else part.toarray()


@dataclass(frozen=True)
class Served:
    """One release.

    Attributes:
        release_id: the generation's name; empty before it is written.
        users: every user of the log and of the users' table.
        user_map, item_map: what turns features into bags.
        user_bag: features of every user.
        pasts: what every user is known to have done.
        items: what is shown of each item.
        index: stage one's side of the items.
        tower: history and features of a user to a vector, float32 [1, dim].
        neighbours: the item-to-item model, or what people with much the same past touched.
        trending: items that most people touched lately, best first, int32 [at most n_items].
        space: what the ranker knows of items, ratings and time.
        ranker: a user and candidates to logits and rating distributions.
        ranker_actions: the same to what the action heads say; None where `ranker` does.
        calibration: of each head, from what the ranker says to how often it is so.
        content: from an item's features to the vector that stage one expects of it.
    """

    release_id: str
    settings: FeedSettings
    users: Vocabulary
    user_map: FeatureMap
    item_map: FeatureMap
    user_bag: Bag
    pasts: Pasts
    items: ItemTable
    index: VectorIndex
    tower: ExportedFunction
    neighbours: Neighbours | UserNeighbours
    trending: Rows
    space: RankerSpace
    ranker: ExportedFunction
    calibration: Mapping[str, Calibrator]
    content: ContentMap
    ranker_actions: ExportedFunction | None = None

    @cached_property
    def newcomers(self) -> Newcomers:
        """Items that came since, in rows from n_items on; the index finds them too."""
        return Newcomers(self.n_items)

    @cached_property
    def cards(self) -> Cards:
        """What was put since of what people see of items, and of what caps and mutes go by."""
        return Cards(self.items, self.item_map)

    @property
    def derived(self) -> dict[str, NDArray[Any]]:
        """What a release keeps although it follows from the rest."""
        return {name: getattr(self, name) for name in _DERIVED}

    def remember(self, derived: Mapping[str, NDArray[Any]]) -> None:
        """Take what `derived` gave of the same release, where it is told, for what would follow."""
        vars(self).update({name: derived[name] for name in _DERIVED if name in derived})

    @property
    def n_items(self) -> int:
        return len(self.items)

    @cached_property
    def item_ids(self) -> Vocabulary:
        return Vocabulary(self.items["item_id"])

    def are_new(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Which of the rows are newcomers', bool [n]; None: none is."""
        if not len(self.newcomers) or not len(rows) or rows.max() < self.n_items:
            return None
        return rows >= self.n_items

    def learned_of(self, person: "Person") -> "Person":
        """The same with what of their past the models have learned from: items of the release."""
        are_new = self.are_new(person.past.items)
        return person if are_new is None else replace(person, past=person.past.take(~are_new))

    def ids_of(self, rows: Rows) -> list[int | str]:
        if self.are_new(rows) is None and self._numbers is not None:
            return self._numbers[rows].tolist()
        ids, n = self.items["item_id"], self.n_items
        return [ids[row] if row < n else self.newcomers.of(row).item_id for row in rows.tolist()]

    def titles_of(self, rows: Rows) -> list[str]:
        # Item by item: what gathers rows of a table hands them to other threads.
        titles, card_of = self.items["title"], self.cards.of
        return [
            titles[row] if (card := card_of(row)) is None else card.title for row in rows.tolist()
        ]

    def vectors_of(self, rows: Rows) -> Floats:
        """Stage one's, float32 [n, dim]."""
        if (are_new := self.are_new(rows)) is None:
            return self.item_vectors[rows]
        vectors = self.item_vectors[np.where(are_new, 0, rows)]
        vectors[are_new] = self.newcomers.vectors_of(rows[are_new])
        return vectors

    def scores_of(self, vector: Floats, rows: Rows) -> Floats:
        """Inner products of stage one, float32 [n], with the bits that the index gives them."""
        if self.are_new(rows) is None:
            return inner_products(self.item_vectors, vector, rows)
        return inner_products(self.vectors_of(rows), vector)

    def popular(self, n: int, allowed: Rows | None = None) -> Rows:
        """The n items that most people touched, or of those that are allowed, newcomers too."""
        if allowed is None:
            return self.by_popularity[:n]
        rows = np.unique(allowed)
        return rows[np.argsort(-self.n_people_of(rows), kind="stable")[:n]]

    def latest(self, n: int, now_s: float, allowed: Rows | None = None) -> Rows:
        """The n items that came last and whose time is known, newcomers too.

        Args:
            now_s: see `came_s`.
        """
        if allowed is None:
            n_to_come = bisect_left(self.by_age, -now_s, key=lambda row: -self.born_s[row])
            soonest = self.by_age[max(0, n_to_come - n) : n_to_come]
            came = self.by_age[n_to_come : n_to_come + n]
            rows = np.concatenate([self.newcomers.rows, came, soonest])
        else:
            rows = np.unique(allowed)
            rows = rows[~np.isnan(self.born_of(rows))]
        return rows[np.argsort(-self.came_s(rows, now_s), kind="stable")[:n]]

    def came_s(self, rows: Rows, now_s: float) -> NDArray[np.float64]:
        """What `latest` is ordered by: `born_s` of these items, float64 [n].

        What is still to come stands behind all others, the soonest first: a wrong date must not
        lead the list for years.

        Args:
            now_s: seconds since 1970; NaN: nothing is to come.
        """
        born_s = self.born_of(rows)
        return np.where(born_s > now_s, now_s - born_s - _BEHIND_S, born_s)

    def born_of(self, rows: Rows) -> NDArray[np.float64]:
        """`born_s` of these items, float64 [n]."""
        if (are_new := self.are_new(rows)) is None:
            return self.born_s[rows]
        born_s = self.born_s[np.where(are_new, 0, rows)]
        born_s[are_new] = self.newcomers.born_s[rows[are_new] - self.n_items]
        return born_s

    @property
    def has_number_ids(self) -> bool:
        return self._numbers is not None

    @cached_property
    def _numbers(self) -> NDArray[np.int64] | None:
        """The items' ids where they are numbers."""
        ids = self.items["item_id"]
        return None if ids.dtype == pl.String else ids.to_numpy()

    @cached_property
    def lacks_features(self) -> NDArray[np.bool_]:
        """Items of which a feature is not known, bool [n_items]."""
        ids = self.space.item_bag.ids
        return np.concatenate(
            [
                self.item_map.are_unknown(ids[start : start + _ITEMS_AT_ONCE]).any(axis=1)
                for start in range(0, max(len(ids), 1), _ITEMS_AT_ONCE)
            ]
        )

    @property
    def item_vectors(self) -> Floats:
        """As they were built, float32 [n_items, dim]."""
        return self.index.base.vectors

    @cached_property
    def n_people(self) -> NDArray[np.int64]:
        """How many users touched each item, int64 [n_items]."""
        return np.bincount(self.pasts.items, minlength=self.n_items)

    def n_people_of(self, rows: Rows) -> NDArray[np.int64]:
        """`n_people` of these items, int64 [n]; nobody has touched a newcomer yet."""
        if (are_new := self.are_new(rows)) is None:
            return self.n_people[rows]
        return np.where(are_new, 0, self.n_people[np.where(are_new, 0, rows)])

    @cached_property
    def n_active(self) -> int:
        """Users of whom anything is known."""
        return int(np.count_nonzero(np.diff(self.pasts.ends, prepend=0)))

    @cached_property
    def by_popularity(self) -> Rows:
        """Items that anybody touched, those that most people did first; ties by row."""
        order = np.lexsort((np.arange(self.n_items), -self.n_people))
        return order[: np.count_nonzero(self.n_people)].astype(np.int32)

    @cached_property
    def born_column(self) -> str | None:
        """The first column of times, such as a date of release, if there is any."""
        times = (name for name, dtype in self.items.schema.items() if dtype == pl.Datetime)
        return next(times, None)

    @cached_property
    def born_s(self) -> NDArray[np.float64]:
        """When each item came, seconds since 1970 UTC, float64 [n_items]; NaN if unknown.

        Its first column of times says so, such as a date of release; where it has none, its first
        event.
        """
        if self.born_column is not None:
            return self.items[self.born_column].dt.epoch("ms").cast(pl.Float64).to_numpy() / 1e3
        first = np.full(self.n_items, np.inf)
        # Events without a time say nothing.
        np.fmin.at(first, self.pasts.items, self.pasts.times_s)
        return np.where(np.isfinite(first), first, np.nan)

    @cached_property
    def by_age(self) -> Rows:
        """Items whose time is known, the latest first; ties by row."""
        order = np.lexsort((np.arange(self.n_items), -self.born_s))
        return order[: np.count_nonzero(~np.isnan(self.born_s))].astype(np.int32)

    @cached_property
    def share_liked(self) -> NDArray[np.float64]:
        """Of each item's ratings, the share that liked it, drawn to that of all; [n_items + 1].

        The last is that of an item that nobody rated. Of a log with ratings only.
        """
        assert self.space.scale.like_at is not None
        rated = np.isfinite(self.pasts.values)
        items, liked = self.pasts.items[rated], self.pasts.values[rated] >= self.space.scale.like_at
        n_liked = np.bincount(items, liked, minlength=self.n_items + 1)
        n_rated = np.bincount(items, minlength=self.n_items + 1)
        return (n_liked + _SHRINK_RATINGS * liked.mean()) / (n_rated + _SHRINK_RATINGS)

    @property
    def has_ratings(self) -> bool:
        return self.space.scale.like_at is not None

    @property
    def functions(self) -> dict[str, ExportedFunction]:
        """Those that it has, by name."""
        known = {"tower": self.tower, "ranker": self.ranker, "ranker_actions": self.ranker_actions}
        return {name: function for name, function in known.items() if function is not None}

    def compile(self, *, quickly: bool) -> None:
        """Compile all functions side by side; see `compile_all`."""
        compile_all(self.functions.values(), quickly=quickly)

    @cached_property
    def anonymous(self) -> Person:
        """Somebody of whom nothing is known."""
        return Person("", len(self.users), _no_features(self.user_bag), _NO_PAST)

    def person(self, user_id: UserId) -> Person:
        """Who this is; an id that the release does not know makes a person without a past.

        Where ids are numbers, a text that is one is taken for it.
        """
        row = self.users.row(user_id)
        if row == UNKNOWN:
            return replace(self.anonymous, user_id=user_id)
        bag = Bag(self.user_bag.ids[[row]], self.user_bag.weights[[row]])
        return Person(self.users.id_of(row), row, bag, self.pasts.of_user(row))


_NO_PAST = Past(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0))


def _no_features(bag: Bag) -> Bag:
    return Bag(np.zeros_like(bag.ids[:1]), np.zeros_like(bag.weights[:1]))
