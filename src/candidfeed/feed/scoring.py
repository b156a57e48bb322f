"""Ask the exported models: one person's arrays in, predictions of each candidate out.

All shapes are fixed by the release: a candidate's predictions are the same to the last bit whether
it is scored alone or among others, and in any order.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.exported import Arrays
from candidfeed.feed.served import FeedSettings, Floats, Person, Rows, Served
from candidfeed.ranking.inputs import RankerSpace, UserState, dense_features, ranker_inputs
from candidfeed.retrieval.index.inner_products import inner_products

# Ratings that an item's share of likes is drawn to the share of all by.
_SHRINK_RATINGS = 5.0


@dataclass(frozen=True)
class Heads:
    """What is predicted of each candidate, calibrated, float64 [c] each.

    Attributes:
        p_engaged: probability that the user acts on it.
        p_like: probability that they like it, should they rate it; 0 where the log has no ratings.
        rating: the rating to expect; 0 where the log has none.
    """

    p_engaged: NDArray[np.float64]
    p_like: NDArray[np.float64]
    rating: NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What stage one makes of a person with a past.

    Attributes:
        vector: the user tower's, float32 [dim].
        neighbours: score of every item by the item-to-item model, float32 [n_items].
    """

    vector: Floats
    neighbours: Floats


def view_of(served: Served, person: Person) -> View | None:
    """None for a person without a past."""
    if not len(person.past):
        return None
    return View(user_vector(served, person), served.neighbours.scores(person.past.items))


def tower_scores(served: Served, view: View, rows: Rows) -> Floats:
    """Inner products of stage one, float32 [c], with the bits that the index gives them."""
    return inner_products(served.item_vectors, view.vector, rows)


def user_vector(served: Served, person: Person) -> Floats:
    """Stage one's side of the user, float32 [dim]."""
    return served.tower(tower_inputs(person, served.settings, item_vectors=served.item_vectors))[0]


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
        inputs["history_vectors"] = item_vectors[np.minimum(history, n_items - 1)]
    return inputs


def user_state(space: RankerSpace, person: Person, *, width: int, now_s: float) -> UserState:
    """What the ranker knows of the person, as a batch of one."""
    past = person.past.padded(width, n_items=space.n_items)
    state = UserState.of(past, person.bag, np.array([person.row], np.int32), space.scale)
    return replace(state, now_s=np.array([now_s]))


def ranked_heads(
    served: Served,
    person: Person,
    rows: Rows,
    *,
    tower: Floats,
    neighbour: Floats,
    now_s: float,
) -> Heads:
    """What the ranker predicts of these candidates.

    Args:
        rows: int32 [c], c at most `candidate_width`.
        tower: inner products of stage one, float32 [c].
        neighbour: scores of the item-to-item model, float32 [c].
        now_s: seconds since 1970 UTC; NaN if unknown.
    """
    settings, space = served.settings, served.space
    items = np.full((1, settings.candidate_width), served.n_items, np.int32)
    scores = np.zeros((2, *items.shape), np.float32)
    items[0, : len(rows)] = rows
    scores[:, 0, : len(rows)] = tower, neighbour
    state = user_state(space, person, width=settings.ranker_width, now_s=now_s)
    dense = dense_features(space, state, items, tower=scores[0], neighbour=scores[1])
    predicted = served.ranker(ranker_inputs(space, state, items, dense))
    logit = predicted["engaged"][0, : len(rows)].astype(np.float64)
    p_level = predicted["rating"][0, : len(rows)].astype(np.float64)
    # What is not finite goes on as it is: it is ranked last, and counted.
    with np.errstate(over="ignore", invalid="ignore"):
        # No matrix products here: their last bits depend on a row's place.
        calibrated = served.calibration
        return Heads(
            p_engaged=calibrated["engaged"](1.0 / (1.0 + np.exp(-logit))),
            p_like=calibrated["liked"]((p_level * space.scale.liked).sum(axis=1)),
            rating=(p_level * space.scale.levels).sum(axis=1),
        )


def popular_heads(served: Served, rows: Rows) -> Heads:
    """What is known of these items from everybody, for a person of whom nothing is known.

    P(engaged) is the share of the people who touched the item, P(like) the share of its ratings
    that liked it, drawn to the share of all.
    """
    n_people = np.count_nonzero(np.diff(served.pasts.ends, prepend=0))
    scale, pasts = served.space.scale, served.pasts
    if scale.like_at is None:
        nothing = np.zeros(len(rows))
        return Heads(served.n_people[rows] / n_people, nothing, nothing)
    rated = np.isfinite(pasts.values)
    liked = pasts.values[rated] >= scale.like_at
    n_liked = np.bincount(pasts.items[rated], liked, minlength=served.n_items)[rows]
    n_rated = np.bincount(pasts.items[rated], minlength=served.n_items)[rows]
    return Heads(
        p_engaged=served.n_people[rows] / n_people,
        p_like=(n_liked + _SHRINK_RATINGS * liked.mean()) / (n_rated + _SHRINK_RATINGS),
        rating=served.space.items.mean_rating[rows].astype(np.float64),
    )
