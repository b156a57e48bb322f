"""What a policy does to the slates of a release: caps, draws by the request, one click braked."""

from dataclasses import replace

import numpy as np
import pytest

from candidfeed.feed.choose import BRAKE, rests_on_last, rng_of
from candidfeed.feed.eligibility import MUTED, muted
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.pipeline import (
    LATEST,
    Ask,
    in_retrieval_order,
    recommend,
    retrieve,
)
from candidfeed.feed.policy import Brake, Explore, Policy
from candidfeed.feed.selection import EXPLORE
from candidfeed.feed.served import Past, Person, Served
from candidfeed.feed.slate import Slate

UNBRAKED = Policy(brake=Brake(share=1.0))


def people(served: Served) -> list[Person]:
    everybody = [served.person(user_id) for user_id in served.users.ids]
    return [person for person in everybody if len(person.past)]


def rows_of(served: Served, slate: Slate) -> list[int]:
    return served.item_ids.rows([slot.item_id for slot in slate.slots]).tolist()


def tags_of(served: Served, slate: Slate) -> list[str]:
    return [tag for row in rows_of(served, slate) for tag in served.items["tags"][row]]


# Caps


def test_no_more_slots_of_a_tag_than_its_cap(tiny_served: Served) -> None:
    for person in people(tiny_served):
        ask = Ask(k=8, now_s=1.7e9, policy=replace(UNBRAKED, caps={"tags": 4}))
        slate = recommend(tiny_served, person, ask)
        tags = tags_of(tiny_served, slate)
        assert {tags.count("even"), tags.count("odd")} == {4}
        assert slate.selected.n_filled == 0
        plain = recommend(tiny_served, person, replace(ask, policy=UNBRAKED))
        n_moved = len(set(rows_of(tiny_served, plain)) - set(rows_of(tiny_served, slate)))
        assert slate.selected.passed_over == ({"tags": n_moved} if n_moved else {})


def test_the_latest_list_keeps_its_order_and_the_caps(tiny_served: Served) -> None:
    policy = Policy(diversity=0.9, caps={"tags": 2}, explore=Explore((1,)))
    ask = Ask(k=4, now_s=1.7e9, everybodys=LATEST, policy=policy)
    nobody = tiny_served.anonymous
    slate = in_retrieval_order(tiny_served, nobody, retrieve(tiny_served, nobody, ask), ask)
    values = [slot.value for slot in slate.slots]
    assert values == sorted(values, reverse=True)
    assert tags_of(tiny_served, slate).count("odd") == 2
    assert not slate.selected.is_drawn.any()


# Diversity


def test_diversity_brings_items_together_that_are_less_alike(tiny_served: Served) -> None:
    vectors = tiny_served.item_vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def mean_likeness(strength: float) -> float:
        found = []
        for person in people(tiny_served):
            ask = Ask(k=5, now_s=1.7e9, policy=replace(UNBRAKED, diversity=strength))
            rows = rows_of(tiny_served, recommend(tiny_served, person, ask))
            found.append((unit[rows] @ unit[rows].T)[np.triu_indices(len(rows), 1)].mean())
        return float(np.mean(found))

    assert mean_likeness(0.0) > mean_likeness(0.5) > mean_likeness(0.9)


# Draws


def test_a_drawn_slot_says_so_and_is_the_same_for_the_same_request(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    policy = replace(UNBRAKED, explore=Explore(positions=(3, 6), pool=10))
    ask = Ask(k=8, now_s=1.7e9, policy=policy, request_id="r1")
    slate = recommend(tiny_served, person, ask)
    assert recommend(tiny_served, person, ask).slots == slate.slots
    assert [slot.source == EXPLORE for slot in slate.slots] == [
        position in (3, 6) for position in range(1, 9)
    ]
    for slot in slate.slots:
        assert slot.propensity == (0.1 if slot.source == EXPLORE else 1.0)
    assert slate.slots[2].reason == "to learn from: drawn among the 10 that came next"
    slates = [
        recommend(tiny_served, person, replace(ask, request_id=f"r{n}")).slots for n in range(9)
    ]
    assert len({slots[2].item_id for slots in slates}) > 1
    assert len({slots[3].item_id for slots in slates}) == 1
    # Six are certain; ten of the 14 others may be drawn.
    plain = recommend(tiny_served, person, replace(ask, k=20, policy=UNBRAKED))
    ranked = [slot.item_id for slot in plain.slots]
    assert all(ranked.index(slots[2].item_id) in range(6, 16) for slots in slates)


def test_draws_follow_from_the_request_alone() -> None:
    assert rng_of("a").integers(1 << 40) == rng_of("a").integers(1 << 40)
    assert rng_of("a").integers(1 << 40) != rng_of("b").integers(1 << 40)


# The brake


def after_a_click(served: Served, person: Person, row: int) -> Person:
    now = person.last_time_s + 60
    click = Past(np.array([row], np.int32), np.array([5], np.float32), np.array([now]))
    return replace(person, past=person.past.then(click))


def clicks(served: Served) -> list[tuple[Person, int]]:
    """People with their three latest events, and an item each that they click next."""
    rng = np.random.default_rng(2)
    found = []
    for person in people(served):
        past = person.past
        short = Past(past.items[-3:], past.values[-3:], past.times_s[-3:])
        unseen = np.setdiff1d(np.arange(served.n_items), short.items)
        found += [
            (replace(person, past=short), int(row)) for row in rng.choice(unseen, 3, replace=False)
        ]
    return found


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_no_more_slots_rest_on_the_last_click_than_their_share(
    tiny_served: Served, share: float
) -> None:
    ask = Ask(k=10, now_s=1.75e9, policy=Policy(brake=Brake(share=share)))
    most, most_unbraked = 0, 0
    for person, row in clicks(tiny_served):
        clicked = after_a_click(tiny_served, person, row)
        slate = recommend(tiny_served, clicked, ask)
        shown = slate.retrieved.candidates.rows
        rests = rests_on_last(tiny_served, clicked, shown, 10)
        picked = slate.selected.picked[: len(slate.slots) - slate.selected.n_filled]
        most = max(most, np.count_nonzero(rests[picked]))
        plain = recommend(tiny_served, clicked, replace(ask, policy=UNBRAKED))
        most_unbraked = max(most_unbraked, np.count_nonzero(rests[plain.selected.picked]))
        assert set(slate.selected.passed_over) <= {BRAKE}
    assert most == 10 * share
    assert most_unbraked > most


def test_one_click_turns_over_fewer_slots_with_the_brake(tiny_served: Served) -> None:
    def most_new(policy: Policy) -> int:
        ask = Ask(k=10, now_s=1.75e9, policy=policy)
        found = []
        for person, row in clicks(tiny_served):
            before = recommend(tiny_served, person, replace(ask, policy=UNBRAKED))
            after = recommend(tiny_served, after_a_click(tiny_served, person, row), ask)
            found.append(len(set(rows_of(tiny_served, after)) - set(rows_of(tiny_served, before))))
        return max(found)

    assert most_new(Policy(brake=Brake(share=0.2))) < most_new(UNBRAKED)


def test_a_long_past_and_a_first_event_are_not_braked(tiny_served: Served) -> None:
    person = people(tiny_served)[0]
    brake = Policy(brake=Brake(share=0.1, longest_past=len(person.past) - 1))
    first = person.past.items[:1], person.past.values[:1], person.past.times_s[:1]
    for one in (person, replace(person, past=Past(*first))):
        ask = Ask(k=10, now_s=1.75e9, policy=brake)
        plain = recommend(tiny_served, one, replace(ask, policy=UNBRAKED))
        assert recommend(tiny_served, one, ask).slots == plain.slots


# What is muted


def test_what_is_muted_is_removed_and_the_places_are_filled(tiny_served: Served) -> None:
    tags = tiny_served.cards.codes("tags")
    rule = muted([(tags, tags.of_values(["odd"]))])
    # Every second of 40 items.
    assert rule.at_most == 20
    for person in people(tiny_served)[:9]:
        slate = recommend(tiny_served, person, Ask(k=9, now_s=1.7e9, rules=(rule,)))
        assert "odd" not in tags_of(tiny_served, slate)
        n_left = sum(
            "odd" not in tiny_served.items["tags"][row]
            for row in np.setdiff1d(np.arange(40), person.past.items).tolist()
        )
        assert len(slate.slots) == min(9, n_left)
        assert slate.n_removed(MUTED) > 0


def test_candidates_are_as_many_however_much_is_muted(tiny_served: Served) -> None:
    """At first only a few more are asked for than may be shown; then all."""
    few = replace(tiny_served, settings=replace(tiny_served.settings, n_candidates=3))
    person = people(few)[0]
    vector_order = retrieve(
        tiny_served, person, Ask(k=3, now_s=1.7e9)
    ).candidates.rows  # fmt: skip
    tags = np.full(40, "muted")
    last = vector_order[-1]
    tags[last] = "open"
    served = replace(few, items=ItemTable(few.items.frame.with_columns(tags=tags)))
    column = served.cards.codes("tags")
    rule = muted([(column, column.of_values(["muted"]))])
    found = retrieve(served, person, Ask(k=3, now_s=1.7e9, rules=(rule,)))
    assert found.candidates.rows.tolist() == [last]
