"""What the ranker reads of a user, made from the log by the code that training uses.

To be held against what it read when the user was served: what differs would be learned from in
another form than it is asked in.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories, chronological
from candidfeed.data.interactions import Interactions
from candidfeed.feed.scoring import dense_of, view_of
from candidfeed.feed.served import Past, Person, Served
from candidfeed.ranking.user_state import UserStates
from candidfeed.training.impressions import pasts_before

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


def known_before(served: Served, row: int, later: Interactions, before_s: float) -> Interactions:
    """What a user had done before a time: by the release, and since; oldest first.

    Args:
        row: of the user; the number of users for one that the release does not know.
        later: what the log says that they did since, of one user.
    """
    since = pasts_before(later, np.zeros(1, np.int32), np.array([before_s]))
    if row == len(served.users):
        return chronological(since)
    past = served.pasts.of_user(row)
    user = np.zeros(len(past), np.int32)
    of_release = replace(later, user=user, item=past.items, value=past.values, time_s=past.times_s)
    return chronological(of_release.concat(since))


def dense_of_pairs(
    served: Served, bag: Bag, known: Interactions, items: Rows, *, row: int, now_s: float
) -> Floats:
    """The ranker's dense features of a user and these items, float32 [n, f].

    Stage one's scores are what the release's own functions say. Of an item that came after the
    build training will know its features, as of an item of the catalogue that nobody has touched.

    Args:
        bag: the user's features, one row.
        known: what `known_before` gave; not empty.
        items: of the release or newcomers, int32 [n].
        row: of the user, as there.
        now_s: for when it is asked.
    """
    space = served.space
    past = Past(known.item, known.value, known.time_s)
    learned = replace(known.take(known.item < space.n_items), n_items=space.n_items)
    histories = Histories.of(learned, max_length=served.settings.ranker_width)
    state = replace(
        UserStates(histories, bag, space.scale).take(np.zeros(1, np.int32)),
        now_s=np.array([now_s]),
    )
    view = view_of(served, Person("", row, bag, past))
    assert view is not None
    tower, neighbour = served.scores_of(view.vector, items), view.neighbours_of(items)
    return dense_of(served, state, items, tower, neighbour)
