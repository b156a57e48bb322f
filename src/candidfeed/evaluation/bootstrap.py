"""95 % intervals by resampling users, and differences between models on the same resamples.

A test set is a sample of people, not of rows: the rows of one person hang together. So whole users
are drawn with replacement, all their rows come along, and every figure is computed anew.
Of few users a resample scatters too little, and percentiles of it are too sure: the intervals are
as much wider as Student's are than the normal ones.
Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13;
Hesterberg, The American Statistician 69 (2015), section 5.3 (expanded percentiles);
Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

N_REPLICATES = 1000
TAIL = 0.025
ROUNDING = 1e-9
SIGNIFICANT = 0.05
# Of fewer users nothing is called better or worse.
MIN_USERS = 10
CHUNK_ELEMENTS = 4_000_000

Totals = NDArray[np.float64]
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval: low <= mean <= high, all finite."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference with its p: how often chance alone would make it as large, two-sided."""

    p: float
    n_users: int


@dataclass(frozen=True)
class Comparison(Difference):
    """A difference among others; `p_holm` is its p once all of them are counted in."""

    p_holm: float

    @property
    def is_significant(self) -> bool:
        return self.p_holm < SIGNIFICANT and self.n_users >= MIN_USERS


class Figure(Protocol):
    """One metric of one model on one split, kept so that users can be drawn anew."""

    @property
    def users(self) -> NDArray[np.int32]:
        """Rows of the users that the figure rests on, distinct and ascending, int32 [n]."""
        ...

    def value(self) -> float:
        """The figure over all its users; NaN where it is not defined."""
        ...

    def replicates(self, counts: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The figure when user j counts `counts[b, j]` times, float64 [b]; NaN as in `value`.

        Args:
            counts: uint8 [b, n], columns aligned with `users`.
        """
        ...


def ratio(totals: Totals) -> Totals:
    """First sum over second, [..., 2] -> [...]; NaN where the second is 0."""
    over, under = totals[..., 0], totals[..., 1]
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def root_of_ratio(totals: Totals) -> Totals:
    return np.sqrt(ratio(totals))


def relative_excess(totals: Totals) -> Totals:
    return ratio(totals) - 1.0


@dataclass(frozen=True)
class SumFigure:
    """A figure that depends on its users through sums only.

    Attributes:
        users: as in `Figure`.
        sums: what each user adds, float64 [n, m].
        of_totals: the figure from the sums over users, [..., m] -> [...].
    """

    users: NDArray[np.int32]
    sums: NDArray[np.float64]
    of_totals: Callable[[Totals], Totals] = ratio

    def value(self) -> float:
        return float(self.of_totals(self.sums.sum(axis=0)))

    def replicates(self, counts: NDArray[np.uint8]) -> NDArray[np.float64]:
        return self.of_totals(_weighted_totals(counts, self.sums))


def mean_over_users(users: NDArray[np.int32], values: NDArray[np.float64]) -> SumFigure:
    """Each user counts alike: the mean of `values`, float64 [n]."""
    return SumFigure(users, np.column_stack([values, np.ones(len(values))]))


def pooled(
    users: NDArray[np.int32],
    over: NDArray[np.float64],
    under: NDArray[np.float64],
    *,
    of_totals: Callable[[Totals], Totals] = ratio,
) -> SumFigure:
    """Each row counts alike: the sum of `over` by the sum of `under`, both float64 [n]."""
    return SumFigure(users, np.column_stack([over, under]), of_totals)


def linearised(users: NDArray[np.int32], value: float, influence: NDArray[np.float64]) -> SumFigure:
    """A figure that is no function of sums: its value, moved by what each user alone changes.

    `influence[j]` is the value minus the value without user j, float64 [n]. A user drawn twice
    adds it once, a user not drawn takes it away: the infinitesimal jackknife.
    """
    shifted = partial(_moved, value=value, total=float(influence.sum()))
    return SumFigure(users, influence[:, None].astype(np.float64), shifted)


def _moved(totals: Totals, *, value: float, total: float) -> Totals:
    return value + (totals[..., 0] - total)


@dataclass(frozen=True)
class Resamples:
    """Users drawn with replacement; all figures and differences of a report share one set.

    Attributes:
        users: rows of the users to draw from, distinct and ascending, int32 [n].
        counts: how often each user was drawn, uint8 [replicates, n]; each row sums to n.
    """

    users: NDArray[np.int32]
    counts: NDArray[np.uint8]

    @classmethod
    def draw(
        cls,
        users: NDArray[np.int32],
        *,
        rng: np.random.Generator,
        n_replicates: int = N_REPLICATES,
    ) -> "Resamples":
        """Draw len(users) users with replacement, `n_replicates` times over.

        A count above 255 would need the same user 256 times in one draw: up to 255 users that
        can't happen, and beyond it has a chance below 1e-500.
        """
        if n_replicates < 1:
            raise ValueError(f"bootstrap: {n_replicates} replicates; at least 1 is needed")
        n = len(users)
        counts = np.zeros((n_replicates, n), dtype=np.uint8)
        step = max(1, CHUNK_ELEMENTS // max(n, 1))
        for start in range(0, n_replicates if n else 0, step):
            rows = min(step, n_replicates - start)
            drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
            tally = np.bincount(drawn.ravel(), minlength=rows * n)
            counts[start : start + rows] = tally.reshape(rows, n)
        return cls(users, counts)

    def counts_of(self, users: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The columns of `users`, uint8 [replicates, len(users)].

        Raises:
            ValueError: one of them was not there to be drawn.
        """
        if np.array_equal(users, self.users):
            return self.counts
        columns = np.searchsorted(self.users, users)
        found = columns < len(self.users)
        found[found] = self.users[columns[found]] == users[found]
        if not found.all():
            raise ValueError(f"bootstrap: user {users[~found][0]} is not among those drawn")
        return self.counts[:, columns]


def estimates(figures: Mapping[str, Sequence[Figure]], resamples: Resamples) -> dict[str, Estimate]:
    """Mean and interval of each metric of one model; what is not defined is left out.

    Args:
        figures: by metric, one figure per seed. The mean is the mean over seeds of the seed's
            figure; a resample draws users once for all seeds, so users that a model always does
            well on widen the interval as they should. The seeds themselves are not resampled.
        resamples: over all users of all figures.
    """
    values = {name: _mean_value(seeds) for name, seeds in figures.items()}
    defined = {name: figures[name] for name, value in values.items() if np.isfinite(value)}
    replicates = _replicates(defined, resamples)
    return {
        name: _estimate(values[name], replicates[name], _n_users(seeds))
        for name, seeds in defined.items()
    }


def paired_difference(
    a: Sequence[Figure], b: Sequence[Figure], resamples: Resamples
) -> Difference | None:
    """a - b of one metric, one figure per seed, both models on the same users and resamples.

    Returns:
        None where the metric is not defined for one of the two.

    Raises:
        ValueError: the two were not evaluated on the same seeds or users.
    """
    if len(a) != len(b):
        raise ValueError(f"paired difference: {len(a)} seeds against {len(b)}")
    if not all(np.array_equal(x.users, y.users) for x, y in zip(a, b, strict=True)):
        raise ValueError("paired difference: the two models were not asked for the same users")
    difference = _mean_value(a) - _mean_value(b)
    if not np.isfinite(difference):
        return None
    replicates = _replicates({"a": a, "b": b}, resamples)
    return difference_of(difference, replicates["a"] - replicates["b"], n_users=_n_users(a))


def difference_of(
    difference: float, replicates: NDArray[np.float64], *, n_users: int
) -> Difference:
    """Interval and p of a difference of which these are the resamples."""
    found = _estimate(difference, replicates, n_users)
    p = _two_sided_p(difference, replicates, n_users)
    return Difference(found.mean, found.low, found.high, p, n_users)


def compared(differences: Mapping[_Key, Difference]) -> dict[_Key, Comparison]:
    """The differences as one family of comparisons: see `holm`."""
    adjusted = holm([one.p for one in differences.values()])
    return {
        key: Comparison(**asdict(one), p_holm=p)
        for (key, one), p in zip(differences.items(), adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """The p of each comparison, made larger for how many were made, in their order.

    To call what is below .05 significant is wrong of any of them in at most one family in twenty.
    """
    n = len(p_values)
    ascending = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values, np.float64)[ascending] * (n - np.arange(n))
    adjusted = np.empty(n)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(raised), 1.0) if n else raised
    return adjusted.tolist()


def _two_sided_p(mean: float, replicates: NDArray[np.float64], n_users: int) -> float:
    """Student's, with the scatter of the resamples for a standard error."""
    defined = replicates[np.isfinite(replicates)]
    if n_users < 2 or len(defined) < 2:
        return 1.0
    error = float(np.std(defined)) * np.sqrt(n_users / (n_users - 1))
    # Equal models differ by the rounding of sums alone.
    if error < ROUNDING:
        return 0.0 if abs(mean) >= ROUNDING else 1.0
    return float(2.0 * stdtr(n_users - 1, -abs(mean) / error))


def _tail(n_users: int) -> float:
    """Percentile whose interval is as wide as Student's for so many users; TAIL for very many."""
    return float(ndtr(stdtrit(n_users - 1, TAIL) * np.sqrt(n_users / (n_users - 1))))


def _n_users(seeds: Sequence[Figure]) -> int:
    return len(np.unique(np.concatenate([figure.users for figure in seeds])))


def _estimate(mean: float, replicates: NDArray[np.float64], n_users: int) -> Estimate:
    """Percentile interval of the replicates that are defined, widened to hold the mean.

    Widened, because rounding can push equal replicates past the mean, and because a figure such as
    the calibration error is larger in nearly every resample than in the sample.
    """
    defined = replicates[np.isfinite(replicates)]
    if len(defined) == 0 or n_users < 2:
        return Estimate(mean, mean, mean)
    tail = _tail(n_users)
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _mean_value(seeds: Sequence[Figure]) -> float:
    return float(np.mean([figure.value() for figure in seeds]))


def _replicates(
    figures: Mapping[str, Sequence[Figure]], resamples: Resamples
) -> dict[str, NDArray[np.float64]]:
    """Replicates of each metric, float64 [replicates], averaged over its seeds.

    Sums over the same users go through one matrix product: ten times faster than one by one.
    """
    flat = [(name, figure) for name, seeds in figures.items() for figure in seeds]
    by_users: dict[bytes, list[int]] = {}
    for i, (_, figure) in enumerate(flat):
        by_users.setdefault(figure.users.tobytes(), []).append(i)
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(flat)
    for members in by_users.values():
        same_users = [flat[i][1] for i in members]
        counts = resamples.counts_of(same_users[0].users)
        for i, replicates in zip(members, _replicates_of(same_users, counts), strict=True):
            found[i] = replicates
    return {
        name: np.mean([found[i] for i, (owner, _) in enumerate(flat) if owner == name], axis=0)
        for name in figures
    }


def _replicates_of(
    figures: Sequence[Figure], counts: NDArray[np.uint8]
) -> list[NDArray[np.float64]]:
    """Replicates of figures that rest on the same users, in their order."""
    sums = [figure.sums for figure in figures if isinstance(figure, SumFigure)]
    if not sums:
        return [figure.replicates(counts) for figure in figures]
    totals = _weighted_totals(counts, np.hstack(sums))
    found = []
    start = 0
    for figure in figures:
        if isinstance(figure, SumFigure):
            stop = start + figure.sums.shape[1]
            found.append(figure.of_totals(totals[:, start:stop]))
            start = stop
        else:
            found.append(figure.replicates(counts))
    return found


def _weighted_totals(counts: NDArray[np.uint8], sums: NDArray[np.float64]) -> Totals:
    """counts @ sums, float64 [b, m], a block of replicates at a time to bound the memory."""
    step = max(1, CHUNK_ELEMENTS // max(counts.shape[1], 1))
    totals = np.empty((len(counts), sums.shape[1]))
    for start in range(0, len(counts), step):
        block = slice(start, start + step)
        totals[block] = counts[block].astype(np.float64) @ sums
    return totals
