"""THE ONLINE SPINE: a person and a release go in, an explained slate comes out.

Nothing here reads a clock, a file or a random number: one release, person and `now` give one slate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.explain import history_reasons, popular_reasons
from candidfeed.feed.scoring import Heads, popular_heads, ranked_heads, user_vector
from candidfeed.feed.served import Floats, Past, Person, Rows, Served

POPULAR, TOWER = "popular", "tower"
# The popular list is ordered by its one signal: how many people touched an item.
_POPULAR_WEIGHTS = {"engaged": 1.0, "liked": 0.0}


@dataclass(frozen=True)
class Candidates:
    """Items that one source proposes, best first, each once.

    Attributes:
        rows: int32 [c].
        scores: the source's own, float32 [c].
    """

    source: str
    rows: Rows
    scores: Floats

    def first(self, n: int) -> "Candidates":
        return Candidates(self.source, self.rows[:n], self.scores[:n])


@dataclass(frozen=True)
class Removed:
    """Proposed items that may not be shown."""

    reason: str
    rows: Rows


@dataclass(frozen=True)
class Selected:
    """Places among the candidates, int64: those shown, best first, and those next in order."""

    picked: NDArray[np.int64]
    reserve: NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """One place of the slate, from 1; without ratings in the log `p_like` and `rating` are None."""

    position: int
    item_id: int | str
    title: str
    value: float
    p_engaged: float
    p_like: float | None
    rating: float | None
    source: str
    reason: str


@dataclass(frozen=True)
class Slate:
    """The ordered answer.

    Attributes:
        removed: what was proposed and may not be shown.
        n_candidates: items that were ranked.
        n_non_finite: of these, those whose value was NaN or infinite; they come last.
    """

    person: Person
    slots: tuple[Slot, ...]
    removed: Removed
    n_candidates: int
    n_non_finite: int


def recommend(served: Served, person: Person, *, k: int, now_s: float) -> Slate:
    """The k best items that the person has not touched; fewer where fewer are left.

    Args:
        now_s: seconds since 1970 UTC for which is asked; NaN if unknown.
    """
    proposed = propose(served, person)
    kept, removed = eligible(proposed, person.past)
    candidates = kept.first(served.settings.n_candidates)
    heads = score(served, person, candidates, now_s=now_s)
    values = value(heads, weights_of(served, candidates.source))
    selected = select(values, candidates.rows, k)
    slots = _slots(served, person, candidates, heads, values, selected.picked)
    n_non_finite = int((~np.isfinite(values)).sum())
    return Slate(person, slots, removed, len(candidates.rows), n_non_finite)


def propose(served: Served, person: Person) -> Candidates:
    """Stage one: the tower's best, or for a person without a past what most people touched.

    As many more than `n_candidates` as the person has touched, so that enough are left.
    """
    n = served.settings.n_candidates + len(person.past)
    if len(person.past):
        found = served.index.search(user_vector(served, person), n)
        return Candidates(TOWER, found.rows, found.scores)
    by_count = np.lexsort((np.arange(served.n_items), -served.n_people))[:n].astype(np.int32)
    touched = by_count[served.n_people[by_count] > 0]
    return Candidates(POPULAR, touched, served.n_people[touched].astype(np.float32))


def eligible(candidates: Candidates, past: Past) -> tuple[Candidates, Removed]:
    """What may be shown, in the order it came, and what may not: items touched before."""
    seen = np.isin(candidates.rows, past.items)
    kept = Candidates(candidates.source, candidates.rows[~seen], candidates.scores[~seen])
    return kept, Removed("seen", candidates.rows[seen])


def score(served: Served, person: Person, candidates: Candidates, *, now_s: float) -> Heads:
    """Stage two: the ranker, or for a person without a past what everybody did."""
    if candidates.source == POPULAR:
        return popular_heads(served, candidates.rows)
    return ranked_heads(served, person, candidates.rows, candidates.scores, now_s=now_s)


def weights_of(served: Served, source: str) -> Mapping[str, float]:
    return _POPULAR_WEIGHTS if source == POPULAR else served.settings.value_weights


def value(heads: Heads, weights: Mapping[str, float]) -> Floats:
    """The published weighted sum of the heads, float32 [c]."""
    with np.errstate(invalid="ignore", over="ignore"):
        summed = weights["engaged"] * heads.p_engaged + weights["liked"] * heads.p_like
        return summed.astype(np.float32)


def select(values: Floats, rows: Rows, k: int) -> Selected:
    """The k largest values; equal ones by lower row, those that are not finite last."""
    finite = np.isfinite(values)
    order = np.lexsort((rows, -np.where(finite, values, 0.0), ~finite))
    return Selected(order[:k], order[k:])


def _slots(
    served: Served,
    person: Person,
    candidates: Candidates,
    heads: Heads,
    values: Floats,
    picked: NDArray[np.int64],
) -> tuple[Slot, ...]:
    rows = candidates.rows[picked]
    if candidates.source == POPULAR:
        reasons = popular_reasons(served, rows)
    else:
        reasons = history_reasons(served, person, rows)
    shown = served.items[rows.tolist()]
    rated = served.has_ratings
    return tuple(
        Slot(
            position=position,
            item_id=shown["item_id"][position - 1],
            title=shown["title"][position - 1],
            value=float(values[place]),
            p_engaged=float(heads.p_engaged[place]),
            p_like=float(heads.p_like[place]) if rated else None,
            rating=float(heads.rating[place]) if rated else None,
            source=candidates.source,
            reason=reason,
        )
        for position, (place, reason) in enumerate(zip(picked, reasons, strict=True), start=1)
    )
