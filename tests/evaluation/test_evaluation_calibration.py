"""Calibration errors worked out by hand, segments with and without a claim, and the plots."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset, Feature
from candidfeed.evaluation.calibration import (
    ACTIVITY,
    MIN_ROWS,
    HeadCalibration,
    describe_calibration,
    mean_calibration,
    measure_calibration,
    user_segments,
)
from candidfeed.evaluation.plots import reliability_svg, write_reliability_plots
from candidfeed.ranking.calibration import PLATT, Calibrator
from candidfeed.training.held_out import HeldOut

AS_IS = Calibrator.as_is("by hand", 7)


def rows_of(p: Any, happened: Any, user: Any = None) -> HeldOut:
    users = np.zeros(len(p), np.int32) if user is None else np.asarray(user, np.int32)
    return HeldOut(users, np.asarray(p, float), np.asarray(happened, bool))


def measured(asked: HeldOut, calibrator: Calibrator = AS_IS, **segments: Any) -> HeadCalibration:
    n_users = int(asked.user.max()) + 1
    named = {name: np.asarray(values) for name, values in segments.items()}
    found = measure_calibration(asked, calibrator, named, np.full(n_users, 5))
    assert found is not None
    return found


def honest(n: int, *, seed: int = 0, n_users: int = 30) -> HeldOut:
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return rows_of(p, rng.random(n) < p, np.arange(n) % n_users)


# The figures


def test_each_figure_is_the_one_worked_out_by_hand() -> None:
    # 30 rows said .2 and 30 said .6; of the first 12 happened, of the second 15.
    p = np.repeat([0.2, 0.6], 30)
    happened = np.concatenate([np.arange(30) < 12, np.arange(30) < 15])
    found = measured(rows_of(p, happened)).everybody
    assert found.n_rows == 60
    assert found.ece == found.raw_ece == pytest.approx((0.2 + 0.1) / 2)
    brier = (12 * 0.8**2 + 18 * 0.2**2 + 15 * 0.4**2 + 15 * 0.6**2) / 60
    assert found.brier == pytest.approx(brier)
    log = 12 * np.log(0.2) + 18 * np.log(0.8) + 15 * np.log(0.6) + 15 * np.log(0.4)
    assert found.logloss == pytest.approx(-log / 60)


def test_the_error_by_chance_is_what_honest_probabilities_show_on_average() -> None:
    several = [measured(honest(3000, seed=seed)).everybody for seed in range(40)]
    by_chance = np.mean([one.ece_by_chance for one in several])
    assert np.mean([one.ece for one in several]) == pytest.approx(by_chance, rel=0.05)


def test_calibrated_and_raw_figures_stand_side_by_side() -> None:
    asked = honest(3000)
    down = Calibrator(PLATT, "half the odds", 9, np.zeros(1), np.array([-0.7]), 1.0)
    found = measured(asked, down)
    assert found.everybody.ece > 0.1
    assert found.everybody.raw_ece == pytest.approx(measured(asked).everybody.ece)
    assert found.methods == ("platt: half the odds",)
    assert found.n_fitted == 9


@pytest.mark.parametrize("p", [[], [0.5, np.nan]])
def test_where_nothing_can_be_measured_there_is_nothing(p: list[float]) -> None:
    asked = rows_of(p, [True] * len(p))
    assert measure_calibration(asked, AS_IS, {}, np.zeros(1)) is None


def test_of_one_class_the_errors_are_still_numbers() -> None:
    found = measured(rows_of(np.full(600, 0.25), np.ones(600)))
    assert found.everybody.ece == pytest.approx(0.75)
    json.dumps(found.to_json(), allow_nan=False)


# Segments


def test_the_worst_segment_is_named_and_small_ones_make_no_claim() -> None:
    n = MIN_ROWS
    # User 2 has ten rows only, all of which are wrong.
    user = np.repeat([0, 1, 2], [n, n, 10])
    p = np.repeat([0.5, 0.5, 0.9], [n, n, 10])
    happened = np.concatenate([np.arange(n) % 2 == 0, np.arange(n) % 5 == 0, np.zeros(10)])
    found = measured(rows_of(p, happened, user), gender=["a", "b", "c"])
    genders = found.segments["gender"]
    assert genders["c"] is None
    assert genders["a"] is not None
    assert genders["a"].ece == pytest.approx(0, abs=1e-12)
    worst = found.worst
    assert worst is not None
    assert (worst[1], worst[2].ece) == ("b", pytest.approx(0.3))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["worst_segment"] == "gender b"
    assert content["segments"]["gender"]["c"] is None
    assert "worst segment gender b: ECE 0.3000" in describe_calibration("liked", found)


def test_where_no_segment_is_large_no_claim_is_made_of_any() -> None:
    said = describe_calibration("liked", measured(honest(300)))
    assert said.endswith("no segment has 500 rows: no claim is made of any.")


def test_rows_are_cut_in_thirds_by_how_much_is_known_of_their_users() -> None:
    measured = measure_calibration(honest(3000, n_users=30), AS_IS, {}, np.arange(30))
    assert measured is not None
    found = measured.segments[ACTIVITY]
    assert {name: one and one.n_rows for name, one in found.items()} == {
        "light": 1000, "medium": 1000, "heavy": 1000,
    }  # fmt: skip


def test_segments_are_the_sensitive_columns_of_the_users(tiny: Dataset) -> None:
    split = make_split(tiny, seed=7)
    found = user_segments(tiny, split)
    assert found.keys() == {"gender"}
    of_user = dict(zip(split.users.ids.to_list(), found["gender"].tolist(), strict=True))
    assert of_user == dict(zip(tiny.users["user_id"], tiny.users["gender"], strict=True))


def test_numbers_are_cut_in_thirds_of_the_users_and_ids_are_no_segments(tiny: Dataset) -> None:
    n = len(tiny.users)
    columns = {
        "age": pl.Series([None, *range(20, 19 + n)], dtype=pl.Float32),
        "zip": pl.Series([f"zip {u}" for u in range(n)]),
        "open": pl.Series(["x"] * n),
    }
    features = (
        Feature("age", "bucket", sensitive=True),
        Feature("zip", "category", sensitive=True),
        Feature("open", "category"),
    )
    users = tiny.users.with_columns(**columns)
    other = replace(tiny, users=users, user_features=features)
    found = user_segments(other, make_split(tiny, seed=7))
    assert found.keys() == {"age"}
    names, counts = np.unique(found["age"], return_counts=True)
    assert names.tolist() == ["20 to 39", "40 to 58", "59 to 78", "unknown"]
    assert counts.tolist() == [20, 19, 20, 1]


# Seeds


def test_seeds_are_averaged_where_each_has_the_segment() -> None:
    large, small = measured(honest(1600, n_users=3)), measured(honest(300, seed=1, n_users=3))
    found = mean_calibration([large, small])
    assert found.everybody.n_rows == 950
    assert found.everybody.ece == pytest.approx((large.everybody.ece + small.everybody.ece) / 2)
    assert set(found.segments[ACTIVITY].values()) == {None}
    assert found.methods == ("as is: by hand", "as is: by hand")


# Plots


def test_a_plot_is_an_svg_with_a_dot_for_each_bin_on_the_line_where_all_is_true(
    tmp_path: Path,
) -> None:
    found = measured(honest(3000))
    exact = replace(found, bins=np.tile(np.linspace(0.1, 0.9, 15), (2, 1)))
    [path] = write_reliability_plots(tmp_path / "plots", {"liked": exact})
    assert path.name == "reliability-liked.svg"
    root = ElementTree.parse(path).getroot()
    dots = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(dots) == 15
    for dot in dots:
        across, up = float(dot.attrib["cx"]) - 64, 448 - float(dot.attrib["cy"])
        assert across == pytest.approx(up, abs=0.2)


def test_rare_events_fill_the_plot_and_empty_bins_have_no_dot() -> None:
    found = measured(honest(3000))
    bins = np.full((2, 15), np.nan)
    bins[:, :3] = [[0.01, 0.02, 0.04], [0.01, 0.03, 0.05]]
    svg = reliability_svg("engaged", replace(found, bins=bins))
    assert svg.count("<circle") == 3
    assert 'cx="64.0"' not in svg
    assert 'cy="48.0"' in svg  # .05 is the top of the axis
