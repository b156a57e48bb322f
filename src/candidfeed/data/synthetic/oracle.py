"""What the synthetic world knows of itself: the true probabilities, and the best possible order."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidfeed.data.synthetic import truth
from candidfeed.data.synthetic.files import read_world
from candidfeed.data.synthetic.settings import START
from candidfeed.data.synthetic.truth import UsersAt
from candidfeed.data.synthetic.world import World

FEEDBACK = ("click", "like", "hide")
_USERS_AT_ONCE, _ITEMS_AT_ONCE = 32, 1_024

Floats = NDArray[np.float32]
Rows = NDArray[np.integer]


@dataclass(frozen=True)
class Feedback:
    """Probabilities of what a user does about an item that they are shown, aligned.

    Attributes:
        click: of a click.
        like: of a click and a like; never more than `click`.
        hide: of no click and a hide.
    """

    click: Floats
    like: Floats
    hide: Floats

    def value(self, weights: Mapping[str, float]) -> Floats:
        """The expected value of the impression, where each kind is worth so much.

        Raises:
            ValueError: a weight is for something other than click, like and hide.
        """
        unknown = sorted(set(weights) - set(FEEDBACK))
        if unknown:
            raise ValueError(f"weights: {unknown[0]!r} is none of {', '.join(FEEDBACK)}")
        worth = np.zeros_like(self.click)
        for kind, weight in weights.items():
            worth += np.float32(weight) * getattr(self, kind)
        return worth


@dataclass(frozen=True)
class Oracle:
    """Answers for any user, item and moment; rows are the ids of the world's tables.

    Times are seconds since 1970 UTC, one for all or one a user; beyond the span the world stands
    still. Before an item is out it is neither shown nor clicked: all its probabilities are 0.

    Attributes:
        world: what is true.
        lots: what the sources draw from.
    """

    world: World
    lots: truth.Lots

    @classmethod
    def of(cls, world: World) -> "Oracle":
        return cls(world, truth.Lots(world))

    @classmethod
    def open(cls, folder: Path) -> "Oracle":
        """The oracle of a world that `candidfeed synth` wrote.

        Raises:
            DataError: the folder holds no world, or one that is damaged or of another format.
        """
        return cls.of(read_world(folder))

    @property
    def start_s(self) -> float:
        return START.timestamp()

    @property
    def end_s(self) -> float:
        return (START + timedelta(days=self.world.settings.span_days)).timestamp()

    def feedback(
        self, users: Rows, items: Rows, time_s: ArrayLike, *, position: ArrayLike = 1
    ) -> Feedback:
        """What each user does about one item, float32 [n], if it is shown at this position.

        Position 1 is always looked at: what is true there is free of position.

        Raises:
            ValueError: a slate has no such position.
        """
        asked, items = UsersAt.of(self.world, users, time_s), np.asarray(items)
        affinity = np.einsum("ud,ud->u", asked.taste, self.world.items.vector[items])
        looked = truth.examined(self.world.settings)[self._slot(position)]
        return self._feedback(asked, items, affinity, looked)

    def p_shown(
        self, users: Rows, items: Rows, time_s: ArrayLike, *, position: int | None = None
    ) -> Floats:
        """P(the slate of a request holds the item), anywhere or at this position, float32 [n].

        Raises:
            ValueError: a slate has no such position.
        """
        asked, items = UsersAt.of(self.world, users, time_s), np.asarray(items)
        likes = asked.likes(self.world.items.cluster[items], self.world.settings)
        by_position = list(self._shown(asked, items, likes))
        if position is None:
            return np.sum(by_position, axis=0)
        return by_position[int(self._slot(position))]

    def scores(self, users: Rows, time_s: ArrayLike) -> Floats:
        """P(a request is answered with the item and the user clicks it), float32 [b, n_items].

        No ranking predicts the log's next positives better than this one: it knows both what the
        user wants and what they get to see.
        """
        looked = truth.examined(self.world.settings)

        def p_logged(asked: UsersAt, items: Rows, affinity: Floats) -> Floats:
            likes = asked.cluster_shares(self.world.settings)[:, self.world.items.cluster[items]]
            seen = np.zeros_like(affinity)
            for shown, share in zip(self._shown(asked, items, likes), looked, strict=True):
                shown *= share
                seen += shown
            seen *= self._p_click(asked, items, affinity)
            return seen

        return self._of_all_items(users, time_s, p_logged)

    def values(self, users: Rows, time_s: ArrayLike, weights: Mapping[str, float]) -> Floats:
        """The expected value of each item if it is shown at position 1, float32 [b, n_items].

        No feed is worth more to its users than one that ranks by this: what a recommender should
        do, whatever the log's own policy did.
        """

        def value(asked: UsersAt, items: Rows, affinity: Floats) -> Floats:
            return self._feedback(asked, items, affinity, np.float32(1)).value(weights)

        return self._of_all_items(users, time_s, value)

    def during(self, start_s: float, end_s: float, *, n_times: int = 4) -> "OracleScorer":
        """The best order of a stretch of time: the mean of `scores` at evenly spread moments."""
        places = (np.arange(n_times) + 0.5) / n_times
        return OracleScorer(self, tuple(start_s + places * (end_s - start_s)))

    def _slot(self, position: ArrayLike) -> NDArray[np.int64]:
        """Positions count from 1."""
        slot, length = np.asarray(position, dtype=np.int64) - 1, self.world.settings.slate_length
        if slot.size and not (0 <= slot.min() and slot.max() < length):
            raise ValueError(f"positions should be 1 to {length}, but {position} came")
        return slot

    def _of_all_items(self, users: Rows, time_s: ArrayLike, score: "_Score") -> Floats:
        """Block by block: what a score takes of memory between stays in the processor's cache."""
        users, n_items = np.asarray(users), len(self.world.items.tick)
        times_s = np.asarray(time_s, dtype=np.float64)
        scores = np.empty((len(users), n_items), dtype=np.float32)
        for first in range(0, len(users), _USERS_AT_ONCE):
            some = slice(first, first + _USERS_AT_ONCE)
            asked = UsersAt.of(self.world, users[some], times_s[some] if times_s.ndim else times_s)
            for start in range(0, n_items, _ITEMS_AT_ONCE):
                items = np.arange(start, min(start + _ITEMS_AT_ONCE, n_items))
                affinity = asked.taste @ self.world.items.vector[items].T
                scores[some, items[0] : items[-1] + 1] = score(asked.with_axis(), items, affinity)
        return scores

    def _p_click(self, asked: UsersAt, items: Rows, affinity: Floats) -> Floats:
        """P(click | looked at); 0 where the item is not out yet."""
        known = self.world.items
        age = asked.tick - known.tick[items]
        new = truth.novelty(self.world.settings, age)
        appeal = known.quality[items] + known.clickbait[items] + new + asked.generosity
        return truth.p_click(self.world.settings, affinity, appeal) * (age >= 0)

    def _feedback(
        self, asked: UsersAt, items: Rows, affinity: Floats, looked: Floats | np.float32
    ) -> Feedback:
        settings, known = self.world.settings, self.world.items
        quality, clickbait = known.quality[items], known.clickbait[items]
        clicks = self._p_click(asked, items, affinity)
        passes = (known.tick[items] <= asked.tick) - clicks
        return Feedback(
            click=looked * clicks,
            like=looked * clicks * truth.p_like(settings, affinity, quality, clickbait),
            hide=looked * passes * truth.p_hide(settings, affinity, clickbait),
        )

    def _shown(self, asked: UsersAt, items: Rows, likes: Floats) -> Iterator[Floats]:
        """P(the item is shown) at each position from the first to the last.

        `likes` is P(taste picks the item's cluster).
        """
        by_taste, by_other = self._drawn(asked, items, likes)
        instead = by_other - by_taste
        absent = np.ones_like(by_taste)
        for other_share in truth.other_share(self.world.settings):
            shown = other_share * instead
            shown += by_taste
            shown *= absent
            absent -= shown
            yield shown

    def _drawn(self, asked: UsersAt, items: Rows, likes: Floats) -> tuple[Floats, Floats]:
        """P(a slot draws the item), where taste fills it and where another source does."""
        settings, known, lots, tick = self.world.settings, self.world.items, self.lots, asked.tick
        is_out = (known.tick[items] <= tick).astype(np.float32)
        is_fresh = items >= self.world.first_fresh_at[tick]
        tickets = known.tickets[items] * is_out
        popular = tickets / lots.other_size[0, tick]
        fresh = is_fresh * is_out / lots.other_size[1, tick]
        explored = is_out / lots.other_size[2, tick]
        shares = np.array(settings.source_shares, dtype=np.float32)
        by_other = shares[0] * popular + shares[1] * fresh + shares[2] * explored
        in_cluster = np.maximum(lots.cluster_size[tick, known.cluster[items]], 1)
        likes_nothing = asked.likes_nothing(lots, settings)
        by_taste = likes * (tickets / in_cluster) + likes_nothing * popular
        return by_taste.astype(np.float32, copy=False), by_other


_Score = Callable[[UsersAt, Rows, Floats], Floats]


@dataclass(frozen=True)
class OracleScorer:
    """The best possible order over a stretch of time, as `evaluate_ranking` takes a model.

    Attributes:
        times_s: the moments that it is the mean of.
    """

    oracle: Oracle
    times_s: tuple[float, ...]

    def scores(self, users: Rows) -> Floats:
        """float32 [len(users), n_items]."""
        total = self.oracle.scores(users, self.times_s[0])
        for time_s in self.times_s[1:]:
            total += self.oracle.scores(users, time_s)
        return total / np.float32(len(self.times_s))
