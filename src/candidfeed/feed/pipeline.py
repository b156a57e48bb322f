"""THE ONLINE SPINE: a person and a release go in, an explained slate comes out.

Nothing here reads a clock or a file, and what is drawn follows from the request's id: one release,
person and `Ask` give one slate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.choose import choose
from candidfeed.feed.eligibility import SEEN, Rule, among, eligible
from candidfeed.feed.explain import (
    explore_reason,
    history_reasons,
    latest_reasons,
    popular_reasons,
)
from candidfeed.feed.policy import DEFAULT_POLICY, Policy
from candidfeed.feed.scoring import (
    Heads,
    View,
    known_of,
    popular_heads,
    ranked_heads,
    view_of,
)
from candidfeed.feed.selection import EXPLORE, Selected
from candidfeed.feed.served import Floats, Person, Rows, Served
from candidfeed.feed.slate import Candidates, Proposed, Retrieved, Slate, Slot
from candidfeed.feed.steps import Steps, alone
from candidfeed.ranking.calibration import weighted_sum
from candidfeed.retrieval.index.inner_products import best_of
from candidfeed.retrieval.merge import (
    NEIGHBOURS,
    SOURCES,
    TOWER,
    TRENDING,
    Merged,
    merge_by_quota,
)
from candidfeed.retrieval.top_k import best_columns

# Lists that are the same for everybody: what most people touched, ever; what came last.
POPULAR: Final = "popular"
LATEST: Final = "latest"
Everybodys: TypeAlias = Literal["popular", "latest"]
# What came after the release was built: few of them would be found among all others.
NEW: Final = "new"
_SHARE_NEW = 0.05
# Stages, by the names under which their time is told.
VIEW: Final = "view"
SEARCH: Final = "search"
FILTER: Final = "filter"
MERGE: Final = "merge"
FEATURES: Final = "features"
MODEL: Final = "model"
SELECT: Final = "select"
EXPLAIN: Final = "explain"
# That list is ordered by its one signal: how many people touched an item.
_POPULAR_WEIGHTS = {"engaged": 1.0}
# Rules may bar far more than they will of what is proposed, such as a muted tag of half the items:
# at first so many candidates more are asked for, in numbers of candidates.
_MORE: Final = 4


@dataclass(frozen=True)
class Ask:
    """What is asked for, beside for whom.

    Attributes:
        k: slots; fewer are answered where fewer items are left.
        now_s: seconds since 1970 UTC for which is asked; NaN if unknown.
        rules: what may not be shown, beside what the person has touched.
        allowed: the only rows that may be shown, int32 [n]; None: all.
        everybodys: the list for a person without a past.
        policy: what the slate keeps to beside values.
        request_id: what is drawn for exploration follows from it.
        in_full: whether all is told that the slate does not depend on: heads that its order does
            not read, of the slots; features that were not known.
    """

    k: int
    now_s: float
    rules: tuple[Rule, ...] = ()
    allowed: Rows | None = None
    everybodys: Everybodys = POPULAR
    policy: Policy = DEFAULT_POLICY
    request_id: str = ""
    in_full: bool = True


class Said(NamedTuple):
    """What the ranker says of each slot, by the field of `Slot`."""

    p_engaged: Sequence[float | None]
    p_like: Sequence[float | None]
    rating: Sequence[float | None]
    actions: Sequence[Mapping[str, float]]

    @staticmethod
    def nothing(n: int) -> "Said":
        """Where it was not asked."""
        nobody = [None] * n
        return Said(nobody, nobody, nobody, [{}] * n)


def recommend(served: Served, person: Person, ask: Ask) -> Slate:
    """The k best items that the person has not touched; fewer where fewer are left."""
    return alone(recommend_in_steps(served, person, ask))


def recommend_in_steps(served: Served, person: Person, ask: Ask) -> Steps[Slate]:
    """As `recommend`."""
    retrieved = yield from retrieve_in_steps(served, person, ask)
    return (yield from rank_in_steps(served, person, retrieved, ask))


def retrieve(served: Served, person: Person, ask: Ask) -> Retrieved:
    """Stage one, and what may be shown of it."""
    return alone(retrieve_in_steps(served, person, ask))


def retrieve_in_steps(served: Served, person: Person, ask: Ask) -> Steps[Retrieved]:
    """As `retrieve`."""
    yield VIEW
    view = view_of(served, person)
    rules = (among(SEEN, person.past.items), *ask.rules)
    more = More.of(rules)
    some = more.at_most(_MORE * served.settings.n_candidates)
    yield SEARCH
    proposed = propose(served, view, ask, some)
    yield FILTER
    kept, removed = eligible(proposed, rules)
    if some != more and is_short(served, kept, proposed, some):
        yield SEARCH
        proposed = propose(served, view, ask, more)
        yield FILTER
        kept, removed = eligible(proposed, rules)
    yield MERGE
    n_proposed = {one.source: len(one.rows) for one in proposed}
    return Retrieved(merge(served, kept, view), removed, n_proposed)


@dataclass(frozen=True)
class More:
    """How many more items are proposed than are wanted, because so many may not be shown.

    Attributes:
        by_index: by the index, which leaves out some by itself.
        by_lists: by all others.
    """

    by_index: int
    by_lists: int

    @staticmethod
    def of(rules: Sequence[Rule]) -> "More":
        unknown = sum(rule.at_most for rule in rules if not rule.index_knows)
        return More(unknown, sum(rule.at_most for rule in rules))

    def at_most(self, n: int) -> "More":
        return More(min(self.by_index, n), min(self.by_lists, n))

    def of_source(self, source: str) -> int:
        return self.by_index if source == TOWER else self.by_lists


def is_short(
    served: Served, kept: Sequence[Proposed], proposed: Sequence[Proposed], more: More
) -> bool:
    """Whether a source has more to propose, and too little is left of what it did."""
    n = served.settings.n_candidates
    return any(
        len(left.rows) < n <= len(came.rows) - more.of_source(came.source)
        for left, came in zip(kept, proposed, strict=True)
    )


def rank(served: Served, person: Person, retrieved: Retrieved, ask: Ask) -> Slate:
    """Stage two on what stage one hands on."""
    return alone(rank_in_steps(served, person, retrieved, ask))


def rank_in_steps(served: Served, person: Person, retrieved: Retrieved, ask: Ask) -> Steps[Slate]:
    """As `rank`."""
    candidates = retrieved.candidates
    heads = yield from score_in_steps(served, person, candidates, now_s=ask.now_s)
    yield SELECT
    values = value(heads, weights_of(served, person))
    selected = selected_of(served, person, candidates, values, ask)
    yield EXPLAIN
    said = _said(served, heads, selected.picked, ask)
    return Slate(
        person=person,
        slots=_slots(served, person, candidates, selected, values, said, ask),
        retrieved=retrieved,
        selected=selected,
        n_non_finite=int((~np.isfinite(values)).sum()),
        n_unknown=unknown_features(served, person, candidates.rows) if ask.in_full else {},
        dense=None if heads.dense is None else heads.dense[selected.picked],
    )


def in_retrieval_order(served: Served, person: Person, retrieved: Retrieved, ask: Ask) -> Slate:
    """The slate without stage two: in the order of stage one, or of the list for everybody."""
    candidates = retrieved.candidates
    values = first_values(served, person, candidates, ask)
    selected = selected_of(served, person, candidates, values, ask)
    nothing = Said.nothing(len(selected.picked))
    slots = _slots(served, person, candidates, selected, values, nothing, ask)
    return Slate(person, slots, retrieved, selected, int((~np.isfinite(values)).sum()), {})


def first_values(
    served: Served, person: Person, candidates: Candidates, ask: Ask
) -> NDArray[np.floating]:
    """What stage one orders by, [c]: inner products, how many people, or when an item came."""
    if len(person.past):
        return candidates.tower
    if ask.everybodys == LATEST:
        return served.came_s(candidates.rows, ask.now_s)
    return served.n_people_of(candidates.rows).astype(np.float64)


def propose(served: Served, view: View | None, ask: Ask, more: More) -> tuple[Proposed, ...]:
    """Stage one: every source's best, or for a person without a past everybody's list."""
    n_wanted, allowed = served.settings.n_candidates, ask.allowed
    n = n_wanted + more.by_lists
    if view is None:
        is_popular = ask.everybodys == POPULAR
        rows = served.popular(n, allowed) if is_popular else served.latest(n, ask.now_s, allowed)
        return (Proposed(ask.everybodys, rows),)

    def of_tower() -> Proposed:
        found = served.index.search(view.vector, n_wanted + more.by_index, allow=allowed)
        return Proposed(TOWER, found.rows, found.scores)

    best = {
        TOWER: of_tower,
        NEIGHBOURS: lambda: Proposed(NEIGHBOURS, _best_neighbours(view, n, allowed)),
        TRENDING: lambda: Proposed(TRENDING, _of_allowed(served.trending, allowed)[:n]),
    }
    found = [best[source]() for source in SOURCES if served.settings.quotas[source] > 0]
    if len(served.newcomers):
        found.append(_best_newcomers(served, view, n, allowed))
    return tuple(found)


def _of_allowed(rows: Rows, allowed: Rows | None) -> Rows:
    return rows if allowed is None else rows[np.isin(rows, allowed)]


def _best_neighbours(view: View, n: int, allowed: Rows | None) -> Rows:
    if allowed is None:
        return best_columns(view.neighbours[None], n)[0].astype(np.int32)
    rows = np.unique(allowed)
    rows = rows[rows < len(view.neighbours)]
    return rows[best_columns(view.neighbours[None, rows], n)[0]]


def _best_newcomers(served: Served, view: View, n: int, allowed: Rows | None) -> Proposed:
    rows = _of_allowed(served.newcomers.rows, allowed)
    found = best_of(rows, served.scores_of(view.vector, rows), n)
    return Proposed(NEW, found.rows, found.scores)


def _quotas(served: Served, kept: tuple[Proposed, ...]) -> list[int]:
    """How many candidates each source may bring; newcomers' places are taken from the largest."""
    quotas = dict(served.settings.quotas)
    if kept[-1].source == NEW:
        largest = max(quotas, key=lambda source: quotas[source])
        quotas[NEW] = min(len(kept[-1].rows), ceil(_SHARE_NEW * quotas[largest]))
        quotas[largest] -= quotas[NEW]
    return [quotas[one.source] for one in kept]


def merge(served: Served, kept: tuple[Proposed, ...], view: View | None) -> Candidates:
    """The candidates that are ranked: each source's up to its quota, in the order of stage one."""
    n = served.settings.n_candidates
    if view is None:
        (popular,) = kept
        rows = popular.rows[:n]
        nothing = np.zeros(len(rows), np.float32)
        source = np.zeros(len(rows), np.int8)
        return Candidates(rows, source, (popular.source,), nothing, nothing)
    merged = merge_by_quota([one.rows for one in kept], _quotas(served, kept))
    found = Candidates(
        rows=merged.rows,
        source=merged.source,
        names=tuple(one.source for one in kept),
        tower=_tower_scores(served, kept, merged, view),
        neighbour=view.neighbours_of(merged.rows),
    )
    return found.take(np.argsort(-found.tower, kind="stable")[:n])


def _tower_scores(served: Served, kept: Sequence[Proposed], merged: Merged, view: View) -> Floats:
    """Inner products of stage one, float32 [c], of which the index has told most."""
    scores = np.empty(len(merged.rows), np.float32)
    for number, one in enumerate(kept):
        of_it = merged.source == number
        if one.scores is None:
            scores[of_it] = served.scores_of(view.vector, merged.rows[of_it])
        else:
            scores[of_it] = one.scores[merged.place[of_it]]
    return scores


def score(served: Served, person: Person, candidates: Candidates, *, now_s: float) -> Heads:
    """Stage two: the ranker, or for a person without a past what everybody did."""
    return alone(score_in_steps(served, person, candidates, now_s=now_s))


def score_in_steps(
    served: Served, person: Person, candidates: Candidates, *, now_s: float
) -> Steps[Heads]:
    """As `score`."""
    yield FEATURES
    if not len(person.past):
        return popular_heads(served, candidates.rows)
    known = known_of(
        served, person, candidates.rows,
        tower=candidates.tower, neighbour=candidates.neighbour, now_s=now_s,
    )  # fmt: skip
    yield MODEL
    return ranked_heads(served, known)


def weights_of(served: Served, person: Person) -> Mapping[str, float]:
    return served.settings.value_weights if len(person.past) else _POPULAR_WEIGHTS


def value(heads: Heads, weights: Mapping[str, float]) -> Floats:
    """The published weighted sum of the heads, float32 [c]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return weighted_sum(heads.by_name, weights)


def selected_of(
    served: Served,
    person: Person,
    candidates: Candidates,
    values: NDArray[np.floating],
    ask: Ask,
) -> Selected:
    """k of the candidates, as the policy says; the latest list stays in its order."""
    is_latest = not len(person.past) and ask.everybodys == LATEST
    policy = ask.policy.caps_alone if is_latest else ask.policy
    return choose(
        served, person, candidates.rows, values, k=ask.k, policy=policy, request_id=ask.request_id
    )


def unknown_features(served: Served, person: Person, rows: Rows) -> dict[str, int]:
    """`Slate.n_unknown` of these candidates; nothing is read for a person without a past."""
    if not len(person.past):
        return {}
    if (are_new := served.are_new(rows)) is not None:
        rows = rows[~are_new]
    sides = {"user": served.user_map.n_unknown(person.bag.ids)}
    if len(lacking := rows[served.lacks_features[rows]]):
        sides["item"] = served.item_map.n_unknown(served.space.item_bag.ids[lacking])
    return {f"{side}.{name}": n for side, found in sides.items() for name, n in found.items()}


def _slots(
    served: Served,
    person: Person,
    candidates: Candidates,
    selected: Selected,
    values: NDArray[np.floating],
    said: Said,
    ask: Ask,
) -> tuple[Slot, ...]:
    chosen = candidates.take(selected.picked)
    rows, sources = chosen.rows, chosen.sources
    if len(person.past):
        reasons = history_reasons(served, person, rows)
    elif LATEST in chosen.names:
        reasons = latest_reasons(served, rows, ask.now_s)
    else:
        reasons = popular_reasons(served, rows)
    for place in np.flatnonzero(selected.is_drawn).tolist():
        sources[place], reasons[place] = EXPLORE, explore_reason(selected.n_pool)
    # In the order of a slot's fields: to name them takes as long as all the rest.
    return tuple(
        map(
            Slot,
            range(1, len(rows) + 1), served.ids_of(rows), served.titles_of(rows),
            values[selected.picked].tolist(), said.p_engaged, said.p_like, said.rating,
            sources, reasons, said.actions, selected.propensity.tolist(),
            selected.by_value.tolist(),
        )
    )  # fmt: skip


def _said(served: Served, heads: Heads, picked: NDArray[np.int64], ask: Ask) -> Said:
    nothing, rated = Said.nothing(len(picked)), served.has_ratings
    actions = heads.actions_at(picked) if ask.in_full or heads.later is None else {}
    return Said(
        heads.p_engaged[picked].tolist(),
        heads.p_like[picked].tolist() if rated else nothing.p_like,
        heads.rating[picked].tolist() if rated else nothing.rating,
        _by_slot(actions, len(picked)) if actions else nothing.actions,
    )


def _by_slot(actions: Mapping[str, NDArray[np.floating]], n: int) -> list[dict[str, float]]:
    columns = {name: one.tolist() for name, one in actions.items()}
    return [{name: one[place] for name, one in columns.items()} for place in range(n)]
