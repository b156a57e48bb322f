"""The climb to the closed forms that rank a validation part best."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval import closed_form_choice as module
from candidfeed.retrieval.closed_form_choice import choose_closed_forms
from candidfeed.retrieval.closed_forms import ClosedFormSettings, fit_closed_forms
from candidfeed.retrieval.content import Content
from candidfeed.retrieval.factorise import FactorSettings, fold_in
from candidfeed.retrieval.validation import Asked, Scores, rank

N_USERS, N_ITEMS = 90, 70
SEED = 3
EVERYONE = np.arange(N_USERS, dtype=np.int32)


def log_of(touched: np.ndarray) -> Interactions:
    user, item = np.nonzero(touched)
    nothing = np.full(len(user), np.nan)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), nothing.astype(np.float32), nothing,
        *touched.shape,
    )  # fmt: skip


def random_log(n_items: int = N_ITEMS) -> Interactions:
    return log_of(np.random.default_rng(1).random((N_USERS, n_items)) < 0.2)


def content_of(train: Interactions) -> Content:
    nothing = np.zeros((train.n_items, 1))
    return Content.of(Bag(nothing.astype(np.int32), nothing.astype(np.float32)), train.item)


def scores_of(train: Interactions, settings: ClosedFormSettings) -> np.ndarray:
    closed = fit_closed_forms(train, content_of(train), settings, seed=SEED)
    folded = [fold_in(train.matrix, one, settings.asked) @ one.T for one in closed.items]
    neighbours = (train.matrix @ closed.neighbour_in) @ closed.neighbour_out.T
    return np.mean(folded, axis=0) + neighbours


class CloserTo:
    """A measure that is the higher the closer scores are to `wanted`; it keeps what it gave."""

    def __init__(self, wanted: np.ndarray) -> None:
        self.wanted, self.gave = wanted, []

    def __call__(self, scores: Scores) -> float:
        distance = float(np.abs(scores(EVERYONE) - self.wanted).mean())
        self.gave.append(1.0 / (1e-4 + distance))
        return self.gave[-1]


@pytest.fixture
def _fitted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHOOSING_ITERATIONS", FactorSettings().n_iterations)
    monkeypatch.setattr(module, "_CHOOSING_MEMBERS", module._MAX_MEMBERS)
    monkeypatch.setattr(module, "_CLIMBING_MEMBERS", module._MAX_MEMBERS)


@pytest.mark.usefixtures("_fitted_in_full")
@pytest.mark.parametrize(("unseen_weight", "reg"), [(1.0, 0.1), (0.5, 0.05)])
@pytest.mark.parametrize(("l2", "neighbour_weight"), [(300.0, 0.6), (3000.0, 2.0)])
def test_the_climb_ends_at_what_the_measure_wants(
    unseen_weight: float, reg: float, l2: float, neighbour_weight: float
) -> None:
    train = random_log()
    factors = FactorSettings(32, unseen_weight, reg)
    wanted = ClosedFormSettings(factors, 8, reg, 32, l2, neighbour_weight)
    # The parts are chosen one after the other, so the first is judged without the last.
    folded = CloserTo(scores_of(train, replace(wanted, n_neighbour_dims=0)))
    alone = choose_closed_forms(train, content_of(train), train.matrix, folded, seed=SEED)
    assert (alone.factors, alone.n_members, alone.n_neighbour_dims) == (factors, 8, 0)
    measure = CloserTo(scores_of(train, wanted))
    chosen = choose_closed_forms(train, content_of(train), train.matrix, measure, seed=SEED)
    assert chosen.n_neighbour_dims == 32
    # No setting that was tried is better by more than what counts as a gain.
    chosen_worth = measure_of(train, chosen, measure)
    assert chosen_worth >= max(measure.gave) / (1 + 2 * module._MIN_GAIN)


def measure_of(train: Interactions, settings: ClosedFormSettings, measure: CloserTo) -> float:
    scores = scores_of(train, settings)
    return measure(lambda rows: scores[rows])


def test_where_nothing_gains_the_first_settings_stay() -> None:
    train = random_log()
    chosen = choose_closed_forms(
        train, content_of(train), train.matrix, lambda _scores: 0.5, seed=SEED
    )
    per_user = len(train) / N_USERS
    assert chosen.n_neighbour_dims == 0
    assert chosen.factors.dim == 32
    assert chosen.factors.reg == pytest.approx(1.2 / per_user, rel=0.5)
    assert chosen.asked_reg == chosen.factors.reg
    assert chosen.n_members == module._MAX_MEMBERS


def test_a_sparse_log_starts_with_less_weight_on_what_is_unseen_and_more_regularised() -> None:
    rng = np.random.default_rng(2)
    sparse, dense = (log_of(rng.random((300, 400)) < share) for share in (0.01, 0.2))
    first, second = (module._first(log, 32) for log in (sparse, dense))
    assert first.unseen_weight < second.unseen_weight
    assert first.reg > second.reg


@pytest.fixture
def _large_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NEIGHBOUR_ITEMS", N_ITEMS - 1)


@pytest.mark.usefixtures("_large_catalogue")
def test_above_a_limit_of_items_one_factorisation_from_the_spectrum() -> None:
    train = random_log()
    chosen = choose_closed_forms(
        train, content_of(train), train.matrix, lambda _scores: 0.5, seed=SEED
    )
    assert chosen.is_spectral
    assert (chosen.n_neighbour_dims, chosen.n_members) == (0, 1)
    assert chosen.factors.dim == module._FIRST_SPECTRAL_DIM


@pytest.mark.usefixtures("_large_catalogue")
@pytest.mark.parametrize(("rank", "weight"), [(64, 1.0), (32, 10.0)])
def test_of_a_large_catalogue_rank_and_weight_of_the_spectrum_are_climbed_to(
    rank: int, weight: float
) -> None:
    train = random_log()
    alone = choose_closed_forms(
        train, content_of(train), train.matrix, lambda _scores: 0.5, seed=SEED
    )
    wanted = replace(alone, n_neighbour_dims=rank, neighbour_weight=weight)
    measure = CloserTo(scores_of(train, wanted))
    chosen = choose_closed_forms(train, content_of(train), train.matrix, measure, seed=SEED)
    assert chosen.n_neighbour_dims > 0
    assert measure_of(train, chosen, measure) >= max(measure.gave) / (1 + module._MIN_GAIN_AT_COST)


@pytest.mark.parametrize("n_items", [2, 3, 5, 33])
def test_tiny_catalogues_get_settings_that_can_be_fitted(n_items: int) -> None:
    train = random_log(n_items)
    chosen = choose_closed_forms(
        train, content_of(train), train.matrix, lambda _scores: 0.5, seed=SEED
    )
    assert 1 <= chosen.factors.dim <= max(1, n_items // 2)
    closed = fit_closed_forms(train, content_of(train), chosen, seed=SEED)
    assert closed.items.shape == (chosen.n_members, n_items, chosen.factors.dim)
    assert np.isfinite(closed.items).all()


def test_what_is_chosen_ranks_hidden_events_of_two_groups_far_above_chance() -> None:
    rng = np.random.default_rng(7)
    likes = np.where((EVERYONE[:, None] % 2) == (np.arange(N_ITEMS) % 2), 0.5, 0.03)
    touched = rng.random((N_USERS, N_ITEMS)) < likes
    hidden = touched & (rng.random(touched.shape) < 0.2)
    asked = Asked(log_of(touched & ~hidden), log_of(hidden))
    chosen = choose_closed_forms(
        asked.known,
        content_of(asked.known),
        asked.known.matrix,
        lambda scores: rank(scores, asked).worth,
        seed=SEED,
    )
    scores = scores_of(asked.known, chosen)
    chance = rank(lambda rows: rng.random((len(rows), N_ITEMS)).astype(np.float32), asked)
    assert rank(lambda rows: scores[rows], asked).ndcg > 1.2 * chance.ndcg
