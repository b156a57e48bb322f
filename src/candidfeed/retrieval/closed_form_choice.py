"""Which closed forms suit a log: a climb through their settings, judged by a validation part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import log
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidfeed.data.interactions import Interactions
from candidfeed.retrieval.closed_forms import (
    MAX_NEIGHBOUR_ITEMS,
    ClosedFormSettings,
    fit_members,
    neighbour_tables,
)
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, fold_in
from candidfeed.retrieval.spectrum import Spectrum, leading_spectrum
from candidfeed.retrieval.validation import Scores

# Sparse logs want a small weight of the unseen and strong regularisation, dense ones the opposite.
# An unseen pair never weighs more than an observed one.
_UNSEEN_WEIGHTS = (
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
)
_REGS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
# Times the regularisation of the fit.
_ASKED_TIMES = (1.0, 2.0, 3.0, 5.0, 10.0)
_FIRST_DIM = 32
_DIMS = (16, 32, 64, 128, 256, 512)
# The averaged members of a small catalogue fit in vectors of this length together.
_MEMBER_DIMS = 256
_MAX_MEMBERS = 8
# Of a large catalogue: one factorisation, a few sweeps on from the spectrum of the links. More
# sweeps forget what was good in the start.
_FIRST_SPECTRAL_DIM = 64
_N_SPECTRAL_SWEEPS = 3
_SPECTRAL_DIMS = (32, 64, 128, 256)
_FIRST_SPECTRAL_WEIGHT = 3.0
_FIRST_SPECTRAL_UNSEEN = 0.005
# What a user without events would be pulled to zero by.
_FIRST_SPECTRAL_PULL = 4.0
_SPECTRAL_WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)
# Low on purpose: 16 to 64 dimensions rank unseen items as well as all of EASE, and unlike it they
# do not push down what the user has touched.
_NEIGHBOUR_DIMS = 32
_L2 = (300.0, 1000.0, 3000.0)
_NEIGHBOUR_WEIGHTS = (0.3, 0.6, 1.0, 2.0)
# No more than 1: a validation part of new items alone would put all of them before all others.
_NEW_ITEM_WEIGHTS = (0.0, 0.5, 1.0)
_CHOOSING_ITERATIONS = 4
_CHOOSING_MEMBERS = 4
# Members that are looser than a single factorisation should be are only seen to be better together.
_CLIMBING_MEMBERS = 2
_MAX_CLIMBING_DIM = 64
_KEPT_MEMBERS = 4
# What is better by less than this share is no gain; another size has to be worth its cost.
_MIN_GAIN = 0.002
_MIN_GAIN_AT_COST = 0.005

Floats = NDArray[np.float32]
# How well scores rank a validation part; higher is better, and above 0.
Worth = Callable[[Scores], float]
# From settings to those a place up (1) or down (-1); None where there are none.
Step = Callable[[ClosedFormSettings, int], ClosedFormSettings | None]


def choose_closed_forms(
    train: Interactions, content: Content, known: sp.csr_matrix, worth: Worth, *, seed: int
) -> ClosedFormSettings:
    """The settings that rank a validation part best: regularisation, then size, then neighbours.

    Args:
        known: what each user is known to have touched when asked for, CSR [n_users, n_items].
        worth: of scores, on the validation part.
    """
    if train.n_items > MAX_NEIGHBOUR_ITEMS:
        trials = _Trials(train, content, known, worth, seed, n_climbing=1)
        chosen = _of_large_catalogue(trials)
    else:
        trials = _Trials(train, content, known, worth, seed, _CLIMBING_MEMBERS)
        chosen = _of_small_catalogue(trials)
    if content.is_needed:
        chosen = trials.climb(chosen, [_step_new])
    return trials.climb(chosen, [_step_asked])


def _of_small_catalogue(trials: "_Trials") -> ClosedFormSettings:
    """Several factorisations averaged, and EASE beside them where it helps."""
    train = trials.train
    largest = max(1, train.n_items // 2)
    first = _first(train, min(_FIRST_DIM, largest))
    chosen = ClosedFormSettings(first, asked_reg=first.reg)
    if train.n_items <= _FIRST_DIM:
        return chosen
    chosen = trials.climb(chosen, [_step_unseen, _step_reg, _step_across])
    chosen = _resized(trials, chosen, largest)
    n_members = min(_MAX_MEMBERS, _MEMBER_DIMS // chosen.factors.dim)
    chosen = replace(chosen, n_members=max(1, n_members))
    return _with_neighbours(trials, chosen, min(_NEIGHBOUR_DIMS, largest))


def _of_large_catalogue(trials: "_Trials") -> ClosedFormSettings:
    """One factorisation and the spectrum that it begins with."""
    first = FactorSettings(
        dim=_FIRST_SPECTRAL_DIM,
        unseen_weight=_FIRST_SPECTRAL_UNSEEN,
        reg=_nearest(_REGS, _FIRST_SPECTRAL_PULL / (_FIRST_SPECTRAL_UNSEEN * trials.train.n_items)),
        n_iterations=_N_SPECTRAL_SWEEPS,
    )
    chosen = ClosedFormSettings(first, asked_reg=first.reg, is_spectral=True)
    chosen = trials.climb(
        chosen, [_step_unseen, _step_reg, _step_across], min_gain=_MIN_GAIN_AT_COST
    )
    beside = replace(
        chosen, n_neighbour_dims=max(_SPECTRAL_DIMS), neighbour_weight=_FIRST_SPECTRAL_WEIGHT
    )
    beside = trials.climb(beside, [_step_rank, _step_weight])
    if trials.of(beside) > trials.of(chosen) * (1 + _MIN_GAIN):
        chosen = beside
    sizes = [partial(_step_dim, largest=max(_SPECTRAL_DIMS))]
    before = None
    while chosen != before:
        before = chosen
        chosen = trials.climb(chosen, sizes, min_gain=_MIN_GAIN_AT_COST)
        if chosen.factors.dim != before.factors.dim:
            chosen = trials.climb(chosen, [_step_reg], min_gain=_MIN_GAIN_AT_COST)
        if chosen.n_neighbour_dims:
            chosen = trials.climb(chosen, [_step_rank, _step_weight])
    return chosen


def _resized(trials: "_Trials", chosen: ClosedFormSettings, largest: int) -> ClosedFormSettings:
    sizes = [partial(_step_dim, largest=largest), partial(_step_size, largest=largest)]
    resized = trials.climb(chosen, sizes, min_gain=_MIN_GAIN_AT_COST)
    return chosen if resized == chosen else trials.climb(resized, [_step_reg])


def _first(train: Interactions, dim: int) -> FactorSettings:
    """Where the climb begins: near the best of logs of 10 to 100 events a user.

    Unseen items weigh together some four times what a user's events do, and regularisation is
    about that of one event.
    """
    per_user = max(1.0, len(train) / max(1, np.count_nonzero(np.diff(train.matrix.indptr))))
    return FactorSettings(
        dim=dim,
        unseen_weight=_nearest(_UNSEEN_WEIGHTS, 4.0 * per_user / train.n_items),
        reg=_nearest(_REGS, 1.2 / per_user),
    )


@dataclass
class _Trials:
    """What was tried so far, and how well it ranked."""

    train: Interactions
    content: Content
    known: sp.csr_matrix
    worth: Worth
    seed: int
    n_climbing: int
    reached: dict[ClosedFormSettings, float] = field(default_factory=dict)
    members: dict[tuple[FactorSettings, int], Floats] = field(default_factory=dict)
    neighbours: dict[tuple[float, int], tuple[Floats, Floats]] = field(default_factory=dict)
    folded: tuple[object, Floats, Floats] | None = None

    def climb(
        self, start: ClosedFormSettings, steps: Sequence[Step], *, min_gain: float = _MIN_GAIN
    ) -> ClosedFormSettings:
        """On from `start` by the step that gains most, while one gains.

        A step that gained is taken again and again before another is tried.
        """
        best = start
        while True:
            ways = [(step, up) for step in steps for up in (-1, 1)]
            ahead = [(self.of(there), step, up, there) for step, up in ways
                     if (there := step(best, up)) is not None]  # fmt: skip
            if not ahead:
                return best
            reached, step, up, there = max(ahead, key=lambda one: one[0])
            if reached <= self.of(best) * (1 + min_gain):
                return best
            while there is not None and self.of(there) > self.of(best) * (1 + min_gain):
                best, there = there, step(there, up)

    def of(self, settings: ClosedFormSettings) -> float:
        """The worth of the scores that these settings give, fitted briefly."""
        if settings not in self.reached:
            self.reached[settings] = self.worth(self._scores(settings))
        return self.reached[settings]

    def _scores(self, settings: ClosedFormSettings) -> Scores:
        folded, items = self._folded_in(settings)
        left, right = self._neighbour_tables(settings)
        right = self.content.completed(right, weight=settings.new_item_weight)
        summed: Any = self.known @ (settings.neighbour_weight * left)
        user_vectors = np.concatenate([folded, summed], axis=1, dtype=np.float32)
        item_vectors = np.concatenate([*items, right], axis=1)
        return lambda rows: user_vectors[rows] @ item_vectors.T

    def _folded_in(self, settings: ClosedFormSettings) -> tuple[Floats, Floats]:
        """Users, float32 [n_users, members * dim], and items, [members, n_items, dim]."""
        # The next trials may ask the last one beside other neighbours.
        key = self._factors(settings), settings.asked, settings.new_item_weight
        if self.folded is None or self.folded[0] != key:
            items = self._members(settings)
            weight = settings.new_item_weight
            items = np.stack([self.content.completed(one, weight=weight) for one in items])
            users = [fold_in(self.known, one, settings.asked) for one in items]
            self.folded = key, np.concatenate(users, axis=1) / np.float32(len(users)), items
        return self.folded[1:]

    def _factors(self, settings: ClosedFormSettings) -> tuple[FactorSettings, int]:
        """Fitted briefly, and how many of them."""
        n_iterations = min(settings.factors.n_iterations, _CHOOSING_ITERATIONS)
        return replace(settings.factors, n_iterations=n_iterations), self._n_members(settings)

    def _members(self, settings: ClosedFormSettings) -> Floats:
        key = factors, n_members = self._factors(settings)
        if key not in self.members:
            # The next trials may ask one of the last few in another way.
            spectrum = self._spectrum if settings.is_spectral else None
            members = fit_members(self.train, factors, n_members, seed=self.seed, spectrum=spectrum)
            self.members = dict(list(self.members.items())[1 - _KEPT_MEMBERS :])
            self.members[key] = members
        return self.members[key]

    def _neighbour_tables(self, settings: ClosedFormSettings) -> tuple[Floats, Floats]:
        """Still without their weight."""
        key = (settings.l2, settings.n_neighbour_dims)
        if key not in self.neighbours:
            spectrum = self._spectrum if settings.is_spectral else None
            self.neighbours[key] = neighbour_tables(self.train, settings, spectrum)
        return self.neighbours[key]

    @cached_property
    def _spectrum(self) -> Spectrum:
        return leading_spectrum(self.train.matrix, max(_SPECTRAL_DIMS))

    def _n_members(self, settings: ClosedFormSettings) -> int:
        """Fewer than will be fitted, but enough to show what averaging does for them."""
        if settings.n_members > 1:
            return min(settings.n_members, _CHOOSING_MEMBERS)
        return self.n_climbing if settings.factors.dim <= _MAX_CLIMBING_DIM else 1


def _with_neighbours(trials: _Trials, alone: ClosedFormSettings, rank: int) -> ClosedFormSettings:
    """The best weight and l2 of a neighbour part, if one helps; of equal ones the lightest."""
    best = alone
    for l2 in _L2:
        for weight in _NEIGHBOUR_WEIGHTS:
            one = replace(alone, n_neighbour_dims=rank, l2=l2, neighbour_weight=weight)
            if trials.of(one) > trials.of(best) * (1 + _MIN_GAIN):
                best = one
    return best


def _nearest(choices: Sequence[float], value: float) -> float:
    return min(choices, key=lambda choice: abs(log(choice / value)))


def _moved(choices: Sequence[float], value: float, by: int) -> float | None:
    """The choice `by` places after the one nearest to `value`; None where the choices end."""
    near = value if value in choices else _nearest(choices, value)
    place = choices.index(near) + by
    return choices[place] if 0 <= place < len(choices) else None


def _step_asked(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    times = _moved(_ASKED_TIMES, one.asked_reg / one.factors.reg, up)
    return None if times is None else replace(one, asked_reg=times * one.factors.reg)


def _step_new(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    weight = _moved(_NEW_ITEM_WEIGHTS, one.new_item_weight, up)
    return None if weight is None else replace(one, new_item_weight=weight)


def _step_unseen(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    weight = _moved(_UNSEEN_WEIGHTS, one.factors.unseen_weight, up)
    if weight is None:
        return None
    return replace(one, factors=replace(one.factors, unseen_weight=weight))


def _step_reg(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    """Regularised more or less, the one who is asked for in proportion."""
    reg = _moved(_REGS, one.factors.reg, up)
    if reg is None:
        return None
    factors = replace(one.factors, reg=reg)
    return replace(one, factors=factors, asked_reg=reg * one.asked_reg / one.factors.reg)


def _step_across(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    """One strength for the other: what a row without events is pulled by stays about the same."""
    there = _step_unseen(one, up)
    return None if there is None else _step_reg(there, -up)


def _step_rank(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    rank = _moved(_SPECTRAL_DIMS, one.n_neighbour_dims, up)
    return None if rank is None else replace(one, n_neighbour_dims=int(rank))


def _step_weight(one: ClosedFormSettings, up: int) -> ClosedFormSettings | None:
    weight = _moved(_SPECTRAL_WEIGHTS, one.neighbour_weight, up)
    return None if weight is None else replace(one, neighbour_weight=weight)


def _step_dim(one: ClosedFormSettings, up: int, *, largest: int) -> ClosedFormSettings | None:
    choices = [dim for dim in _DIMS if dim <= max(largest, one.factors.dim)]
    dim = _moved(choices, one.factors.dim, up)
    return None if dim is None else replace(one, factors=replace(one.factors, dim=int(dim)))


def _step_size(one: ClosedFormSettings, up: int, *, largest: int) -> ClosedFormSettings | None:
    """More dimensions, regularised more: one without the other seldom gains."""
    there = _step_dim(one, up, largest=largest)
    return None if there is None else _step_reg(there, up)
