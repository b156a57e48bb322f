"""Why a slot is shown: one line that names what its score rests on, and nothing else."""

import numpy as np

from candidfeed.feed.served import Past, Person, Rows, Served

# Below this a touched item is no reason: nobody could tell it from none at all.
_LEAST = 1e-6
_LONGEST_TITLE = 80


def history_reasons(served: Served, person: Person, rows: Rows) -> list[str]:
    """The touched item that adds most to each candidate's neighbour score.

    Without that item in the person's past the score would be lower by what it adds. Where no item
    adds anything, the reason is the past as a whole, which is what stage one reads.
    """
    whole = f"fits {_n_events(served, person.past)} as a whole"
    learned = served.learned_of(person)
    if served.neighbours.are_none or not len(learned.past):
        return [whole] * len(rows)
    cited, adds = strongest(served, learned, rows)
    return [
        _because(served, learned.past, place) if adding > _LEAST else whole
        for place, adding in zip(cited, adds, strict=True)
    ]


def popular_reasons(served: Served, rows: Rows) -> list[str]:
    """How many people touched each item."""
    did = "rated it" if served.has_ratings else "chose it"
    counts = served.n_people_of(rows).tolist()
    return [f"popular: {n:,} {'person' if n == 1 else 'people'} {did}" for n in counts]


def latest_reasons(served: Served, rows: Rows, now_s: float) -> list[str]:
    """The day on which each item came, or will."""
    born_s = served.born_of(rows)
    days = np.datetime_as_string(born_s.astype("datetime64[s]"), unit="D")
    are_to_come = born_s > now_s
    return [
        f"to come on {day}" if is_to_come else f"new: since {day}"
        for day, is_to_come in zip(days.tolist(), are_to_come.tolist(), strict=True)
    ]


def explore_reason(n_pool: int) -> str:
    """Why a slot is shown whose item was drawn."""
    return f"to learn from: drawn among the {n_pool:,} that came next"


def strongest(served: Served, person: Person, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Per candidate: the place in the past that adds most to its neighbour score, and how much.

    Of equal ones the later event. int64 and float32, [c] each.
    """
    past, known = person.past, np.minimum(rows, served.n_items - 1)
    adds = served.neighbours.contributions(past.items, known, person.row)
    if (are_new := served.are_new(rows)) is not None:
        adds = np.where(are_new, np.float32(0), adds)
    place = len(past) - 1 - np.argmax(adds[::-1], axis=0)
    return place, adds[place, np.arange(len(rows))]


def _because(served: Served, past: Past, place: int) -> str:
    (title,) = map(_shortened, served.titles_of(past.items[place : place + 1]))
    rating = past.values[place]
    if served.has_ratings and np.isfinite(rating):
        return f"because you rated {title} {rating:g}"
    return f"because of {title} in your history"


def _n_events(served: Served, past: Past) -> str:
    what = "rating" if served.has_ratings else "choice"
    return f"your {len(past):,} {what}{'s' * (len(past) != 1)}"


def _shortened(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
