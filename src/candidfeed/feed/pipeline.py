"""THE ONLINE SPINE: a person and a release go in, an explained slate comes out.

Nothing here reads a clock, a file or a random number: one release, person and `now` give one slate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.explain import history_reasons, popular_reasons
from candidfeed.feed.scoring import Heads, View, popular_heads, ranked_heads, tower_scores, view_of
from candidfeed.feed.served import Floats, Past, Person, Rows, Served
from candidfeed.ranking.calibration import weighted_sum
from candidfeed.retrieval.merge import NEIGHBOURS, SOURCES, TOWER, TRENDING, merge_by_quota
from candidfeed.retrieval.top_k import best_columns

# For a person without a past: what most people touched, ever.
POPULAR = "popular"
# That list is ordered by its one signal: how many people touched an item.
_POPULAR_WEIGHTS = {"engaged": 1.0}


@dataclass(frozen=True)
class Proposed:
    """Items that one source proposes, best first, each once; int32 [n]."""

    source: str
    rows: Rows


@dataclass(frozen=True)
class Candidates:
    """Items that are to be ranked, best of stage one first, each once.

    Attributes:
        rows: int32 [c].
        sources: which source brought each.
        tower, neighbour: scores of stage one and of the neighbour model, float32 [c]; 0 for a
            person without a past.
    """

    rows: Rows
    sources: tuple[str, ...]
    tower: Floats
    neighbour: Floats

    def take(self, places: NDArray[np.integer]) -> "Candidates":
        sources = tuple(self.sources[place] for place in places)
        return Candidates(self.rows[places], sources, self.tower[places], self.neighbour[places])


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
    """One place of the slate, from 1; without ratings in the log `p_like` and `rating` are None.

    Attributes:
        actions: by label, what is expected of it at the first place of a slate.
    """

    position: int
    item_id: int | str
    title: str
    value: float
    p_engaged: float
    p_like: float | None
    rating: float | None
    source: str
    reason: str
    actions: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Slate:
    """The ordered answer.

    Attributes:
        removed: what was proposed and may not be shown.
        n_candidates: items that were ranked.
        n_non_finite: of these, those whose value was NaN or infinite; they come last.
        n_unknown: by feature that was read (`user.NAME`, `item.NAME`), for how many of the users
            or items no known value was at hand, so that the column's default was taken; features
            that were known for all are left out.
    """

    person: Person
    slots: tuple[Slot, ...]
    removed: Removed
    n_candidates: int
    n_non_finite: int
    n_unknown: Mapping[str, int]


def recommend(served: Served, person: Person, *, k: int, now_s: float) -> Slate:
    """The k best items that the person has not touched; fewer where fewer are left.

    Args:
        now_s: seconds since 1970 UTC for which is asked; NaN if unknown.
    """
    view = view_of(served, person)
    kept, removed = eligible(propose(served, person, view), person.past)
    candidates = merge(served, kept, view)
    heads = score(served, person, candidates, now_s=now_s)
    values = value(heads, weights_of(served, person))
    selected = select(values, candidates.rows, k)
    slots = _slots(served, person, candidates, heads, values, selected.picked)
    n_non_finite = int((~np.isfinite(values)).sum())
    n_unknown = unknown_features(served, person, candidates.rows)
    return Slate(person, slots, removed, len(candidates.rows), n_non_finite, n_unknown)


def propose(served: Served, person: Person, view: View | None) -> tuple[Proposed, ...]:
    """Stage one: every source's best, or for a person without a past what most people touched.

    As many more than `n_candidates` as the person has touched, so that enough are left.
    """
    n = served.settings.n_candidates + len(person.past)
    if view is None:
        return (Proposed(POPULAR, served.by_popularity[:n]),)
    best = {
        TOWER: lambda: served.index.search(view.vector, n).rows,
        NEIGHBOURS: lambda: best_columns(view.neighbours[None], n)[0].astype(np.int32),
        TRENDING: lambda: served.trending[:n],
    }
    asked = [source for source in SOURCES if served.settings.quotas[source] > 0]
    return tuple(Proposed(source, best[source]()) for source in asked)


def eligible(proposed: tuple[Proposed, ...], past: Past) -> tuple[tuple[Proposed, ...], Removed]:
    """What may be shown, in the order it came, and what may not: items touched before."""
    kept, seen = [], []
    for one in proposed:
        is_seen = np.isin(one.rows, past.items)
        kept.append(Proposed(one.source, one.rows[~is_seen]))
        seen.append(one.rows[is_seen])
    return tuple(kept), Removed("seen", np.unique(np.concatenate(seen)))


def merge(served: Served, kept: tuple[Proposed, ...], view: View | None) -> Candidates:
    """The candidates that are ranked: each source's up to its quota, in the order of stage one."""
    n = served.settings.n_candidates
    if view is None:
        (popular,) = kept
        rows = popular.rows[:n]
        nothing = np.zeros(len(rows), np.float32)
        return Candidates(rows, (popular.source,) * len(rows), nothing, nothing)
    merged = merge_by_quota(
        [one.rows for one in kept], [served.settings.quotas[one.source] for one in kept]
    )
    names = [one.source for one in kept]
    found = Candidates(
        rows=merged.rows,
        sources=tuple(names[place] for place in merged.source),
        tower=tower_scores(served, view, merged.rows),
        neighbour=view.neighbours[merged.rows],
    )
    return found.take(np.argsort(-found.tower, kind="stable")[:n])


def score(served: Served, person: Person, candidates: Candidates, *, now_s: float) -> Heads:
    """Stage two: the ranker, or for a person without a past what everybody did."""
    if not len(person.past):
        return popular_heads(served, candidates.rows)
    return ranked_heads(
        served, person, candidates.rows,
        tower=candidates.tower, neighbour=candidates.neighbour, now_s=now_s,
    )  # fmt: skip


def weights_of(served: Served, person: Person) -> Mapping[str, float]:
    return served.settings.value_weights if len(person.past) else _POPULAR_WEIGHTS


def value(heads: Heads, weights: Mapping[str, float]) -> Floats:
    """The published weighted sum of the heads, float32 [c]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return weighted_sum(heads.by_name, weights)


def select(values: Floats, rows: Rows, k: int) -> Selected:
    """The k largest values; equal ones by lower row, those that are not finite last."""
    finite = np.isfinite(values)
    order = np.lexsort((rows, -np.where(finite, values, 0.0), ~finite))
    return Selected(order[:k], order[k:])


def unknown_features(served: Served, person: Person, rows: Rows) -> dict[str, int]:
    """`Slate.n_unknown` of these candidates; nothing is read for a person without a past."""
    if not len(person.past):
        return {}
    sides = {
        "user": served.user_map.n_unknown(person.bag.ids),
        "item": served.item_map.n_unknown(served.space.item_bag.ids[rows]),
    }
    return {f"{side}.{name}": n for side, found in sides.items() for name, n in found.items()}


def _slots(
    served: Served,
    person: Person,
    candidates: Candidates,
    heads: Heads,
    values: Floats,
    picked: NDArray[np.int64],
) -> tuple[Slot, ...]:
    chosen = candidates.take(picked)
    rows = chosen.rows
    of_past = bool(len(person.past))
    reasons = history_reasons(served, person, rows) if of_past else popular_reasons(served, rows)
    # Item by item: what gathers rows of a table hands them to other threads.
    columns = (served.items[name] for name in ("item_id", "title"))
    item_ids, titles = ([column[row] for row in rows.tolist()] for column in columns)
    rated = served.has_ratings
    return tuple(
        Slot(
            position=position,
            item_id=item_ids[position - 1],
            title=titles[position - 1],
            value=float(values[place]),
            p_engaged=float(heads.p_engaged[place]),
            p_like=float(heads.p_like[place]) if rated else None,
            rating=float(heads.rating[place]) if rated else None,
            source=chosen.sources[position - 1],
            reason=reason,
            actions={name: float(one[place]) for name, one in heads.actions.items()},
        )
        for position, (place, reason) in enumerate(zip(picked, reasons, strict=True), start=1)
    )
