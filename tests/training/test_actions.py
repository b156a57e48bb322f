"""Action heads from a log to a release: learned after the cut, asked with all that is known."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from candidfeed.data.load import load_dataset
from candidfeed.data.splits import inner_split, make_split
from candidfeed.data.synthetic.files import write_world
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError, DataError
from candidfeed.feed.pipeline import Ask, recommend
from candidfeed.ranking.inputs import DENSE_FEATURES, ranker_inputs
from candidfeed.release.bundle import encode, read_release
from candidfeed.release.export import export_pair
from candidfeed.release.storage import write_directory
from candidfeed.training import impressions
from candidfeed.training.actions import TrainedActions, said_of_later, train_actions
from candidfeed.training.impressions import asked_from_s, pasts_before, shown_of
from candidfeed.training.predictions import candidate_heads
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage, TwoStageSettings, fit_two_stage, refit_on_all
from candidfeed.training.value import value_weights

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small world whose hides count against an item."""
    folder = tmp_path_factory.mktemp("world") / "w"
    write_world(WorldSettings(n_users=120, n_items=60, n_events=12_000, seed=1), folder)
    dataset = load_dataset(str(folder), cache=folder, now=NOW)
    weights = {"click": 1.0, "like": 2.0, "hide": -5.0}
    labels = tuple(replace(one, weight=weights[one.name]) for one in dataset.labels)
    return replace(dataset, labels=labels)


@pytest.fixture(scope="module")
def pair(world: Dataset, brief: TwoStageSettings) -> TwoStage:
    settings = replace(brief, value_weights=None)
    return fit_two_stage(world, make_split(world, seed=7), settings=settings, seed=7)


def test_a_users_past_is_what_they_did_before_the_list_was_shown(world: Dataset) -> None:
    log = make_split(world, seed=7).train
    user = np.array([3, 3, 5], np.int32)
    own = np.sort(log.time_s[log.user == 3])
    since = np.array([own[1], own[-1] + 1.0, log.time_s.min()])
    found = pasts_before(log, user, since)
    assert np.bincount(found.user, minlength=3).tolist() == [1, len(own), 0]
    assert (found.time_s < since[found.user]).all()
    assert sorted(found.item[found.user == 1]) == sorted(log.item[log.user == 3])


def test_what_is_learned_from_lies_between_what_stage_one_read_and_what_is_asked(
    world: Dataset,
) -> None:
    split = make_split(world, seed=7)
    inner = inner_split(split, seed=7)
    shown = shown_of(world, inner, until_s=asked_from_s(split))
    assert shown is not None
    assert shown.older.time_s.max() < asked_from_s(inner) <= shown.later.time_s.min()
    assert inner.train.time_s.max() < shown.later.time_s.min()
    assert shown.later.time_s.max() < asked_from_s(split) - world.attribution_s


def test_a_protocol_that_does_not_part_the_log_at_one_time_gives_no_heads(world: Dataset) -> None:
    split = make_split(world, "random", seed=7)
    assert shown_of(world, split) is None
    assert asked_from_s(split) == np.inf


def test_a_weight_for_a_head_that_can_not_be_learned_stops_before_the_fit(
    world: Dataset, brief: TwoStageSettings
) -> None:
    settings = replace(brief, value_weights=None)
    with pytest.raises(DataError, match="'click' has a weight"):
        fit_two_stage(world, make_split(world, "random", seed=7), settings=settings, seed=7)


def test_the_declared_weights_order_the_list_and_given_ones_replace_them(world: Dataset) -> None:
    declared = {"engaged": 0.0, "liked": 0.0, "click": 1.0, "like": 2.0, "hide": -5.0}
    assert value_weights(None, world) == declared
    assert value_weights({"engaged": 1.0}, world) == dict.fromkeys(declared, 0.0) | {"engaged": 1.0}
    plain = replace(world, labels=())
    assert value_weights(None, plain) == {"engaged": 1.0, "liked": 0.0}
    with pytest.raises(ConfigError, match=r"'clik'.*did you mean 'click'"):
        value_weights({"clik": 1.0}, world)


def test_heads_are_calibrated_on_users_that_they_did_not_learn_from(pair: TwoStage) -> None:
    assert {"click", "like", "hide"} < set(pair.calibration)
    assert pair.calibration["click"].n_rows > 100
    assert pair.actions is not None
    assert set(pair.actions.held) == {"click", "like", "hide"}


def test_the_ranker_says_what_the_trained_heads_say(world: Dataset, pair: TwoStage) -> None:
    assert pair.ranker.actions is not None
    model, heads = pair.ranker.model, pair.ranker.actions.heads
    users = np.unique(pair.split.test.user)[:4].astype(np.int32)
    items = np.tile(np.arange(20, dtype=np.int32), (4, 1))
    dense = np.random.default_rng(0).normal(size=(4, 20, len(DENSE_FEATURES))).astype(np.float32)
    inputs = ranker_inputs(pair.ranker.space, pair.states.take(users), items, dense)
    np.testing.assert_allclose(
        model(inputs)["actions"], heads.expected(heads(inputs)), rtol=1e-4, atol=1e-5
    )


def test_a_click_is_more_likely_where_one_came(world: Dataset, pair: TwoStage) -> None:
    assert pair.ranker.actions is not None
    found = said_of_later(
        world, pair.split, pair.features, pair.tower, pair.sources.neighbour, pair.ranker.actions,
        seed=7,
    )["click"]  # fmt: skip
    assert found.p[found.happened].mean() > found.p[~found.happened].mean() + 0.03


def test_the_list_is_in_the_order_of_the_weighted_sum_though_it_may_be_negative(
    pair: TwoStage,
) -> None:
    users = np.unique(pair.split.test.user)[:5].astype(np.int32)
    scores = TwoStageScorer(pair).scores(users)
    assert pair.settings.quotas is not None
    found = pair.sources.propose(users, pair.settings.quotas)
    for row, items in zip(scores, found.items, strict=True):
        items = items[items < len(row)]
        others = np.setdiff1d(np.arange(len(row)), items)
        assert row[items].min() > row[others].max()


def test_a_release_says_what_the_keras_model_says_and_shows_each_head(
    world: Dataset, pair: TwoStage, tmp_path: Path
) -> None:
    whole = refit_on_all(world, pair, seed=7)
    served = export_pair(world, whole)
    write_directory(tmp_path / "release", encode(served), {})
    again = read_release(tmp_path / "release")
    user_id = world.users["user_id"][3]
    person = again.person(user_id)
    slate = recommend(again, person, Ask(k=5, now_s=person.last_time_s))
    assert [slot.item_id for slot in slate.slots] == [
        slot.item_id
        for slot in recommend(
            served, served.person(user_id), Ask(k=5, now_s=person.last_time_s)
        ).slots
    ]
    first = slate.slots[0]
    weights = again.settings.value_weights
    summed = sum(weights[name] * one for name, one in first.actions.items())
    assert first.value == pytest.approx(summed, rel=1e-5)
    # The same candidates by Keras.
    rows = again.items["item_id"].to_list()
    items = np.array([[rows.index(slot.item_id) for slot in slate.slots]], np.int32)
    user = np.array([person.row], np.int32)
    dense = impressions.dense_features(
        whole.ranker.space, whole.states.take(user), items,
        **_scores(whole, user, items),
    )  # fmt: skip
    logs = candidate_heads(whole.ranker, whole.states, user, items, dense)["actions"][0]
    for place, name in enumerate(["click", "like", "hide"]):
        expected = again.calibration[name](np.exp(logs[:, place].astype(np.float64)))
        np.testing.assert_allclose(
            [slot.actions[name] for slot in slate.slots], expected, atol=1e-5
        )


def _scores(pair: TwoStage, user: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
    tower, neighbour = pair.sources.scores(user)
    return {
        "tower": np.take_along_axis(tower, items, axis=1),
        "neighbour": np.take_along_axis(neighbour, items, axis=1),
    }


def test_a_count_is_released_as_it_is_and_may_have_a_weight(
    world: Dataset, brief: TwoStageSettings
) -> None:
    counted = tuple(replace(one, counted=True) for one in world.labels if one.name == "click")
    dataset = replace(world, labels=counted)
    settings = replace(brief, value_weights=None)
    pair = fit_two_stage(dataset, make_split(dataset, seed=7), settings=settings, seed=7)
    assert pair.calibration["click"].method == "as is"
    served = export_pair(dataset, pair)
    person = served.person(world.users["user_id"][3])
    slate = recommend(served, person, Ask(k=3, now_s=person.last_time_s))
    for slot in slate.slots:
        assert slot.value == pytest.approx(slot.actions["click"], rel=1e-5)


def test_heads_that_the_order_does_not_depend_on_are_asked_of_the_slots_alone(
    world: Dataset, pair: TwoStage, tmp_path: Path
) -> None:
    by_engaged = replace(pair.settings, value_weights={"engaged": 1.0})
    by_click = replace(pair.settings, value_weights={"engaged": 1.0, "click": 1e-9})
    apart = export_pair(world, replace(pair, settings=by_engaged))
    joint = export_pair(world, replace(pair, settings=by_click))
    assert (apart.settings.action_width, joint.settings.action_width) == (64, 0)
    write_directory(tmp_path / "release", encode(apart), {})
    again = read_release(tmp_path / "release")
    for row in (3, 4):
        person = again.person(world.users["user_id"][row])
        ask = Ask(k=200, now_s=person.last_time_s)
        slots = recommend(again, person, ask).slots
        expected = {slot.item_id: slot for slot in recommend(joint, person, ask).slots}
        assert {slot.item_id for slot in slots} == expected.keys() != set()
        for slot in slots:
            other = expected[slot.item_id]
            assert slot.p_engaged == pytest.approx(other.p_engaged, abs=1e-6)
            assert slot.actions == pytest.approx(other.actions, abs=1e-6)


def test_a_person_of_whom_nothing_is_known_gets_the_items_own_rates(
    world: Dataset, pair: TwoStage
) -> None:
    served = export_pair(world, pair)
    slate = recommend(served, served.person("nobody"), Ask(k=3, now_s=float("nan")))
    for slot in slate.slots:
        assert 0.0 < slot.actions["click"] < 1.0


def test_a_log_too_short_to_learn_from_has_no_heads(world: Dataset, pair: TwoStage) -> None:
    late = pl.col("timestamp").dt.epoch("us") / 1e6 >= asked_from_s(pair.split)
    is_shown = pl.col("kind") == world.shown_kind
    few = world.events.filter(~(late & is_shown) | (is_shown & late & (pl.col("user_id") == 3)))
    assert trained_on(replace(world, events=few), pair) is None


def test_places_that_are_not_known_are_no_reason_to_stop(world: Dataset, pair: TwoStage) -> None:
    unknown = world.events.with_columns(pl.lit(None, pl.UInt16).alias("position"))
    found = trained_on(replace(world, events=unknown), pair)
    assert found is not None
    assert np.isfinite(found.held["click"].p).all()


def trained_on(dataset: Dataset, pair: TwoStage) -> TrainedActions | None:
    return train_actions(
        dataset, pair.split, pair.features, pair.tower, pair.sources.neighbour, seed=7
    )
