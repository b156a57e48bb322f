"""Reasons are faithful: what is cited is what the score rests on."""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from candidfeed.feed.explain import history_reasons, popular_reasons, strongest
from candidfeed.feed.item_table import ItemTable
from candidfeed.feed.served import Neighbours, Past, Person, Served
from candidfeed.ranking.rating_scale import RatingScale

# Row: touched, column: candidate. Touching 0 speaks for 2, touching 1 more so; 3 hangs on nothing.
WEIGHTS = np.zeros((40, 40), np.float32)
WEIGHTS[0, 2], WEIGHTS[1, 2], WEIGHTS[1, 3] = 0.2, 0.5, -0.1


@pytest.fixture(params=["dense", "sparse"])
def handmade(request: pytest.FixtureRequest, tiny_served: Served) -> Served:
    weights = WEIGHTS if request.param == "dense" else sp.csr_matrix(WEIGHTS)
    return replace(tiny_served, neighbours=Neighbours(weights))


@pytest.fixture
def person(tiny_served: Served) -> Person:
    past = Past(np.array([1, 0], np.int32), np.array([4.5, 2], "f4"), np.array([1.0, 2.0]))
    return replace(tiny_served.person("nobody"), past=past)


def title(served: Served, row: int) -> str:
    return served.items["title"][row]


def test_the_item_that_adds_most_is_cited_with_its_rating(handmade: Served, person: Person) -> None:
    reasons = history_reasons(handmade, person, np.array([2, 3], np.int32))
    assert reasons == [
        f"because you rated {title(handmade, 1)} 4.5",
        "fits your 2 ratings as a whole",
    ]


def test_removing_the_cited_item_lowers_the_score_most_and_removing_another_does_not(
    tiny_served: Served,
) -> None:
    rows = np.arange(tiny_served.n_items, dtype=np.int32)
    for user_id in tiny_served.users.ids[:20]:
        person = tiny_served.person(user_id)
        scores = partial(tiny_served.neighbours.scores, own_row=person.row)
        score = scores(person.past.items)
        cited, adds = strongest(tiny_served, person, rows)
        after = {
            place: scores(person.past.without(item).items)
            for place, item in enumerate(person.past.items)
        }
        falls = np.stack([score - after[place] for place in range(len(person.past))])
        assert (falls.max(axis=0) <= falls[cited, rows] + 1e-6).all()
        np.testing.assert_allclose(falls[cited, rows], adds, atol=1e-6)
        named = history_reasons(tiny_served, person, rows)
        because = np.array([reason.startswith("because") for reason in named])
        assert because.any()
        assert (falls[cited, rows][because] > 0).all()


def test_of_items_that_add_the_same_the_later_one_is_cited(
    tiny_served: Served, person: Person
) -> None:
    weights = np.zeros((40, 40), np.float32)
    weights[[0, 1], 2] = 0.3
    served = replace(tiny_served, neighbours=Neighbours(weights))
    assert history_reasons(served, person, np.array([2], np.int32)) == [
        f"because you rated {title(served, 0)} 2"
    ]


def test_without_ratings_nobody_is_said_to_have_rated(handmade: Served, person: Person) -> None:
    scale = RatingScale.of(np.empty(0, np.float32), None)
    served = replace(handmade, space=replace(handmade.space, scale=scale))
    one = replace(person, past=Past(*(part[:1] for part in vars(person.past).values())))
    assert history_reasons(served, one, np.array([2, 5], np.int32)) == [
        f"because of {title(served, 1)} in your history",
        "fits your 1 choice as a whole",
    ]
    counts = served.n_people
    assert popular_reasons(served, np.array([0], np.int32)) == [
        f"popular: {counts[0]} people chose it"
    ]


def test_an_event_without_a_rating_is_cited_without_one(handmade: Served, person: Person) -> None:
    unrated = replace(person.past, values=np.array([np.nan, 2], np.float32))
    reasons = history_reasons(handmade, replace(person, past=unrated), np.array([2], np.int32))
    assert reasons == [f"because of {title(handmade, 1)} in your history"]


def test_one_person_is_no_people_and_thousands_are_grouped(tiny_served: Served) -> None:
    served = replace(tiny_served)
    vars(served)["n_people"] = np.array([1, 1234] + [0] * 38)
    assert popular_reasons(served, np.array([0, 1], np.int32)) == [
        "popular: 1 person rated it",
        "popular: 1,234 people rated it",
    ]


def test_a_very_long_title_is_cut_in_a_reason(tiny_served: Served, person: Person) -> None:
    items = ItemTable(tiny_served.items.frame.with_columns(title=pl.lit("x" * 10_000)))
    served = replace(tiny_served, items=items, neighbours=Neighbours(WEIGHTS))
    [reason] = history_reasons(served, person, np.array([2], np.int32))
    assert reason == f"because you rated {'x' * 79}… 4.5"
