"""Fitting the towers: what is hidden, what is seen, when it stops."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from candidfeed.data.features import Bag
from candidfeed.data.histories import Histories
from candidfeed.data.interactions import Interactions
from candidfeed.retrieval import training as module
from candidfeed.retrieval.closed_forms import ClosedFormSettings
from candidfeed.retrieval.factorise import FactorSettings
from candidfeed.retrieval.training import (
    FittedTower,
    HiddenHistories,
    TowerSettings,
    choose_closed,
    fit_tower,
)
from candidfeed.retrieval.two_tower import OUT_OF_SOFTMAX
from candidfeed.retrieval.validation import Asked, rank

N_USERS, N_ITEMS = 30, 12
SETTINGS = TowerSettings(
    closed=ClosedFormSettings(FactorSettings(dim=4), n_neighbour_dims=3, l2=10.0),
    dim=4, n_epochs=3, batch_size=8,
)  # fmt: skip


def log_of(pairs: list[tuple[int, int]], *, n_items: int = N_ITEMS) -> Interactions:
    user, item = np.array(pairs, np.int32).reshape(-1, 2).T
    nothing = np.full(len(user), np.nan)
    return Interactions(user, item, nothing.astype(np.float32), nothing, N_USERS, n_items)


def random_log(*, n_items: int = N_ITEMS) -> Interactions:
    """User 0 has no event, user 1 a single one, the others between two and all."""
    rng = np.random.default_rng(0)
    pairs = [(1, 0)]
    for u in range(2, N_USERS):
        n = int(rng.integers(2, n_items + 1))
        pairs += [(u, int(i)) for i in rng.permutation(n_items)[:n]]
    return log_of(pairs, n_items=n_items)


def bag_of(n: int) -> Bag:
    ids = np.arange(n, dtype=np.int32)[:, None] % 3
    return Bag(ids, (ids > 0).astype(np.float32))


def fit(
    train: Interactions,
    settings: TowerSettings = SETTINGS,
    *,
    seed: int = 5,
    validation: Asked | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> FittedTower:
    return fit_tower(
        train, user_bag=bag_of(N_USERS), item_bag=bag_of(train.n_items), n_user_ids=3,
        n_item_ids=3, settings=settings, seed=seed, validation=validation, callbacks=callbacks,
    )  # fmt: skip


def batches_of(train: Interactions, *, hide: float = 0.4, batch_size: int = 8) -> HiddenHistories:
    history = Histories.of(train, max_length=64)
    return HiddenHistories(history, bag_of(N_USERS), hide=hide, batch_size=batch_size, seed=1)


def halves() -> tuple[Interactions, Asked]:
    """Train, and a validation part with some of the same users."""
    log = random_log()
    is_asked = (log.user % 2 == 0) & (np.random.default_rng(1).random(len(log)) < 0.3)
    train = log.take(~is_asked)
    return train, Asked(train, log.take(is_asked))


# What is hidden


def test_no_hidden_item_is_shown_and_the_two_parts_are_the_history() -> None:
    train = random_log()
    touched, batches = train.matrix.toarray(), batches_of(train)
    for step in range(len(batches)):
        inputs, labels = batches[step]
        users = batches.order[step * 8 : (step + 1) * 8]
        shown = np.zeros((len(users), N_ITEMS + 1))
        shown[np.arange(len(users))[:, None], inputs["history"]] = 1
        shown = shown[:, :N_ITEMS]
        assert not (shown * (labels > 0)).any()
        np.testing.assert_array_equal(shown, labels == OUT_OF_SOFTMAX)
        np.testing.assert_array_equal(shown + (labels > 0), touched[users])
        np.testing.assert_array_equal(inputs["feature_ids"], bag_of(N_USERS).ids[users])


def test_every_user_with_two_events_comes_each_epoch_and_nobody_else() -> None:
    batches = batches_of(random_log())
    assert len(batches) == 4  # 28 users in eights
    for _ in range(3):
        assert set(batches.order) == set(range(2, N_USERS))
        assert len(batches.order) == 32
        assert len(set(batches.order[:28])) == 28
        batches.on_epoch_end()


def test_each_epoch_hides_anew_about_the_share_that_is_asked_for() -> None:
    batches = batches_of(random_log(), hide=0.4)
    touched = random_log().matrix.toarray()
    counts, hidden_of_user = [], []
    for _ in range(40):
        labels = np.concatenate([batches[step][1] for step in range(len(batches))])[:28]
        users = batches.order[:28]
        counts.append((labels > 0).sum() / touched[users].sum())
        hidden_of_user.append((labels[users == 5] > 0).tobytes())
        batches.on_epoch_end()
    assert np.mean(counts) == pytest.approx(0.4, abs=0.02)
    assert len(set(hidden_of_user)) > 20


def test_fitting_draws_each_epoch_anew_and_in_one_thread() -> None:
    seen: list[bytes] = []

    class Watched(keras.callbacks.Callback):
        def on_epoch_end(self, _epoch: int, logs: object = None) -> None:
            seen.append(np.asarray(self.model.item_bias).tobytes())

    curves = fit(random_log(), callbacks=(Watched(),)).curves
    assert len(set(seen)) == len(curves["loss"]) == 3


# Fitting


def test_one_seed_gives_the_same_bits_and_another_seed_others() -> None:
    short = replace(SETTINGS, n_epochs=1)
    first, again, other = (
        fit(random_log(), short, seed=seed).model.get_weights() for seed in (5, 5, 6)
    )
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_without_a_validation_part_every_epoch_is_run() -> None:
    fitted = fit(random_log())
    assert fitted.settings == SETTINGS
    assert fitted.curves.keys() == {"loss", "ndcg"}
    assert len(fitted.curves["loss"]) == 3


def test_no_epoch_leaves_the_closed_forms_as_they_are() -> None:
    settings = replace(SETTINGS, n_epochs=0)
    fitted = fit(random_log(), settings)
    assert fitted.curves == {}
    assert not np.asarray(fitted.model.history_table).any()
    train, asked = halves()
    validated = fit(train, settings, validation=asked)
    assert validated.settings.n_epochs == 0
    assert validated.curves == {}


def test_where_no_history_has_two_events_there_is_nothing_to_learn_from() -> None:
    lonely = log_of([(u, u % N_ITEMS) for u in range(N_USERS)])
    fitted = fit(lonely)
    assert fitted.curves == {}
    assert np.isfinite(fitted.scorer(lonely).scores(np.arange(3))).all()


def test_where_training_only_harms_the_start_is_restored_to_the_bit() -> None:
    train, asked = halves()
    harmful = replace(SETTINGS, learning_rate=0.0, n_epochs=9, patience=2)
    fitted = fit(train, harmful, validation=asked)
    # Every epoch is as good as the start: the earliest of equal ones is kept.
    assert fitted.settings.n_epochs == 0
    assert len(fitted.curves["val_ndcg"]) == 1 + 3
    start = fit(train, replace(SETTINGS, n_epochs=0)).model.get_weights()
    for one, same in zip(fitted.model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(one, same)


def test_the_best_epochs_weights_are_kept_and_counted() -> None:
    train, asked = halves()
    eager = replace(SETTINGS, learning_rate=0.05, n_epochs=8, patience=8)
    fitted = fit(train, eager, validation=asked)
    reached = fitted.curves["val_ndcg"]
    assert fitted.settings.n_epochs == int(np.argmax(reached))
    assert len(reached) == len(fitted.curves["loss"]) + 1
    best = rank(fitted.scorer(asked.known).scores, asked).ndcg
    assert best == pytest.approx(max(reached), abs=1e-5)


def test_validation_labels_ask_for_the_target_among_what_is_not_known() -> None:
    known, target = log_of([(2, 0), (2, 1), (4, 5)]), log_of([(2, 1), (2, 7), (4, 3)])
    asked = Asked(known, target)
    labels = module._labels(asked, np.array([2, 4]))
    expected = np.zeros((2, N_ITEMS))
    expected[0, [0, 1]] = expected[1, 5] = OUT_OF_SOFTMAX  # a known target can't be asked for
    expected[0, 7] = expected[1, 3] = 1
    np.testing.assert_array_equal(labels, expected)
    inputs, same = module._validation_batch(asked, bag_of(N_USERS))
    np.testing.assert_array_equal(same, expected)
    assert inputs["history"].tolist() == [[0, 1], [5, N_ITEMS]]


def test_a_perfect_order_of_the_validation_part_is_worth_one() -> None:
    _, asked = halves()
    wanted = asked.target.matrix.toarray()
    assert rank(lambda users: wanted[users], asked).ndcg == pytest.approx(1.0)


@pytest.mark.parametrize("n_items", [2, 3])
def test_tiny_catalogues_are_chosen_for_fitted_and_asked(n_items: int) -> None:
    log = random_log(n_items=n_items)
    train, held = log.take(np.arange(len(log)) % 4 > 0), log.take(np.arange(len(log)) % 4 == 0)
    asked = Asked(train, held)
    closed = choose_closed(train, bag_of(n_items), asked, seed=1)
    fitted = fit(train, replace(SETTINGS, closed=closed), validation=asked)
    scores = fitted.scorer(train).scores(np.arange(N_USERS))
    assert scores.shape == (N_USERS, n_items)
    assert np.isfinite(scores).all()


# Asking


def test_a_users_scores_do_not_depend_on_who_else_is_asked_for() -> None:
    train = random_log()
    scorer = fit(train, replace(SETTINGS, n_epochs=1)).scorer(train)
    everyone = np.resize(np.arange(N_USERS), 70)
    together = scorer.scores(everyone)
    assert together.shape == (70, N_ITEMS)
    np.testing.assert_array_equal(scorer.scores(np.array([7])), together[[7]])
    np.testing.assert_array_equal(scorer.scores(everyone[::-1]), together[::-1])
    vectors = scorer.user_vectors(everyone)
    np.testing.assert_allclose(vectors @ scorer.item_vectors.T, together, atol=1e-5)


def test_a_long_history_is_read_whole_beside_a_short_one() -> None:
    long = [(0, item) for item in range(60)]
    train = log_of([*long, (1, 3), (1, 4), (2, 5)], n_items=80)
    scorer = fit(train, replace(SETTINGS, n_epochs=0)).scorer(train)
    alone = scorer.scores(np.array([0]))
    np.testing.assert_allclose(scorer.scores(np.array([1, 0, 2]))[[1]], alone, atol=1e-5)
    whole = scorer.model.predict_on_batch(scorer._inputs(np.array([0]), 60))
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_a_scorer_reads_the_history_that_it_is_given() -> None:
    train = random_log()
    fitted = fit(train, replace(SETTINGS, n_epochs=1))
    newcomer = fitted.scorer(train.concat(log_of([(0, 3)]))).scores(np.array([0]))
    stranger = fitted.scorer(train).scores(np.array([0]))
    assert (newcomer != stranger).any()


def test_models_of_one_configuration_share_what_is_compiled_and_not_their_weights() -> None:
    train, users = random_log(), np.arange(4)
    one, other = (fit(train, seed=seed).scorer(train) for seed in (1, 2))
    module._encoder.cache_clear()
    first, second = one.user_vectors(users), other.user_vectors(users)
    assert module._encoder.cache_info().misses == 1
    assert (first != second).any()
    module._encoder.cache_clear()
    np.testing.assert_array_equal(fit(train, seed=2).scorer(train).user_vectors(users), second)
