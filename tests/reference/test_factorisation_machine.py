"""myFM for ratings: what it reads, and that it predicts."""

import numpy as np
import pytest

from candidfeed.data.features import Bag, FeatureMap
from candidfeed.data.interactions import Interactions
from candidfeed.data.splits import Split, make_split
from candidfeed.data.tables import Dataset
from candidfeed.reference.factorisation_machine import (
    LIKELIHOODS,
    Columns,
    fit_factorisation_machine,
    item_columns,
    user_columns,
)

NOTHING = FeatureMap(())


def nothing(n: int) -> Bag:
    return Bag(np.zeros((n, 1), np.int32), np.zeros((n, 1), np.float32))


@pytest.fixture
def split(small: Dataset) -> Split:
    return make_split(small, "random", seed=0)


@pytest.fixture
def columns(split: Split) -> tuple[Columns, Columns]:
    users = user_columns(split.train, NOTHING, nothing(len(split.users)))
    return users, item_columns(split.train, NOTHING, nothing(len(split.items)))


def events(pairs: list[tuple[int, int, float]], n_users: int, n_items: int) -> Interactions:
    user, item, value = np.array(pairs).T
    times = np.full(len(pairs), np.nan)
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), value.astype(np.float32), times,
        n_users, n_items,
    )  # fmt: skip


def test_a_user_is_an_id_beside_the_items_over_the_root_of_their_number() -> None:
    log = events([(0, 0, 5), (0, 2, 3), (1, 2, 4), (1, 2, 4)], n_users=2, n_items=3)
    users = user_columns(log, NOTHING, nothing(2))
    assert users.group_sizes == (2, 3)
    half = 1 / np.sqrt(2)
    expected = [[1, 0, half, 0, half], [0, 1, 0, 0, 1]]
    np.testing.assert_allclose(users.matrix.toarray(), expected, rtol=1e-12)


def test_an_item_is_an_id_beside_the_users_who_rated_it() -> None:
    log = events([(0, 0, 5), (1, 0, 3)], n_users=2, n_items=2)
    items = item_columns(log, NOTHING, nothing(2))
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(items.matrix.toarray(), [[1, 0, half, half], [0, 1, 0, 0]])


def test_what_is_known_of_an_item_has_a_group_a_column_but_words_have_none(
    small: Dataset,
) -> None:
    features = FeatureMap.fit(small.items, small.item_features)
    log = events([(0, 0, 5.0)], n_users=12, n_items=10)
    kinds = [column for column in features.columns if column.kind != "text"]
    items = item_columns(log, features, features.encode(small.items))
    assert items.group_sizes == (10, 12, *(column.size for column in kinds))
    assert items.matrix.get_shape() == (10, sum(items.group_sizes))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_ratings_that_were_not_learned_are_told_better_than_by_the_mean(
    split: Split, columns: tuple[Columns, Columns], likelihood: str
) -> None:
    model = fit_factorisation_machine(split.train, *columns, likelihood=likelihood, seed=0)
    mean, median = model.predict(split.test)
    rating = split.test.value
    of_mean = np.mean((split.train.value.mean() - rating) ** 2)
    assert np.mean((mean - rating) ** 2) < 0.5 * of_mean
    assert mean.min() >= 2.0
    assert mean.max() <= 5.0
    if likelihood == "myfm-probit":
        assert set(np.unique(median)) <= {2.0, 5.0}


def test_it_prints_nothing(
    split: Split, columns: tuple[Columns, Columns], capfd: pytest.CaptureFixture[str]
) -> None:
    fit_factorisation_machine(split.train, *columns, likelihood="myfm-normal", seed=0)
    assert capfd.readouterr() == ("", "")


def test_too_many_different_ratings_are_refused_for_ordered_probit() -> None:
    log = events([(k % 3, k % 5, k) for k in range(30)], n_users=3, n_items=5)
    users, items = user_columns(log, NOTHING, nothing(3)), item_columns(log, NOTHING, nothing(5))
    with pytest.raises(ValueError, match="30 different ratings"):
        fit_factorisation_machine(log, users, items, likelihood="myfm-probit", seed=0)
