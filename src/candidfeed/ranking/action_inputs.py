"""What action heads read of items, users and places: rates among older impressions, and tastes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.impressions import Impressions, as_targets
from candidfeed.data.tables import Label
from candidfeed.ranking.user_state import UserState

# Events of a history that a candidate is compared with, the latest ones.
N_RECENT = 48
# What stage one says two items have in common, in so many leading directions.
N_TASTES = 32
# Places further down share what is learned of the last of these.
MAX_POSITIONS = 50
# A rate is drawn to that of all impressions as if by so many more events that come one by one: as
# few, and as many, as may be found in how much rates differ.
_LEAST_SHRINK, _MOST_SHRINK = 0.5, 50.0
_DAY_S = 86_400.0
# A count that is expected to be larger than e to this is nonsense.
_MOST_LOG_EXPECTED = 20.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rates:
    """How often each label followed, of items or of users; one row each.

    Attributes:
        lift: log of how many events came over how many would have, had every impression of that
            place drawn its share; float32 [n, n_labels].
        log_shown: log1p of the impressions, float32 [n].
    """

    lift: Floats
    log_shown: Floats

    @staticmethod
    def of(row: NDArray[np.integer], came: Floats, expected: Floats, n: int) -> "Rates":
        """
        Args:
            row: whose each impression is, int [n_impressions].
            came, expected: float32 [n_impressions, n_labels].
        """
        lift = np.empty((n, came.shape[1]), np.float32)
        for label in range(came.shape[1]):
            sums = [np.bincount(row, one[:, label], minlength=n) for one in (came, expected)]
            more = _events_to_draw_in(row, came[:, label], expected[:, label])
            lift[:, label] = np.log((sums[0] + more) / (sums[1] + more))
        return Rates(lift, np.log1p(np.bincount(row, minlength=n)).astype(np.float32))

    def columns(self, rows: NDArray[np.integer]) -> Floats:
        """float32 [*rows.shape, n_labels + 1]."""
        return np.concatenate([self.lift[rows], self.log_shown[rows][..., None]], axis=-1)


@dataclass(frozen=True)
class ActionSpace:
    """Everything that turns a (user, item, place) into what action heads read.

    Attributes:
        labels: what the heads predict, in their order.
        by_position: events an impression at each place, the unknown one first; float32
            [n_positions + 1, n_labels].
        items: rates of every item.
        users: rates of every user, and in the last row of an unknown one.
        tastes: stage one's item vectors, of length 1, in their leading directions; float32
            [n_items, at most N_TASTES].
    """

    # What `user_inputs` and `pair_inputs` make.
    OF_USER: ClassVar = ("recent_taste", "recent_facts")
    OF_PAIR: ClassVar = ("rates", "position", "taste")

    labels: tuple[Label, ...]
    by_position: Floats
    items: Rates
    users: Rates
    tastes: Floats

    @staticmethod
    def of(
        older: Impressions, labels: Sequence[Label], *, n_users: int, item_vectors: Floats
    ) -> "ActionSpace":
        """
        Args:
            older: what was shown before any impression that is learned from.
            item_vectors: stage one's, float32 [n_items, dim].
        """
        came = as_targets(older.followed, labels)
        n_positions = int(np.clip(older.position.max(initial=1), 1, MAX_POSITIONS))
        place = np.minimum(older.position, n_positions)
        by_position = _mean_by(place, came, n_positions + 1)
        expected = by_position[place]
        return ActionSpace(
            labels=tuple(labels),
            by_position=by_position,
            items=Rates.of(older.item, came, expected, len(item_vectors)),
            users=Rates.of(older.user, came, expected, n_users + 1),
            tastes=leading_directions(item_vectors),
        )

    @property
    def n_positions(self) -> int:
        return len(self.by_position) - 1

    def inputs(
        self,
        users: NDArray[np.integer],
        items: NDArray[np.integer],
        position: NDArray[np.integer],
        recent: "Recent",
    ) -> dict[str, NDArray[np.generic]]:
        """What `ActionHeads` reads beside the dense features; see there.

        Args:
            users: int [b]; any row beyond the last is an unknown user.
            items: int [b, c], rows of real items.
            position: int [b, c]; 0 is not known.
            recent: the latest events of these users.
        """
        return {**self.user_inputs(recent), **self.pair_inputs(users, items, position)}

    def user_inputs(self, recent: "Recent") -> dict[str, NDArray[np.generic]]:
        """What of them does not depend on the candidate."""
        known = recent.items < len(self.tastes)
        return {
            "recent_taste": self.tastes[np.where(known, recent.items, 0)] * known[..., None],
            "recent_facts": recent.facts(known),
        }

    def pair_inputs(
        self,
        users: NDArray[np.integer],
        items: NDArray[np.integer],
        position: NDArray[np.integer],
    ) -> dict[str, NDArray[np.generic]]:
        """The others."""
        user = np.minimum(users, len(self.users.log_shown) - 1)
        of_user = self.users.columns(user)[:, None]
        of_item = self.items.columns(items)
        of_user = np.broadcast_to(of_user, (*items.shape, of_user.shape[-1]))
        return {
            "rates": np.concatenate([of_item, of_user], axis=-1).astype(np.float32),
            "position": np.minimum(position, self.n_positions).astype(np.int32),
            "taste": self.tastes[items],
        }


@dataclass(frozen=True)
class Recent:
    """The latest N_RECENT events of a batch of users, oldest first, padded at the end.

    Attributes:
        items: int32 [b, n]; n_items is padding.
        tone: rating minus the user's mean, float32 [b, n]; 0 without one.
        log_days: log1p of the days since then, float32 [b, n]; 0 where unknown.
    """

    items: NDArray[np.int32]
    tone: Floats
    log_days: Floats

    @staticmethod
    def of(state: UserState, *, n_items: int) -> "Recent":
        length = (state.history < n_items).sum(axis=1)
        first = np.maximum(length - N_RECENT, 0)
        place = first[:, None] + np.arange(N_RECENT)
        inside = place < length[:, None]
        at = np.arange(len(length))[:, None], np.minimum(place, state.history.shape[1] - 1)
        days = np.maximum(state.now_s[:, None] - state.times_s[at], 0.0) / _DAY_S
        return Recent(
            items=np.where(inside, state.history[at], n_items).astype(np.int32),
            tone=np.where(inside, state.tone[at], 0.0).astype(np.float32),
            log_days=np.where(inside, np.nan_to_num(np.log1p(days)), 0.0).astype(np.float32),
        )

    def take(self, rows: NDArray[np.integer]) -> "Recent":
        return Recent(self.items[rows], self.tone[rows], self.log_days[rows])

    def facts(self, known: NDArray[np.bool_]) -> Floats:
        """Whether there is an event, its tone, age and share of the way to the last; [b, n, 4]."""
        order = np.cumsum(known, axis=1) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        return np.stack([known, self.tone, self.log_days, order * known], axis=-1, dtype=np.float32)


def _events_to_draw_in(row: NDArray[np.integer], came: Floats, expected: Floats) -> float:
    """By how many events rates are to be drawn to the common one, from how much they differ.

    Of two impressions of one row, what came beyond what was expected agrees as far as rows differ;
    what each scatters by alone is chance. Their ratio is the weight of the common rate.

    Source: Robbins, Berkeley Symposium 1956 (empirical Bayes), by the method of moments.

    Args:
        row: int [n]; its impressions hang together.
        came, expected: of one label, float32 [n].
    """
    beyond = came.astype(np.float64) - expected

    def of_pairs(one: NDArray[np.float64]) -> float:
        return float(np.sum(np.bincount(row, one) ** 2) - np.sum(one**2))

    pairs = of_pairs(expected.astype(np.float64))
    differ = of_pairs(beyond) / pairs if pairs > 0 else 0.0
    chance = float(np.sum(beyond**2) / expected.sum()) if expected.any() else 1.0
    return max(chance, 1e-6) * float(np.clip(1.0 / max(differ, 1e-9), _LEAST_SHRINK, _MOST_SHRINK))


def leading_directions(vectors: Floats) -> Floats:
    """Unit vectors, float32 [n, at most N_TASTES], whose cosines are nearly those of `vectors`.

    A row of zeros stays one.
    """
    if vectors.shape[1] > N_TASTES:
        gram = vectors.T @ vectors
        _, directions = np.linalg.eigh(gram.astype(np.float64))
        vectors = vectors @ directions[:, : -N_TASTES - 1 : -1].astype(np.float32)
    length = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def expected_actions(logs: Floats, space: ActionSpace) -> dict[str, NDArray[np.float64]]:
    """What action heads expect, by label: P(it follows), or of a counted one how many; [...].

    Args:
        logs: what the heads say, float32 [..., labels].
    """
    expected = np.exp(np.minimum(logs.astype(np.float64), _MOST_LOG_EXPECTED))
    return {
        label.name: expected[..., place] if label.counted else np.minimum(expected[..., place], 1.0)
        for place, label in enumerate(space.labels)
    }


def expected_of_anybody(space: ActionSpace, lift: Floats) -> dict[str, NDArray[np.float64]]:
    """What the rates alone say of items at the first place, as `expected_actions`.

    Args:
        lift: of each item, as `Rates.lift`; 0 where nothing is known of it.
    """
    first = np.log(np.maximum(space.by_position[1], 1e-12))
    return expected_actions(first + lift, space)


def _mean_by(place: NDArray[np.integer], values: Floats, n: int) -> Floats:
    """Mean of the rows of each place, float32 [n, width]; that of all where a place has none."""
    count = np.bincount(place, minlength=n)[:, None]
    columns = [np.bincount(place, one, minlength=n) for one in values.T]
    sums = np.stack(columns, axis=-1) if columns else np.zeros((n, 0))
    overall = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    return np.where(count > 0, sums / np.maximum(count, 1), overall).astype(np.float32)
