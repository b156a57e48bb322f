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

# Ratings that an item's share of likes is drawn to the share of all by.
_SHRINK_RATINGS = 5.0


@dataclass(frozen=True)
class Heads:
    """What is predicted of each candidate, float64 [c] each.

    Attributes:
        p_engaged: probability that the user acts on it.
        p_like: probability that they like it, should they rate it; 0 where the log has no ratings.
        rating: the rating to expect; 0 where the log has none.
    """

    p_engaged: NDArray[np.float64]
    p_like: NDArray[np.float64]
    rating: NDArray[np.float64]


def user_vector(served: Served, person: Person) -> Floats:
    """Stage one's side of the user, float32 [dim]."""
    return served.tower(tower_inputs(person, served.settings, n_items=served.n_items))[0]


def tower_inputs(person: Person, settings: FeedSettings, *, n_items: int) -> Arrays:
    """What the user tower reads, as a batch of one."""
    return {
        "history": person.past.padded(settings.tower_width, n_items=n_items).items,
        "feature_ids": person.bag.ids,
        "feature_weights": person.bag.weights,
    }


def user_state(space: RankerSpace, person: Person, *, width: int, now_s: float) -> UserState:
    """What the ranker knows of the person, as a batch of one."""
    past = person.past.padded(width, n_items=space.n_items)
    state = UserState.of(past, person.bag, np.array([person.row], np.int32), space.scale)
    return replace(state, now_s=np.array([now_s]))


def ranked_heads(
    served: Served, person: Person, rows: Rows, tower_scores: Floats, *, now_s: float
) -> Heads:
    """What the ranker predicts of these candidates.

    Args:
        rows: int32 [c], c at most `candidate_width`.
        tower_scores: inner products of stage one, float32 [c].
        now_s: seconds since 1970 UTC; NaN if unknown.
    """
    settings, space = served.settings, served.space
    items = np.full((1, settings.candidate_width), served.n_items, np.int32)
    tower = np.zeros(items.shape, np.float32)
    items[0, : len(rows)], tower[0, : len(rows)] = rows, tower_scores
    state = user_state(space, person, width=settings.ranker_width, now_s=now_s)
    dense = dense_features(
        space, state, items, tower=tower, neighbour=neighbour_scores(served, person, items)
    )
    predicted = served.ranker(ranker_inputs(space, state, items, dense))
    logit = predicted["engaged"][0, : len(rows)].astype(np.float64)
    p_level = predicted["rating"][0, : len(rows)].astype(np.float64)
    # What is not finite goes on as it is: it is ranked last, and counted.
    with np.errstate(over="ignore", invalid="ignore"):
        # No matrix products here: their last bits depend on a row's place.
        return Heads(
            p_engaged=1.0 / (1.0 + np.exp(-logit)),
            p_like=(p_level * space.scale.liked).sum(axis=1),
            rating=(p_level * space.scale.levels).sum(axis=1),
        )


def neighbour_scores(served: Served, person: Person, items: Rows) -> Floats:
    """Sum over the items touched before of their weight for each candidate, float32 [1, c].

    Args:
        items: int32 [1, c]; what is padding gets the score of some item.
    """
    touched = np.sort(person.past.items)
    candidates = np.minimum(items[0], served.n_items - 1)
    return served.neighbours.contributions(touched, candidates).sum(axis=0)[None]


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
