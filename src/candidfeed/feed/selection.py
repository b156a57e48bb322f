"""Which candidates are shown, and where: by value, unlike each other, capped, some by chance.

Arrays in, arrays out. All of it works on the candidates in the order of their values, so that the
order in which they come changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.served import Floats, Rows
from candidfeed.retrieval.index.inner_products import best_first, inner_products

DIVERSITY = "diversity"
EXPLORE = "explore"
# A bound on sums of float32.
_SLACK = 1e-5


@dataclass(frozen=True)
class Cap:
    """At most so many slots of a slate for each value of one column.

    Attributes:
        codes: of each candidate the values that it has, int32 [c, m]; -1 where it has fewer.
    """

    name: str
    codes: NDArray[np.int32]
    at_most: int

    def lets_pass(self, places: NDArray[np.int64]) -> bool:
        """Whether these candidates may all stand in one slate."""
        codes = self.codes[places]
        return int(np.bincount(codes[codes >= 0], minlength=1).max()) <= self.at_most


@dataclass(frozen=True)
class Draw:
    """Slots whose items are drawn.

    Attributes:
        positions: from 1, ascending; those beyond the slate don't count.
        pool: of how many candidates, those next in order, each of the same chance.
    """

    positions: tuple[int, ...]
    pool: int
    rng: np.random.Generator


@dataclass(frozen=True)
class Selected:
    """Places among the candidates, int64: those shown, in order, and the others by value.

    Attributes:
        propensity: P(this item in this slot) as the draws go, float64 [n].
        by_value: the place of each among all candidates by value alone, from 1, int64 [n].
        is_drawn: which slots' items were drawn, bool [n].
        n_pool: of how many.
        n_filled: the last so many slots hold what a cap barred, or what has no finite value, for
            nothing else was left.
        passed_over: of the first n by value, how many are not shown, by the reason: a cap's name,
            `diversity`, or `explore` where a drawn item has the place.
    """

    picked: NDArray[np.int64]
    reserve: NDArray[np.int64]
    propensity: NDArray[np.float64]
    by_value: NDArray[np.int64]
    is_drawn: NDArray[np.bool_]
    n_pool: int = 0
    n_filled: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)


def by_value(values: NDArray[np.floating], rows: Rows) -> NDArray[np.int64]:
    """Places by descending value; equal ones by lower row, those that are not finite last."""
    finite = np.isfinite(values)
    if finite.all():
        return best_first(values, rows)
    return np.lexsort((rows, -np.where(finite, values, 0.0), ~finite))


def select(values: NDArray[np.floating], rows: Rows, k: int) -> Selected:
    """The k largest values; equal ones by lower row, those that are not finite last."""
    order = by_value(values, rows)
    n = min(k, len(order))
    certain, places = np.ones(n), np.arange(1, n + 1)
    return Selected(order[:k], order[k:], certain, places, np.zeros(n, bool))


def select_by(
    values: NDArray[np.floating],
    rows: Rows,
    k: int,
    *,
    strength: float,
    vectors: Floats | None,
    caps: Sequence[Cap],
    draw: Draw | None,
) -> Selected:
    """k of the candidates: by value, unlike each other, within the caps, some drawn.

    What is certain comes first: all slots but those that are drawn, one by one the best that no cap
    bars. Then the others are drawn without replacement, uniformly among the next `draw.pool`, so
    that each of them has the same chance in each drawn slot and no other slot depends on the draw.
    The pool is such that no draw can break a cap. Where fewer are left than slots, the last ones
    are filled by value with what was barred.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): next comes the candidate with
    the greatest

        (1 - strength) * (value - least) / (greatest - least) - strength * max(0, cosine)

    least and greatest of the candidates' finite values, the greatest cosine with what stands in the
    slate already. The scale makes a strength mean the same whatever the weights of the value.

    Args:
        values: [c].
        rows: int32 [c], distinct.
        strength: 0 (by value alone) to 1.
        vectors: of the candidates, float32 [c, dim]; None where strength is 0.
    """
    order = by_value(values, rows)
    n, n_finite = min(k, len(order)), int(np.isfinite(values).sum())
    positions = [one for one in draw.positions if one <= n] if draw is not None else []
    shelf = _Shelf(n_finite, [Cap(cap.name, cap.codes[order], cap.at_most) for cap in caps])
    n_certain = n - len(positions)
    if strength > 0 and vectors is not None and n_finite:
        scaled = _scaled(values[order[:n_finite]])
        certain = _unlike(shelf, scaled, vectors[order[:n_finite]], n_certain, strength)
    else:
        certain = _first(shelf, n_certain)
    pool = _pool(shelf, len(positions))[: draw.pool] if draw is not None and positions else []
    n_drawn = min(len(positions), len(pool))
    is_shown = np.zeros(len(order), bool)
    is_shown[certain] = True
    drawn = np.empty(0, np.int64)
    if draw is not None and n_drawn:
        drawn = np.asarray(pool)[draw.rng.choice(len(pool), n_drawn, replace=False)]
        is_shown[drawn] = True
    filled = np.flatnonzero(~is_shown)[: n - len(certain) - n_drawn]
    slate, is_drawn = np.empty(n, np.int64), np.zeros(n, bool)
    is_drawn[[one - 1 for one in positions[:n_drawn]]] = True
    slate[is_drawn] = drawn
    slate[~is_drawn] = np.concatenate([certain, filled]).astype(np.int64)
    is_shown[filled] = True
    return Selected(
        picked=order[slate],
        reserve=order[~is_shown],
        propensity=np.where(is_drawn, 1.0 / max(len(pool), 1), 1.0),
        by_value=slate + 1,
        is_drawn=is_drawn,
        n_pool=len(pool) if n_drawn else 0,
        n_filled=len(filled),
        passed_over=_passed_over(shelf, np.flatnonzero(~is_shown[:n]), n_certain),
    )


class _Shelf:
    """The candidates by value, and which of them may still be taken.

    Attributes:
        is_open: those that may be, bool [n_finite].
    """

    def __init__(self, n_finite: int, caps: Sequence[Cap]) -> None:
        self.caps = caps
        self.is_open = np.ones(n_finite, bool)
        # One value of all candidates side by side: to look for one is twice as quick.
        self._columns = [np.ascontiguousarray(cap.codes[:n_finite].T) for cap in caps]
        self._n_taken: list[dict[int, int]] = [{} for _ in caps]

    def take(self, place: int) -> None:
        self.is_open[place] = False
        for cap, columns, n_taken in zip(self.caps, self._columns, self._n_taken, strict=True):
            for code in cap.codes[place].tolist():
                if code >= 0:
                    n_taken[code] = n_taken.get(code, 0) + 1
                    if n_taken[code] == cap.at_most:
                        self.is_open &= ~(columns == code).any(axis=0)

    def barring(self, place: int) -> str | None:
        """The first cap that bars this candidate."""
        for cap, n_taken in zip(self.caps, self._n_taken, strict=True):
            if any(n_taken.get(code, 0) >= cap.at_most for code in cap.codes[place].tolist()):
                return cap.name
        return None

    def nearly_full(self, n: int) -> list[tuple[NDArray[np.bool_], int]]:
        """For each value that n more could bring above its cap: who has it, how many may come."""
        found = []
        for cap, columns, n_taken in zip(self.caps, self._columns, self._n_taken, strict=True):
            codes = n_taken if cap.at_most >= n else np.unique(cap.codes[cap.codes >= 0]).tolist()
            for code in codes:
                left = cap.at_most - n_taken.get(code, 0)
                if 0 < left < n:
                    found.append(((columns == code).any(axis=0), left))
        return found


def _first(shelf: _Shelf, n: int) -> list[int]:
    """By value: n that no cap bars, or as many as there are."""
    taken: list[int] = []
    for place in range(len(shelf.is_open)):
        if len(taken) == n:
            break
        if shelf.is_open[place]:
            taken.append(place)
            shelf.take(place)
    return taken


def _unlike(
    shelf: _Shelf, scaled: NDArray[np.floating], vectors: Floats, n: int, strength: float
) -> list[int]:
    """By maximal marginal relevance: n that no cap bars, or as many as there are."""
    relevance = (1.0 - strength) * scaled
    n_near = len(relevance)
    if not shelf.caps and n <= n_near:
        # One of the first n is always left, and a cosine takes away no more than the strength.
        least = relevance[n - 1] - strength - _SLACK if n else np.inf
        n_near = int(np.count_nonzero(relevance >= least))
    unit = _unit(vectors[:n_near])
    # The greatest cosine so far, times the strength.
    relevance, likeness = relevance[:n_near].astype(np.float32), np.zeros(n_near, np.float32)
    taken: list[int] = []
    while len(taken) < n and shelf.is_open[:n_near].any():
        marginal = np.where(shelf.is_open[:n_near], relevance - likeness, -np.inf)
        taken.append(int(marginal.argmax()))
        shelf.take(taken[-1])
        np.maximum(likeness, inner_products(unit, strength * unit[taken[-1]]), out=likeness)
    return taken


def _scaled(descending: NDArray[np.floating]) -> NDArray[np.float64]:
    """From 0 to 1; all 0 where they are equal."""
    values = descending.astype(np.float64)
    spread = values[0] - values[-1]
    return (values - values[-1]) / spread if spread > 0 else np.zeros(len(values))


def _unit(vectors: Floats) -> Floats:
    norms = np.sqrt(np.einsum("cd,cd->c", vectors, vectors))
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]


def _pool(shelf: _Shelf, n: int) -> NDArray[np.int64]:
    """Those that may be drawn, by value: any n of them keep all caps."""
    is_open = shelf.is_open.copy()
    for has_it, left in shelf.nearly_full(n):
        is_open[np.flatnonzero(has_it & is_open)[left:]] = False
    return np.flatnonzero(is_open)


def _passed_over(shelf: _Shelf, places: NDArray[np.int64], n_certain: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for place in places.tolist():
        why = shelf.barring(place) or (DIVERSITY if place < n_certain else EXPLORE)
        counts[why] = counts.get(why, 0) + 1
    return counts
