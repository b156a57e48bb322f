"""Ask the exported models: one person's arrays in, predictions of each candidate out.

All shapes are fixed by the release: a candidate's predictions are the same to the last bit whether
it is scored alone or among others, and in any order.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.exported import Arrays, ExportedFunction
from candidfeed.feed.served import FeedSettings, Floats, Person, Rows, Served
from candidfeed.ranking.action_inputs import expected_actions, expected_of_anybody
from candidfeed.ranking.inputs import (
    DENSE_FEATURES,
    RankerSpace,
    dense_features,
    pair_inputs,
    user_inputs,
)
from candidfeed.ranking.user_state import UserState


@dataclass(frozen=True)
class Heads:
    """What is predicted of each candidate, calibrated, float64 [c] each.

    Attributes:
        p_engaged: probability that the user acts on it.
        p_like: probability that they like it, should they rate it; 0 where the log has no ratings.
        rating: the rating to expect; 0 where the log has none.
        actions: what is expected of each label, were it shown at the first place: P(it follows),
            or of a counted one how many; empty where the order depends on none of them.
        later: then, the same of the candidates at some places, int64 [n], once they are chosen.
        dense: what the ranker read of each, float32 [c, len(DENSE_FEATURES)]; None where it was not
            asked.
    """

    p_engaged: NDArray[np.float64]
    p_like: NDArray[np.float64]
    rating: NDArray[np.float64]
    actions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    later: Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.float64]]] | None = None
    dense: Floats | None = None

    @property
    def by_name(self) -> dict[str, NDArray[np.float64]]:
        """What the published weighted sum is of."""
        return {"engaged": self.p_engaged, "liked": self.p_like, **self.actions}

    def actions_at(self, places: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        """`actions` of the candidates at these places, [n] each."""
        if self.later is not None:
            return self.later(places)
        return {name: one[places] for name, one in self.actions.items()}


@dataclass(frozen=True)
class View:
    """What stage one makes of a person with a past.

    Attributes:
        vector: the user tower's, float32 [dim].
        neighbours: score of every item by the neighbour model, float32 [n_items].
    """

    vector: Floats
    neighbours: Floats

    def neighbours_of(self, rows: Rows) -> Floats:
        """Of these items, float32 [n]; 0 of those that the release does not hold."""
        n_items = len(self.neighbours)
        if not len(rows) or rows.max() < n_items:
            return self.neighbours[rows]
        return np.where(rows < n_items, self.neighbours[np.minimum(rows, n_items - 1)], 0.0).astype(
            np.float32
        )


def view_of(served: Served, person: Person) -> View | None:
    """None for a person without a past."""
    if not len(person.past):
        return None
    neighbours = served.neighbours.scores(served.learned_of(person).past.items, person.row)
    return View(user_vector(served, person), neighbours)


def user_vector(served: Served, person: Person) -> Floats:
    """Stage one's side of the user, float32 [dim]."""
    past, settings = person.past, served.settings
    if (are_new := served.are_new(past.items)) is not None:
        # Any item of the release stands for them: of each event the tower reads the vector.
        person = replace(person, past=replace(past, items=np.where(are_new, 0, past.items)))
    inputs = tower_inputs(person, settings, item_vectors=served.item_vectors)
    if are_new is not None:
        latest = past.items[-settings.tower_width :]
        inputs["history_vectors"][0, : len(latest)] = served.vectors_of(latest)
    return served.tower(inputs)[0]


def tower_inputs(person: Person, settings: FeedSettings, *, item_vectors: Floats) -> Arrays:
    """What the user tower reads, as a batch of one."""
    n_items = len(item_vectors)
    history = person.past.padded(settings.tower_width, n_items=n_items).items
    inputs = {
        "history": history,
        "feature_ids": person.bag.ids,
        "feature_weights": person.bag.weights,
    }
    if settings.tower_reads_vectors:
        # Padding has the last item's, which nothing reads.
        inputs["history_vectors"] = item_vectors.take(history, axis=0, mode="clip")
    return inputs


def user_state(space: RankerSpace, person: Person, *, width: int, now_s: float) -> UserState:
    """What the ranker knows of the person, as a batch of one."""
    past = person.past.padded(width, n_items=space.n_items)
    row = np.array([person.row], np.int32)
    return UserState.of(past, person.bag, row, space.scale, now_s=np.array([now_s]))


@dataclass(frozen=True)
class Known:
    """What the ranker is asked with.

    Attributes:
        rows: of the candidates, int32 [c]; those of newcomers are as of padding, for the ranker
            knows nothing of them by their rows.
        dense: of each candidate, float32 [c, len(DENSE_FEATURES)].
    """

    state: UserState
    rows: Rows
    dense: Floats


def known_of(
    served: Served,
    person: Person,
    rows: Rows,
    *,
    tower: Floats,
    neighbour: Floats,
    now_s: float,
) -> Known:
    """
    Args:
        rows: int32 [c].
        tower: inner products of stage one, float32 [c].
        neighbour: scores of the neighbour model, float32 [c].
        now_s: seconds since 1970 UTC; NaN if unknown.
    """
    space, person = served.space, served.learned_of(person)
    state = user_state(space, person, width=_width_of(served, person), now_s=now_s)
    dense = dense_of(served, state, rows, tower, neighbour)
    if (are_new := served.are_new(rows)) is not None:
        rows = np.where(are_new, space.n_items, rows).astype(np.int32)
    return Known(state, rows, dense)


def ranked_heads(served: Served, known: Known) -> Heads:
    """What the ranker predicts of these candidates."""
    space, rated = served.space, served.has_ratings
    state, rows, dense = known.state, known.rows, known.dense
    predicted = predictions(served, state, rows, dense)
    logit, nothing = predicted["engaged"].astype(np.float64), np.zeros(len(rows))
    p_level = predicted["rating"].astype(np.float64) if rated else np.empty((len(rows), 0))
    has_later = served.ranker_actions is not None
    # What is not finite goes on as it is: it is ranked last, and counted.
    with np.errstate(over="ignore", invalid="ignore"):
        # No matrix products here: their last bits depend on a row's place.
        calibrated = served.calibration
        return Heads(
            p_engaged=calibrated["engaged"](1.0 / (1.0 + np.exp(-logit))),
            p_like=(
                calibrated["liked"]((p_level * space.scale.liked).sum(axis=1)) if rated else nothing
            ),
            rating=(p_level * space.scale.levels).sum(axis=1) if rated else nothing,
            actions=_actions(served, predicted),
            later=partial(_actions_at, served, known) if has_later else None,
            dense=dense,
        )


def dense_of(
    served: Served, state: UserState, rows: Rows, tower: Floats, neighbour: Floats
) -> Floats:
    """`dense_features` of one user's candidates, float32 [c, f], newcomers among them."""
    are_new = served.are_new(rows)
    if are_new is None:
        return dense_features(
            served.space, state, rows[None], tower=tower[None], neighbour=neighbour[None]
        )[0]
    dense = np.empty((len(rows), len(DENSE_FEATURES)), np.float32)
    for places, bag in (
        (np.flatnonzero(~are_new), None),
        (np.flatnonzero(are_new), served.newcomers.bag_of(rows[are_new])),
    ):
        known = rows[places] if bag is None else np.arange(len(places), dtype=np.int32)
        dense[places] = dense_features(
            served.space, state, known[None],
            tower=tower[None, places], neighbour=neighbour[None, places], untouched=bag,
        )[0]  # fmt: skip
    return dense


def _width_of(served: Served, person: Person) -> int:
    """Events of a history that stage two is given: none is padded for where none is read whole."""
    most = served.settings.ranker_width
    return most if "history" in served.ranker.reads else min(most, max(1, len(person.past)))


def _actions_at(
    served: Served, known: Known, places: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """What is expected of the candidates at these places, where action heads stand apart."""
    asked = action_predictions(served, known.state, known.rows[places], known.dense[places])
    return _actions(served, asked)


def _actions(served: Served, predicted: Arrays) -> dict[str, NDArray[np.float64]]:
    """What is expected of each label, calibrated, [c] each; empty where it was not asked for."""
    space = served.space.actions
    if space is None or "actions" not in predicted:
        return {}
    expected = expected_actions(predicted["actions"], space)
    return {name: served.calibration[name](one) for name, one in expected.items()}


def predictions(
    served: Served, state: UserState, rows: Rows, dense: Floats
) -> dict[str, NDArray[np.floating]]:
    """What the ranker says of any number of candidates, [c, ...] by head.

    Args:
        state: of one user, as `user_state` makes it.
        rows: int32 [c].
        dense: float32 [c, f].
    """
    width = served.settings.candidate_width
    return _in_parts(served.space, served.ranker, width, state, rows, dense)


def action_predictions(
    served: Served, state: UserState, rows: Rows, dense: Floats
) -> dict[str, NDArray[np.floating]]:
    """What the action heads say, as `predictions`; of a release where they stand apart."""
    assert served.ranker_actions is not None
    width = served.settings.action_width
    return _in_parts(served.space, served.ranker_actions, width, state, rows, dense)


def _in_parts(
    space: RankerSpace,
    function: ExportedFunction,
    width: int,
    state: UserState,
    rows: Rows,
    dense: Floats,
) -> dict[str, NDArray[np.floating]]:
    """Asks `function` of `width` candidates at a time."""
    of_user = user_inputs(space, state, function.reads)
    parts = []
    for start in range(0, max(len(rows), 1), width):
        some = rows[start : start + width]
        items = np.full((1, width), space.n_items, np.int32)
        features = np.zeros((1, width, dense.shape[1]), np.float32)
        items[0, : len(some)] = some
        features[0, : len(some)] = dense[start : start + width]
        asked = candidate_inputs(space, state, items, features, function.reads)
        heads = function({**of_user, **asked})
        parts.append({name: one[0, : len(some)] for name, one in heads.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def candidate_inputs(
    space: RankerSpace,
    state: UserState,
    items: NDArray[np.int32],
    dense: Floats,
    reads: Collection[str] | None = None,
) -> Arrays:
    """What the release's `ranker` and `ranker_actions` take beside `user_inputs`.

    Args:
        items: int32 [1, width]; n_items is padding.
        dense: float32 [1, width, f].
        reads: as in `user_inputs`.
    """
    pairs: dict[str, Any] = {
        **pair_inputs(space, state, items, dense, time_s=state.now_s[:, None], reads=reads)
    }
    if "rates" in pairs:
        # Nothing was ever shown of padding, nor of a newcomer.
        real = (items < space.n_items)[..., None]
        pairs |= {name: pairs[name] * real for name in ("rates", "taste")}
    return {"item": items, **pairs}


def popular_heads(served: Served, rows: Rows) -> Heads:
    """What is known of these items from everybody, for a person of whom nothing is known.

    P(engaged) is the share of the people who touched the item, P(like) the share of its ratings
    that liked it, drawn to the share of all.
    """
    space, are_new = served.space, served.are_new(rows)
    known = rows if are_new is None else rows[~are_new]

    def of_each(of_known: NDArray[Any], of_new: float) -> NDArray[Any]:
        if are_new is None:
            return of_known
        values = np.full((len(rows), *of_known.shape[1:]), of_new, of_known.dtype)
        values[~are_new] = of_known
        return values

    p_like = rating = np.zeros(len(rows))
    if served.has_ratings:
        p_like = served.share_liked[np.minimum(rows, served.n_items)]
        mean_rating = space.items.mean_rating[known].astype(np.float64)
        rating = of_each(mean_rating, space.scale.mean)
    actions = {}
    if space.actions is not None:
        lift = of_each(space.actions.items.lift[known], 0.0)
        actions = expected_of_anybody(space.actions, lift)
    return Heads(
        p_engaged=served.n_people_of(rows) / served.n_active,
        p_like=p_like,
        rating=rating,
        actions=actions,
    )
