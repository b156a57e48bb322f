"""Caps hold, strength 0 is the plain order, chances are as stated, nothing is lost or repeated."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.feed.selection import (
    DIVERSITY,
    EXPLORE,
    Cap,
    Draw,
    Selected,
    by_value,
    select,
    select_by,
)

NAN = float("nan")
numbers = st.floats(-2, 2, width=16) | st.sampled_from([NAN, float("inf"), -float("inf")])


@st.composite
def requests(draw: Any, *, strength: float | None = None) -> dict[str, Any]:
    """Arguments of `select_by`: up to 14 candidates with two capped columns."""
    n = draw(st.integers(0, 14))
    codes = st.lists(st.integers(-1, 3), min_size=2, max_size=2, unique=True)
    tags = np.array(draw(st.lists(codes, min_size=n, max_size=n)), np.int32).reshape(n, 2)
    caps = [Cap("tags", tags, draw(st.integers(1, 3))), Cap("first", tags[:, :1], 2)]
    positions = draw(st.lists(st.integers(1, 9), unique=True, max_size=3))
    seed = draw(st.integers(0, 99))
    chosen = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0])) if strength is None else strength
    return {
        "values": np.array(draw(st.lists(numbers, min_size=n, max_size=n)), np.float32),
        "rows": np.array(draw(st.permutations(range(100, 100 + n))), np.int32),
        "k": draw(st.integers(1, 10)),
        "strength": chosen,
        "vectors": np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32),
        "caps": caps[: draw(st.integers(0, 2))],
        "draw": (tuple(sorted(positions)), draw(st.integers(1, 6)), seed),
    }


def selected(request: dict[str, Any]) -> Selected:
    positions, pool, seed = request["draw"]
    drawn = Draw(positions, pool, np.random.default_rng(seed))
    return select_by(**{**request, "draw": drawn})


# For every input


@given(requests())
def test_nothing_is_lost_or_shown_twice_and_what_is_not_finite_comes_last(
    request: dict[str, Any],
) -> None:
    found = selected(request)
    n = len(request["rows"])
    assert sorted([*found.picked, *found.reserve]) == list(range(n))
    assert len(found.picked) == min(request["k"], n)
    is_finite = np.isfinite(request["values"][found.picked])
    assert (np.diff(is_finite[~found.is_drawn].astype(int)) <= 0).all()
    if not is_finite.all():
        # They are shown only where nothing else is left.
        assert not np.isfinite(request["values"][found.reserve]).any()
    assert np.isfinite(request["values"][found.picked[found.is_drawn]]).all()


@given(requests())
def test_caps_hold_but_for_what_fills_up(request: dict[str, Any]) -> None:
    found = selected(request)
    kept = found.picked[: len(found.picked) - found.n_filled]
    for cap in request["caps"]:
        codes = cap.codes[kept]
        assert (np.bincount(codes[codes >= 0]) <= cap.at_most).all()


@given(requests(), st.randoms(use_true_random=False))
def test_the_order_in_which_candidates_come_changes_nothing(
    request: dict[str, Any], randoms: Any
) -> None:
    order = list(range(len(request["rows"])))
    randoms.shuffle(order)
    moved = request | {name: request[name][order] for name in ("values", "rows", "vectors")}
    moved["caps"] = [Cap(one.name, one.codes[order], one.at_most) for one in request["caps"]]
    first, second = selected(request), selected(moved)
    assert request["rows"][first.picked].tolist() == moved["rows"][second.picked].tolist()
    assert first.propensity.tolist() == second.propensity.tolist()
    assert first.passed_over == second.passed_over


@given(requests(strength=0.0))
def test_without_strength_caps_and_draws_it_is_the_plain_order(request: dict[str, Any]) -> None:
    plain = select(request["values"], request["rows"], request["k"])
    again = select_by(**request | {"caps": [], "draw": None})
    for name in ("picked", "reserve", "propensity", "by_value", "is_drawn"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(again, name))
    assert again.passed_over == {}


@given(requests())
def test_what_is_passed_over_is_what_value_alone_would_have_shown(
    request: dict[str, Any],
) -> None:
    found = selected(request)
    plain = select(request["values"], request["rows"], request["k"])
    n_passed = len(set(plain.picked.tolist()) - set(found.picked.tolist()))
    assert sum(found.passed_over.values()) == n_passed
    order = by_value(request["values"], request["rows"])
    assert order[found.by_value - 1].tolist() == found.picked.tolist()


@given(requests())
def test_slots_that_are_not_drawn_do_not_depend_on_the_draw(request: dict[str, Any]) -> None:
    positions, pool, seed = request["draw"]
    first = selected(request)
    second = selected(request | {"draw": (positions, pool, seed + 1)})
    np.testing.assert_array_equal(first.is_drawn, second.is_drawn)
    certain = ~first.is_drawn
    np.testing.assert_array_equal(first.picked[certain], second.picked[certain])


# Maximal marginal relevance


def slow_mmr(values: np.ndarray, vectors: np.ndarray, k: int, strength: float) -> list[int]:
    """The formula, candidate by candidate."""
    scaled = (values - values.min()) / (values.max() - values.min())
    by_value = np.argsort(-values).tolist()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    picked: list[int] = []
    while len(picked) < k:
        left = [place for place in by_value if place not in picked]
        likeness = {
            place: max([0.0, *(float(unit[place] @ unit[one]) for one in picked)]) for place in left
        }
        marginal = [(1 - strength) * scaled[one] - strength * likeness[one] for one in left]
        picked.append(left[int(np.argmax(marginal))])
    return picked


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("n_capped", [0, 1])
def test_a_slate_is_that_of_the_formula(strength: float, n_capped: int) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        values = rng.gamma(1.0, size=60)
        vectors = rng.normal(size=(60, 4)).astype(np.float32)
        # A cap that never bars: with one, all candidates are looked at.
        caps = [Cap("wide", np.zeros((60, 1), np.int32), 60)] * n_capped
        found = select_by(
            values, np.arange(60, dtype=np.int32), 10,
            strength=strength, vectors=vectors, caps=caps, draw=None,
        )  # fmt: skip
        assert found.picked.tolist() == slow_mmr(values, vectors, 10, strength)


def test_a_twin_of_what_is_shown_waits_behind_what_is_unlike() -> None:
    values = np.array([1.0, 0.9, 0.5, 0.0])
    vectors = np.array([[1, 0], [2, 0], [0, 1], [-1, 0]], np.float32)
    rows = np.arange(4, dtype=np.int32)
    found = select_by(values, rows, 2, strength=0.5, vectors=vectors, caps=[], draw=None)
    # .5 * .9 - .5 * 1 = -.05 against .5 * .5 - 0 = .25
    assert found.picked.tolist() == [0, 2]
    assert found.passed_over == {DIVERSITY: 1}
    # A hundredfold value is the same request.
    scaled = select_by(100 * values, rows, 2, strength=0.5, vectors=vectors, caps=[], draw=None)
    assert scaled.picked.tolist() == [0, 2]


# Caps


def test_what_is_capped_fills_the_slots_that_nothing_else_is_left_for() -> None:
    codes = np.array([[0], [0], [0], [1], [-1]], np.int32)
    values = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    cap = Cap("author", codes, 1)
    rows = np.arange(5, dtype=np.int32)
    found = select_by(values, rows, 3, strength=0.0, vectors=None, caps=[cap], draw=None)
    assert (found.picked.tolist(), found.n_filled) == ([0, 3, 4], 0)
    assert found.passed_over == {"author": 2}
    found = select_by(values, rows, 4, strength=0.0, vectors=None, caps=[cap], draw=None)
    assert (found.picked.tolist(), found.n_filled) == ([0, 3, 4, 1], 1)


# Draws


def chances(n_draws: int, **asked: Any) -> tuple[np.ndarray, Selected]:
    """How often each candidate stood in each slot, [k, c], and one of the answers."""
    counts = np.zeros((asked["k"], len(asked["rows"])))
    for seed in range(n_draws):
        drawn = Draw(asked["positions"], asked["pool"], np.random.default_rng(seed))
        named = {name: one for name, one in asked.items() if name not in ("positions", "pool")}
        found = select_by(**named, draw=drawn)
        counts[np.arange(len(found.picked)), found.picked] += 1
    return counts / n_draws, found


@pytest.mark.parametrize("at_most", [9, 1])
def test_propensities_are_the_chances_of_the_draw(at_most: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (12, 1)).astype(np.int32)
    n_draws = 4_000
    asked = {
        "values": np.arange(12.0)[::-1], "rows": np.arange(12, dtype=np.int32), "k": 5,
        "strength": 0.3, "vectors": rng.normal(size=(12, 3)).astype(np.float32),
        "caps": [Cap("author", codes, at_most)], "positions": (2, 4), "pool": 5,
    }  # fmt: skip
    often, found = chances(n_draws, **asked)
    assert found.is_drawn.tolist() == [False, True, False, True, False]
    drawn = often[found.is_drawn]
    said = 1.0 / found.n_pool
    assert found.propensity.tolist() == [1.0, said, 1.0, said, 1.0]
    # Each of the pool in each drawn slot: within 4.5 standard errors, ten comparisons.
    error = np.sqrt(said * (1 - said) / n_draws)
    assert np.count_nonzero(drawn[0]) == np.count_nonzero(drawn[1]) == found.n_pool
    assert abs(drawn[drawn > 0] - said).max() <= 4.5 * error
    # The others are certain.
    assert np.count_nonzero(often[~found.is_drawn] == 1.0) == 3


def test_a_pool_as_large_as_its_slots_is_shown_whole() -> None:
    rows = np.arange(3, dtype=np.int32)
    asked = {"values": np.array([3.0, 2.0, 1.0]), "rows": rows, "k": 9, "strength": 0.0}
    often, found = chances(
        500, **asked, vectors=None, caps=[], positions=(1, 3, 8), pool=10
    )  # fmt: skip
    assert found.propensity.tolist() == [0.5, 1.0, 0.5]
    assert often[1].tolist() == [1.0, 0.0, 0.0]
    assert abs(often[[0, 2]][:, 1:] - 0.5).max() <= 4.5 * np.sqrt(0.25 / 500)


def test_an_item_whose_place_is_given_to_a_draw_is_told() -> None:
    rows = np.arange(200, dtype=np.int32)
    drawn = Draw((1,), 100, np.random.default_rng(3))
    found = select_by(-rows.astype(float), rows, 2, strength=0.0, vectors=None, caps=[], draw=drawn)
    assert found.picked[1] == 0
    assert found.by_value[0] == found.picked[0] + 1 > 2
    assert found.passed_over == {EXPLORE: 1}
