"""The slate: what training promises is what is served, nothing seen comes back, bits are stable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.data.features import Bag
from candidfeed.feed.eligibility import DELETED, DENIED, SEEN, among, eligible, masked
from candidfeed.feed.pipeline import (
    LATEST,
    POPULAR,
    TOWER,
    TRENDING,
    Ask,
    in_retrieval_order,
    recommend,
    retrieve,
)
from candidfeed.feed.scoring import known_of, ranked_heads, user_vector
from candidfeed.feed.selection import select
from candidfeed.feed.served import Past, Person, Served
from candidfeed.feed.slate import Candidates, Proposed, Slate
from candidfeed.release.bundle import read_release
from candidfeed.training.scorers import TwoStageScorer
from candidfeed.training.two_stage import TwoStage


def people(served: Served) -> list[Person]:
    """Everybody with a past."""
    everybody = [served.person(user_id) for user_id in served.users.ids]
    return [person for person in everybody if len(person.past)]


def row_of(served: Served, item_id: object) -> int:
    return served.items["item_id"].to_list().index(item_id)


def removed_rows(slate: Slate) -> set[int]:
    return {int(row) for one in slate.retrieved.removed for row in one.rows}


# What is served is what was trained


def test_the_served_order_and_values_are_those_of_training(
    tiny_served: Served, tiny_whole: TwoStage
) -> None:
    scorer = TwoStageScorer(tiny_whole)
    for person in people(tiny_served):
        trained = scorer.scores(np.array([person.row], np.int32))[0]
        slate = recommend(tiny_served, person, Ask(k=20, now_s=person.last_time_s))
        rows = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
        values = np.array([slot.value for slot in slate.slots])
        np.testing.assert_allclose(values, trained[rows], atol=1e-5)
        # The best of all items by training, up to ties.
        best = np.sort(np.delete(trained, person.past.items))[::-1][: len(rows)]
        np.testing.assert_allclose(values, best, atol=1e-5)


def test_one_release_person_and_now_give_one_slate(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    first, second = (
        recommend(tiny_served, person, Ask(k=10, now_s=person.last_time_s)) for _ in range(2)
    )
    assert first.slots == second.slots


def test_another_now_gives_other_values(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    then = recommend(tiny_served, person, Ask(k=20, now_s=person.last_time_s - 90 * 86_400))
    last = recommend(tiny_served, person, Ask(k=20, now_s=person.last_time_s))
    unknown = recommend(tiny_served, person, Ask(k=20, now_s=float("nan")))
    values = [[slot.value for slot in slate.slots] for slate in (then, last, unknown)]
    assert values[0] != values[1] != values[2]
    assert np.isfinite(values).all()


def test_one_more_event_moves_the_next_slate_without_training(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    slate = recommend(tiny_served, person, Ask(k=20, now_s=person.last_time_s))
    touched = row_of(tiny_served, slate.slots[0].item_id)
    past = person.past
    longer = Past(
        np.append(past.items, np.int32(touched)),
        np.append(past.values, np.float32(5)),
        np.append(past.times_s, past.times_s[-1] + 60),
    )
    after = recommend(
        tiny_served, replace(person, past=longer), Ask(k=20, now_s=person.last_time_s)
    )
    assert slate.slots[0].item_id not in [slot.item_id for slot in after.slots]
    before = {slot.item_id: slot.value for slot in slate.slots}
    moved = [before[s.item_id] != s.value for s in after.slots if s.item_id in before]
    assert any(moved)


# Each candidate stands for itself


@pytest.mark.parametrize("quickly", [False, True])
def test_a_score_is_the_same_to_the_last_bit_alone_among_others_and_in_any_order(
    tiny_release: Path, quickly: bool
) -> None:
    tiny_served = read_release(tiny_release)
    tiny_served.compile(quickly=quickly)
    rng = np.random.default_rng(1)
    for person in people(tiny_served)[:4]:
        found = retrieve(tiny_served, person, Ask(k=10, now_s=1.7e9)).candidates

        def heads(places: np.ndarray, person: Person = person, found: Candidates = found) -> Any:
            some = found.take(places)
            known = known_of(
                tiny_served, person, some.rows,
                tower=some.tower, neighbour=some.neighbour, now_s=1.7e9,
            )  # fmt: skip
            scored = ranked_heads(tiny_served, known)
            return np.stack([scored.p_engaged, scored.p_like, scored.rating])

        every = heads(np.arange(len(found.rows)))
        for _ in range(5):
            order = rng.permutation(len(found.rows))
            assert (heads(order) == every[:, order]).all()
        for place in (0, 7, len(found.rows) - 1):
            assert (heads(np.array([place]))[:, 0] == every[:, place]).all()


# Nothing seen, nothing lost


def test_candidates_keep_the_scores_of_stage_one_whatever_source_brought_them(
    tiny_served: Served,
) -> None:
    for person in people(tiny_served):
        candidates = retrieve(tiny_served, person, Ask(k=20, now_s=0.0)).candidates
        assert len(set(candidates.sources)) > 1
        expected = tiny_served.scores_of(user_vector(tiny_served, person), candidates.rows)
        assert candidates.tower.tobytes() == expected.tobytes()
        assert (np.diff(expected) <= 0).all()


def test_no_slot_shows_what_the_person_has_touched(tiny_served: Served) -> None:
    for person in people(tiny_served):
        slate = recommend(tiny_served, person, Ask(k=40, now_s=person.last_time_s))
        rows = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
        assert len(set(rows)) == len(rows)
        assert not set(rows) & set(person.past.items.tolist())
        assert removed_rows(slate) <= set(person.past.items.tolist())
        # 20 candidates, or all that are left.
        assert slate.n_candidates == min(20, 40 - len(person.past)) == len(rows)


row_lists = st.lists(st.integers(0, 30), unique=True)


@given(rows=row_lists, seen=st.lists(st.integers(0, 30)), denied=row_lists, gone=row_lists)
def test_what_is_removed_and_what_is_kept_are_what_was_proposed(
    rows: list[int], seen: list[int], denied: list[int], gone: list[int]
) -> None:
    proposed = Proposed(TOWER, np.array(rows, np.int32))
    mask = np.zeros(31, bool)
    mask[gone] = True
    rules = (
        among(SEEN, np.array(seen, np.int32)),
        among(DENIED, np.array(denied, np.int32)),
        masked(DELETED, mask, int(mask.sum()), index_knows=True),
    )
    (kept, again), removed = eligible((proposed, replace(proposed, source=TRENDING)), rules)
    assert (kept.source, again.source) == (TOWER, TRENDING)
    assert again.rows.tolist() == kept.rows.tolist()
    assert kept.rows.tolist() == [row for row in rows if row not in {*seen, *denied, *gone}]
    # The first rule that bars an item is the reason that is told.
    assert {one.reason: one.rows.tolist() for one in removed} == {
        SEEN: sorted({*rows} & {*seen}),
        DENIED: sorted({*rows} & {*denied} - {*seen}),
        DELETED: sorted({*rows} & {*gone} - {*seen} - {*denied}),
    }


def test_deleted_items_leave_the_list_for_everybody_as_long_as_it_was(tiny_served: Served) -> None:
    gone = np.zeros(tiny_served.n_items, bool)
    gone[tiny_served.by_popularity[:10]] = True
    ask = Ask(k=20, now_s=1.7e9, rules=(masked(DELETED, gone, 10),))
    slate = recommend(tiny_served, tiny_served.anonymous, ask)
    shown = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
    assert shown == tiny_served.by_popularity[10:30].tolist()


def test_an_item_that_is_denied_gives_its_place_and_moves_no_other(tiny_served: Served) -> None:
    for person in people(tiny_served):
        before = recommend(tiny_served, person, Ask(k=20, now_s=1.7e9))
        denied = [slot.item_id for slot in before.slots[:3]]
        rows = np.array([row_of(tiny_served, item_id) for item_id in denied], np.int32)
        after = recommend(tiny_served, person, Ask(k=20, now_s=1.7e9, rules=(among(DENIED, rows),)))
        assert not {*denied} & {slot.item_id for slot in after.slots}
        values = {slot.item_id: slot.value for slot in before.slots}
        again = [slot for slot in after.slots if slot.item_id in values]
        assert [values[slot.item_id] for slot in again] == [slot.value for slot in again]
        assert after.n_removed(DENIED) == 3


def test_of_an_allowed_list_the_best_are_shown_however_deep_they_stand(
    tiny_served: Served,
) -> None:
    for person in people(tiny_served):
        open_rows = np.setdiff1d(np.arange(tiny_served.n_items), person.past.items)
        every = in_retrieval_order(
            tiny_served, person, retrieve(tiny_served, person, Ask(40, 1.7e9)), Ask(40, 1.7e9)
        )
        allowed = open_rows[::3].astype(np.int32)
        slate = recommend(tiny_served, person, Ask(k=40, now_s=1.7e9, allowed=allowed))
        rows = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
        assert sorted(rows) == allowed.tolist()[:40]
        assert every.n_candidates <= 20


def test_nothing_is_shown_of_an_empty_allowed_list(tiny_served: Served) -> None:
    nobody, somebody = tiny_served.anonymous, people(tiny_served)[0]
    for person in (nobody, somebody):
        ask = Ask(k=10, now_s=1.7e9, allowed=np.empty(0, np.int32))
        assert recommend(tiny_served, person, ask).slots == ()


def test_someone_who_has_touched_everything_gets_an_empty_slate(tiny_served: Served) -> None:
    n = tiny_served.n_items
    past = Past(np.arange(n, dtype=np.int32), np.full(n, 3, np.float32), np.arange(n) + 1.7e9)
    person = replace(people(tiny_served)[0], past=past)
    slate = recommend(tiny_served, person, Ask(k=10, now_s=person.last_time_s))
    assert (slate.slots, slate.n_candidates) == ((), 0)
    assert slate.n_removed(SEEN) == n


# Order


@given(
    values=st.lists(
        st.floats(-2, 2, width=16) | st.sampled_from([float("nan"), float("inf"), -float("inf")])
    ),
    k=st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_finite_values_come_first_equal_ones_by_lower_row_and_nothing_is_lost(
    values: list[float], k: int, order: Any
) -> None:
    rows = list(range(100, 100 + len(values)))
    order.shuffle(rows)
    selected = select(np.array(values, np.float32), np.array(rows, np.int32), k)
    ranked = np.concatenate([selected.picked, selected.reserve]).tolist()
    finite = [place for place, one in enumerate(values) if np.isfinite(one)]
    rest = [place for place in range(len(values)) if place not in finite]
    by_hand = sorted(finite, key=lambda place: (-values[place], rows[place]))
    by_hand += sorted(rest, key=lambda place: rows[place])
    assert ranked == by_hand
    assert len(selected.picked) == min(k, len(values))


def test_scores_that_are_not_finite_come_last_and_are_counted(tiny_served: Served) -> None:
    class Broken:
        reads = tiny_served.ranker.reads

        def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
            outputs = {name: array.copy() for name, array in tiny_served.ranker(inputs).items()}
            outputs["engaged"][0, [0, 2]] = np.nan
            outputs["rating"][0, 1] = np.inf
            return outputs

    person = people(tiny_served)[0]
    ranked = retrieve(tiny_served, person, Ask(k=20, now_s=1.7e9)).candidates
    changed: dict[str, Any] = {"ranker": Broken()}
    served = replace(tiny_served, **changed)
    slate = recommend(served, person, Ask(k=20, now_s=person.last_time_s))
    assert slate.n_non_finite == 3
    last = [row_of(tiny_served, slot.item_id) for slot in slate.slots[-3:]]
    assert last == sorted(ranked.rows[:3].tolist())


def test_features_that_are_not_known_are_counted_and_named(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    slate = recommend(tiny_served, person, Ask(k=20, now_s=person.last_time_s))
    n_all = slate.n_unknown.get("item.tags", 0)
    shown = [row_of(tiny_served, slot.item_id) for slot in slate.slots[:3]]
    bag = tiny_served.space.item_bag
    ids, weights = bag.ids.copy(), bag.weights.copy()
    tags = next(one for one in tiny_served.item_map.columns if one.name == "tags")
    has_tag = (ids[shown] >= tags.offset) & (ids[shown] < tags.offset + tags.size)
    weights[shown] = np.where(has_tag, 0.0, weights[shown])
    ids[shown] = np.where(has_tag, 0, ids[shown])
    ids[shown, has_tag.argmax(axis=1)] = tags.offset
    weights[shown, has_tag.argmax(axis=1)] = 1.0
    served = replace(tiny_served, space=replace(tiny_served.space, item_bag=Bag(ids, weights)))
    job = tiny_served.user_map.columns[0]
    nobody = Bag(np.array([[job.offset]], np.int32), np.ones((1, 1), np.float32))
    again = recommend(served, replace(person, bag=nobody), Ask(k=20, now_s=person.last_time_s))
    assert again.n_unknown["user.job"] == 1
    assert again.n_unknown["item.tags"] == n_all + 3
    assert len(again.slots) == len(slate.slots)
    assert again.n_non_finite == 0


# People of whom nothing is known


@pytest.mark.parametrize("user_id", ["nobody", "user 59, 🙂"])
def test_someone_without_a_past_gets_what_most_people_touched(
    tiny_served: Served, user_id: str
) -> None:
    person = tiny_served.person(user_id)
    slate = recommend(tiny_served, person, Ask(k=40, now_s=float("nan")))
    counts = tiny_served.n_people
    rows = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
    assert rows == sorted(np.flatnonzero(counts), key=lambda row: (-counts[row], row))[:20]
    assert {slot.source for slot in slate.slots} == {POPULAR}
    assert slate.slots[0].reason == f"popular: {counts[rows[0]]} people rated it"
    # 58 people have a past.
    assert [slot.value for slot in slate.slots] == pytest.approx(counts[rows] / 58)
    assert all(0 <= slot.p_like <= 1 and 1 <= slot.rating <= 5 for slot in slate.slots)
    assert removed_rows(slate) == set()


def test_the_latest_list_is_by_the_day_an_item_came(tiny_served: Served) -> None:
    # After all of them.
    ask = Ask(k=10, now_s=1.8e9, everybodys=LATEST)
    nobody = tiny_served.anonymous
    slate = in_retrieval_order(tiny_served, nobody, retrieve(tiny_served, nobody, ask), ask)
    born = [tiny_served.born_s[row_of(tiny_served, slot.item_id)] for slot in slate.slots]
    assert born == sorted(tiny_served.born_s[~np.isnan(tiny_served.born_s)])[::-1][:10]
    assert {slot.source for slot in slate.slots} == {LATEST}
    day = np.datetime64(int(born[0]), "s").astype("datetime64[D]")
    assert slate.slots[0].reason == f"new: since {day}"


def test_without_the_ranker_the_order_is_that_of_stage_one(tiny_served: Served) -> None:
    for person in people(tiny_served):
        ask = Ask(k=10, now_s=1.7e9)
        retrieved = retrieve(tiny_served, person, ask)
        slate = in_retrieval_order(tiny_served, person, retrieved, ask)
        rows = [row_of(tiny_served, slot.item_id) for slot in slate.slots]
        assert rows == retrieved.candidates.rows[:10].tolist()
        assert [slot.value for slot in slate.slots] == retrieved.candidates.tower[:10].tolist()
        assert {slot.p_engaged for slot in slate.slots} == {None}
        # What it says of a slot is what the ranked list says of the same item.
        ranked = recommend(tiny_served, person, replace(ask, k=20))
        reasons = {slot.item_id: slot.reason for slot in ranked.slots}
        assert all(reasons[slot.item_id] == slot.reason for slot in slate.slots)
