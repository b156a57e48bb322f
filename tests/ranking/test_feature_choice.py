"""Which features are read: few lists trust retrieval, many find what is there."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.ranking.engagement import HeadTraining
from candidfeed.ranking.feature_choice import (
    READABLE,
    FeatureChoice,
    choose_features,
    list_ndcg,
    reads,
)
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.ranking.ranker import EngagedHead
from candidfeed.ranking.settings import RankerSettings
from candidfeed.ranking.training import CandidateLists, with_chosen_features

N_CANDIDATES = 12


def lists_of(n: int, *, signal: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and one hit a list: the candidate with the highest value of one feature."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((n, N_CANDIDATES, len(DENSE_FEATURES))).astype(np.float32)
    engaged = np.zeros((n, N_CANDIDATES), np.float32)
    best = dense[:, :-1, DENSE_FEATURES.index(signal)].argmax(axis=1)
    engaged[np.arange(n), best] = 1
    engaged[:, -1], dense[:, -1] = -1, 0  # padding
    return dense, engaged


def choose(dense: np.ndarray, engaged: np.ndarray) -> FeatureChoice:
    def training(head: EngagedHead) -> HeadTraining:
        return HeadTraining(
            head, dense, engaged, lists_per_batch=16, learning_rate=0.02, weight_decay=0.01
        )

    user = np.arange(len(dense)) // 2
    return choose_features(
        training, dense, engaged, user,
        asked=dense, asked_user=user, n_epochs=12, least_gain_se=2.0, seed=4,
    )  # fmt: skip


def test_each_set_marks_its_features() -> None:
    assert reads("all").tolist() == [1.0] * len(DENSE_FEATURES)
    assert [DENSE_FEATURES[place] for place in np.flatnonzero(reads("retrieval"))] == [
        "tower_score"
    ]
    assert READABLE["retrieval"] < READABLE["stage one"] < READABLE["all"]


def test_with_few_lists_retrievals_own_order_stays() -> None:
    assert choose(*lists_of(29, signal="affinity")).name == "retrieval"


@pytest.mark.parametrize(("signal", "found"), [("affinity", "all"), ("tower_score", "retrieval")])
def test_with_many_lists_a_planted_signal_is_found(signal: str, found: str) -> None:
    assert choose(*lists_of(120, signal=signal)).name == found


def test_a_list_is_judged_by_a_head_that_learned_no_list_of_its_user() -> None:
    dense, engaged = lists_of(120, signal="tower_score")
    said = choose(dense, engaged).said
    # What its own users did is turned round: a head that had learned it would say otherwise.
    turned = engaged.copy()
    turned[:2, :-1] = 1 - turned[:2, :-1]
    again = choose(dense, turned).said
    assert said is not None
    assert again is not None
    np.testing.assert_array_equal(said[:2], again[:2])
    assert not np.array_equal(said, again)


def test_what_few_lists_taught_says_nothing_of_others() -> None:
    assert choose(*lists_of(4, signal="affinity")) == FeatureChoice("retrieval", None)
    assert choose(*lists_of(99, signal="affinity")) == FeatureChoice("all", None)


def test_the_choice_is_put_in_the_settings() -> None:
    dense, engaged = lists_of(5, signal="affinity")
    lists = CandidateLists(np.zeros(5, np.int32), np.zeros(engaged.shape, np.int32), dense, engaged)
    settings = RankerSettings(dim=3)
    chosen, _ = with_chosen_features(lists, settings, asked=lists, least_gain_se=2.0, seed=1)
    assert chosen == replace(settings, features="retrieval")


def test_ndcg_of_lists_by_hand() -> None:
    scores = np.array([[3, 2, 1, 9], [1, 2, 3, 4]], np.float32)
    engaged = np.array([[0, 1, 1, -1], [1, 0, 0, 0]], np.float32)
    first = (1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3))
    assert list_ndcg(scores, engaged) == pytest.approx([first, 1 / np.log2(5)])
