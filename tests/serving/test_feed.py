"""Feeds over HTTP: what the pipeline gives, moved by every acknowledged event."""

import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from tests.conftest import TINY_ITEMS, item_id, user_id
from tests.serving.conftest import Running, Start, event

from candidfeed.data.features import Bag
from candidfeed.data.vocabulary import UNKNOWN
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.newcomers import Newcomer
from candidfeed.feed.pipeline import LATEST, Ask, in_retrieval_order, recommend, retrieve
from candidfeed.feed.scoring import user_vector
from candidfeed.feed.served import Past, Person, Served
from candidfeed.release.bundle import read_release
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.wire import FeedRequest

NOW_S = 1_760_000_000.0


def asked_at(time_s: float = NOW_S) -> dict[str, Any]:
    return {"context": {"time_s": time_s}}


def test_the_feed_is_what_the_pipeline_gives(shared: Running, tiny_served: Served) -> None:
    for u in (3, 4, 5):
        person = tiny_served.person(user_id(u))
        slate = recommend(tiny_served, person, Ask(k=7, now_s=NOW_S))
        answer = shared.feed(user_id(u), limit=7, **asked_at())
        assert answer["mode"] == "personal"
        assert answer["degraded"] == []
        assert answer["release_id"] == tiny_served.release_id
        assert [
            (slot["position"], slot["item_id"], slot["title"], slot["source"], slot["reason"])
            for slot in answer["slots"]
        ] == [(s.position, s.item_id, s.title, s.source, s.reason) for s in slate.slots]
        scores = [slot["score"] for slot in answer["slots"]]
        # The service compiles for speed, `recommend` without it for the first call: a bit apart.
        assert scores == pytest.approx([slot.value for slot in slate.slots], abs=1e-6)


def test_an_acknowledged_event_changes_the_next_feed(shared: Running) -> None:
    before = shared.feed(user_id(10), limit=20, **asked_at())
    liked = before["slots"][0]["item_id"]
    assert shared.send(event("c1", user_id(10), liked))["accepted"] == 1
    after = shared.feed(user_id(10), limit=20, **asked_at())
    assert liked not in [slot["item_id"] for slot in after["slots"]]
    scores = {slot["item_id"]: slot["score"] for slot in before["slots"]}
    both = [slot for slot in after["slots"] if slot["item_id"] in scores]
    assert any(scores[slot["item_id"]] != slot["score"] for slot in both)


def test_a_new_user_is_served_by_their_first_event(shared: Running, tiny_served: Served) -> None:
    assert shared.feed("somebody new")["mode"] == "popular"
    shared.send(event("n1", "somebody new", item_id(4)))
    answer = shared.feed("somebody new", limit=10, **asked_at())
    assert answer["mode"] == "personal"
    past = Past(
        np.array([tiny_served.item_ids.rows([item_id(4)])[0]], np.int32),
        np.array([5.0], np.float32),
        np.array([1_760_000_000.0]),
    )
    person = replace(tiny_served.person("somebody new"), past=past)
    slate = recommend(tiny_served, person, Ask(k=10, now_s=NOW_S))
    assert [slot["item_id"] for slot in answer["slots"]] == [slot.item_id for slot in slate.slots]


def test_an_event_of_a_kind_that_is_no_past_only_hides_the_item(shared: Running) -> None:
    before = shared.feed(user_id(12), limit=20, **asked_at())
    hidden = before["slots"][2]["item_id"]
    shared.send(event("h1", user_id(12), hidden, kind="hide", value=None))
    after = shared.feed(user_id(12), limit=20, **asked_at())
    left = [slot for slot in before["slots"] if slot["item_id"] != hidden]
    scores = {slot["item_id"]: slot["score"] for slot in after["slots"]}
    assert hidden not in scores
    assert [scores[slot["item_id"]] for slot in left] == [slot["score"] for slot in left]


def test_what_everybody_gets_is_the_same_whatever_users_did(shared: Running) -> None:
    for mode in ("popular", "latest"):
        answers = [shared.feed(who, mode=mode, limit=15) for who in (None, user_id(3), user_id(4))]
        assert {one["mode"] for one in answers} == {mode}
        assert answers[0]["slots"] == answers[1]["slots"] == answers[2]["slots"]
        assert len(answers[0]["slots"]) == 15


def test_allow_and_deny_lists_hold(shared: Running) -> None:
    every = shared.item_ids(user_id(6), limit=20)
    without = shared.item_ids(user_id(6), limit=20, deny=every[:5])
    assert not {*every[:5]} & {*without}
    assert shared.item_ids(user_id(6), allow=[every[3], every[1], "no such item"]) in (
        [every[1], every[3]],
        [every[3], every[1]],
    )
    assert shared.item_ids(user_id(6), allow=[]) == []


@pytest.mark.parametrize("mode", ["personal", "popular", "latest"])
def test_an_allow_list_is_not_cut_by_what_everybody_gets(start: Start, mode: str) -> None:
    one = start()
    put = {"fields": {"title": "New", "tags": ["odd"]}}
    assert one.client.put("/v1/items/new", json=put).status_code == 200
    # The last two were touched by nobody.
    allowed = [item_id(TINY_ITEMS - 1), item_id(0), "new", item_id(30)]
    shown = one.item_ids("a stranger", mode=mode, allow=allowed)
    live = one.service.releases.live
    assert live is not None
    if mode == "latest":
        # What nobody touched has no date here.
        assert (shown[0], sorted(shown)) == ("new", sorted(allowed[1:]))
        return
    assert sorted(shown) == sorted(allowed)
    n_people = live.served.n_people_of(live.rows_of(shown)).tolist()
    assert n_people == sorted(n_people, reverse=True)
    assert n_people[1] > n_people[2] == 0
    slots = one.feed("a stranger", mode=mode, allow=["new"])["slots"]
    assert slots[0]["reason"] == "popular: 0 people rated it"


def test_an_allow_list_is_asked_for_what_came_last_of_it(tiny_served: Served) -> None:
    served, born_s = replace(tiny_served), np.arange(float(TINY_ITEMS))
    born_s[7] = np.nan
    served.remember({"born_s": born_s})
    allowed = np.array([2, 7, 5, 5, 30, 1], np.int32)
    now_s = float(TINY_ITEMS)
    assert served.latest(3, now_s, allowed).tolist() == [30, 5, 2]
    assert served.latest(9, now_s, allowed).tolist() == [30, 5, 2, 1]
    assert served.latest(2, now_s).tolist() == [TINY_ITEMS - 1, TINY_ITEMS - 2]


def test_what_is_still_to_come_stands_behind_what_came(tiny_served: Served) -> None:
    served, born_s = replace(tiny_served), np.arange(float(TINY_ITEMS)) - 3e9
    born_s[[4, 8, 6]] = [4e9, 2e9, 3e9]
    served.remember({"born_s": born_s})
    came = [row for row in range(TINY_ITEMS)[::-1] if row not in (4, 6, 8)]
    for now_s, expected in ((0.0, [*came, 8, 6, 4]), (np.nan, [4, 6, 8, *came])):
        assert served.latest(TINY_ITEMS, now_s).tolist() == expected
        assert served.latest(TINY_ITEMS, now_s, np.arange(TINY_ITEMS)).tolist() == expected
        assert served.latest(3, now_s).tolist() == expected[:3]
    assert served.latest(TINY_ITEMS, 2.5e9).tolist() == [8, *came, 6, 4]
    some = np.array([4, 5, 6, 8], np.int32)
    ask = Ask(k=4, now_s=2.5e9, allowed=some, everybodys=LATEST)
    retrieved = retrieve(served, served.anonymous, ask)
    slots = in_retrieval_order(served, served.anonymous, retrieved, ask).slots
    assert [slot.item_id for slot in slots] == served.ids_of(some[[3, 1, 2, 0]])
    assert [slot.reason.split()[0] for slot in slots] == ["new:", "new:", "to", "to"]


def test_what_is_to_come_at_the_time_that_is_asked_for_stands_last(start: Start) -> None:
    one = start()
    assert one.client.put("/v1/items/new", json={"fields": {"title": "New"}}).status_code == 200
    asked = {"mode": "latest", "allow": [item_id(3), "new", item_id(5)]}
    now = one.feed("a stranger", **asked)["slots"]
    assert (now[0]["item_id"], now[0]["reason"][:11]) == ("new", "new: since ")
    before = one.feed("a stranger", **asked, **asked_at())["slots"]
    assert (before[-1]["item_id"], before[-1]["reason"][:11]) == ("new", "to come on ")
    assert [slot["item_id"] for slot in before[:2]] == [slot["item_id"] for slot in now[1:]]
    assert one.feed("a stranger", mode="latest", **asked_at())["slots"][0]["item_id"] != "new"


def test_debug_tells_how_many_came_and_went(shared: Running) -> None:
    answer = shared.feed(user_id(7), limit=5, debug=True, deny=[item_id(1), item_id(2)])
    funnel = answer["debug"]
    proposed, removed = sum(funnel["proposed"].values()), sum(funnel["removed"].values())
    # Sources overlap, and each has a quota: of what is left, no more than that is ranked.
    assert funnel["ranked"] <= proposed - removed
    assert set(funnel["removed"]) == {"seen", "deleted", "denied"}
    for slot, heads in zip(answer["slots"], funnel["heads"], strict=True):
        summed = sum(weight * heads[name] for name, weight in funnel["weights"].items())
        assert slot["score"] == pytest.approx(summed, abs=1e-6)


def test_debug_tells_how_much_is_known_of_the_user(start: Start) -> None:
    one = start()
    before = one.feed(user_id(7), debug=True)["debug"]
    assert before["events"] == {}
    touched = one.item_ids(user_id(7), limit=3)
    one.send(*(event(f"c{n}", user_id(7), item) for n, item in enumerate(touched)))
    one.send(event("v", user_id(7), touched[0], kind="view"))
    after = one.feed(user_id(7), debug=True)["debug"]
    assert after["events"] == {"rating": 3, "view": 1}
    assert after["past"] == before["past"] + 3
    assert one.feed(user_id(7), mode="popular", debug=True)["debug"]["events"] == {}


def test_the_short_form_is_the_same_feed(shared: Running) -> None:
    answer = shared.client.get(f"/v1/feed/{user_id(8)}", params={"limit": 4}).json()
    assert answer["slots"] == shared.feed(user_id(8), limit=4)["slots"]


def test_why_tells_what_was_answered_then(shared: Running) -> None:
    answer = shared.feed(user_id(9), limit=3)
    shared.send(event("w1", user_id(9), answer["slots"][0]["item_id"]))
    for slot in answer["slots"]:
        why = shared.client.get(f"/v1/why/{answer['request_id']}/{slot['position']}").json()
        for name in ("position", "item_id", "score", "source", "reason"):
            assert why[name] == slot[name]
        summed = sum(weight * why["heads"][name] for name, weight in why["weights"].items())
        assert why["score"] == pytest.approx(summed, abs=1e-6)
    for path in ("no-such-request/1", f"{answer['request_id']}/4", f"{answer['request_id']}/0"):
        assert shared.client.get(f"/v1/why/{path}").status_code == 404


def test_similar_items_are_by_the_angle_of_their_vectors(
    shared: Running, tiny_served: Served
) -> None:
    answer = shared.client.get(f"/v1/items/{item_id(5)}/similar", params={"limit": 5}).json()
    vectors = tiny_served.item_vectors
    row = int(tiny_served.item_ids.rows([item_id(5)])[0])
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[row] / (norms * norms[row])
    cosines[row] = -np.inf
    expected = tiny_served.items["item_id"].gather(np.argsort(-cosines)[:5]).to_list()
    assert [one["item_id"] for one in answer["items"]] == expected
    assert [one["score"] for one in answer["items"]] == pytest.approx(
        np.sort(cosines)[::-1][:5], abs=1e-5
    )
    assert shared.client.get("/v1/items/no such/similar").status_code == 404


# Items and users that change


def test_a_deleted_item_is_never_shown_again(start: Start) -> None:
    one = start()
    for mode in ("personal", "popular", "latest"):
        first = one.item_ids(user_id(3), mode=mode, limit=20)[0]
        path = f"/v1/items/{first}"
        assert one.client.delete(path).json() == {"done": True}
        assert first not in one.item_ids(user_id(3), mode=mode, limit=20)
        assert one.client.get(f"{path}/similar").status_code == 404
        back = one.client.put(path, json={"fields": {"title": "Back"}})
        assert (back.status_code, back.json()["error"]["code"]) == (409, "deleted")
        assert first not in one.item_ids(user_id(3), mode=mode, limit=20)


def test_a_new_item_is_served_by_its_content_at_once(start: Start) -> None:
    one = start()
    new = "brand new, 🎬"
    put = {"fields": {"title": "The Arrival", "tags": ["odd"], "owner": "x"}}
    assert one.item_ids(user_id(3), allow=[new]) == []
    assert one.client.put(f"/v1/items/{new}", json=put).json() == {"done": True}
    latest = one.feed(user_id(3), mode="latest")["slots"][0]
    assert (latest["item_id"], latest["title"]) == (new, "The Arrival")
    assert latest["reason"].startswith("new: since 20")
    one.client.put("/v1/items/other", json={"fields": {"title": "B", "tags": ["even", "old"]}})

    answer = one.feed(user_id(3), allow=[new, "other"])
    assert {slot["source"] for slot in answer["slots"]} <= {"tower", "new"}
    funnel = one.feed(user_id(3), debug=True)["debug"]
    assert funnel["proposed"]["new"] == 2
    # Users of odd number like odd items, and stage one expects that of new ones too.
    live = one.service.releases.live
    assert live is not None
    rows = live.rows_of([new, "other"])

    def prefers_new(u: int) -> float:
        scores = live.served.scores_of(
            user_vector(live.served, live.served.person(user_id(u))), rows
        )
        return float(scores[0] - scores[1])

    odd, even = ([prefers_new(u) for u in range(first, 40, 2)] for first in (1, 2))
    assert np.mean(odd) > np.mean(even)
    near = one.client.get(f"/v1/items/{new}/similar", params={"limit": 5}).json()["items"]
    assert {int(item["item_id"].split(",")[0].split()[1]) % 2 for item in near[:3]} == {1}
    # What is known of it is replaced, it is seen once it was touched, and gone once deleted.
    one.client.put(f"/v1/items/{new}", json={"fields": {"title": "Renamed", "tags": ["odd"]}})
    assert one.feed(user_id(5), allow=[new])["slots"][0]["title"] == "Renamed"
    assert one.send(event("t1", user_id(3), new))["accepted"] == 1
    assert one.item_ids(user_id(3), allow=[new]) == []
    one.client.put("/v1/users/fan", json={"fields": {"muted": {"tags": ["odd"]}}})
    assert new not in one.item_ids("fan", mode="personal", allow=[new])
    one.client.delete(f"/v1/items/{new}")
    assert one.item_ids(user_id(5), allow=[new, "other"]) == ["other"]
    assert one.item_ids(user_id(5), mode="latest")[0] == "other"


def test_an_event_about_a_new_item_counts_at_once_where_stage_one_reads_vectors(
    start: Start, by_vectors: Path
) -> None:
    one = start(by_vectors)
    for name, tag in (("first", "odd"), ("second", "even")):
        put = {"fields": {"title": name, "tags": [tag]}}
        assert one.client.put(f"/v1/items/{name}", json=put).status_code == 200
        one.send(event(f"of {name}", f"fan of {name}", name))

    live, store = one.service.releases.live, one.service.store
    assert live is not None

    def prefers_odd(user: str) -> float:
        person = live.person(user, live.past_of(store.history(user)), {})
        odd, even = (live.rows_of([item_id(n) for n in range(m, TINY_ITEMS, 2)]) for m in (1, 0))
        vector = user_vector(live.served, person)
        of_odd, of_even = (live.served.scores_of(vector, rows).mean() for rows in (odd, even))
        return float(of_odd - of_even)

    answer = one.feed("fan of first", debug=True)
    assert (answer["mode"], answer["debug"]["past"]) == ("personal", 1)
    assert answer["slots"][0]["reason"] == "fits your 1 rating as a whole"
    assert prefers_odd("fan of first") > prefers_odd("fan of second")
    assert one.feed("fan of second")["slots"] != answer["slots"]
    # Beside what the release knows of them: of a new item stage two has learned nothing.
    known = user_id(3)
    before, one_more = one.feed(known, debug=True), event("more", known, "second")
    one.send(one_more)
    after = one.feed(known, debug=True)
    assert after["debug"]["past"] == before["debug"]["past"] + 1
    assert [slot["score"] for slot in after["slots"]] != [slot["score"] for slot in before["slots"]]


def test_a_new_item_in_a_past_speaks_as_an_item_of_the_release_with_its_vector(
    by_vectors: Path,
) -> None:
    served = read_release(by_vectors)
    bag, width = served.space.item_bag, served.settings.tower_width
    (new,) = served.newcomers.put(
        [
            Newcomer(
                item_id="new", born_s=1.7e9, fields={},
                bag=Bag(bag.ids[[7]], bag.weights[[7]]), vector=served.item_vectors[7],
            )
        ]
    )  # fmt: skip

    def somebody(*items: int) -> Person:
        n = len(items)
        past = Past(np.array(items, np.int32), np.full(n, 4.0, np.float32), np.arange(n) + 1.7e9)
        return replace(served.anonymous, past=past)

    for with_new, alike in (
        (somebody(3, new, 5), somebody(3, 7, 5)),
        (somebody(new), somebody(7)),
        (somebody(*[3] * width, new), somebody(*[3] * width, 7)),
    ):
        np.testing.assert_array_equal(user_vector(served, with_new), user_vector(served, alike))
    assert not np.array_equal(*(user_vector(served, somebody(3, one)) for one in (new, 5)))
    # Stage two, and what is told of it, know nothing of the new one.
    for with_new in (somebody(3, new, 5), somebody(new)):
        slate = recommend(served, with_new, Ask(k=5, now_s=1.8e9))
        assert len(slate.slots) == 5
        assert slate.n_non_finite == 0
        assert "New" not in "".join(slot.reason for slot in slate.slots)


def test_a_value_that_only_new_items_have_can_be_muted(start: Start) -> None:
    one = start()
    fields = {"title": "Of a new kind", "tags": ["unheard of"]}
    one.client.put("/v1/items/new", json={"fields": fields})
    assert one.item_ids(user_id(3), allow=["new"]) == ["new"]
    one.client.put(f"/v1/users/{user_id(3)}", json={"fields": {"muted": {"tags": ["unheard of"]}}})
    assert one.item_ids(user_id(3), allow=["new"]) == []


def test_what_is_put_of_a_new_item_takes_the_place_of_what_was(
    start: Start, tiny_release: Path
) -> None:
    one = start()

    def shown() -> list[str]:
        slots = one.feed(user_id(3), allow=["new"])["slots"]
        again = LiveRelease(read_release(tiny_release))
        again.follow(one.service.store.items_after(0, 100))
        rows = again.rows_of(["new"])
        rows = rows[rows != UNKNOWN]
        rows = rows[~again.rules(0.0)[0].bars(rows)]
        # As after a restart.
        assert again.served.titles_of(rows) == [slot["title"] for slot in slots]
        return [slot["title"] for slot in slots]

    for fields, titles in (
        ({"title": "First", "tags": ["odd"]}, ["First"]),
        ({"title": "Second"}, ["Second"]),
        ({"expires_s": 9e9}, []),
        ({}, []),
        ({"title": "Third", "expires_s": 9e9}, ["Third"]),
        ({"tags": ["odd"]}, ["new"]),
    ):
        answer = one.client.put("/v1/items/new", json={"fields": fields})
        assert answer.status_code == 200
        assert shown() == titles


def test_a_new_item_needs_content_and_its_features_must_make_sense(start: Start) -> None:
    one = start()
    one.client.put("/v1/items/bare", json={"fields": {"expires_s": 9e9}})
    assert one.item_ids(user_id(3), allow=["bare"]) == []
    wrong = one.client.put("/v1/items/wrong", json={"fields": {"tags": {"a": 1}}})
    assert wrong.status_code == 400
    assert "tags: expected" in wrong.json()["error"]["message"]


def test_new_items_are_there_after_a_restart_and_in_the_next_release(
    start: Start, tiny_release: Path
) -> None:
    one = start()
    for name in ("n1", "n2", "n1"):
        one.client.put(f"/v1/items/{name}", json={"fields": {"title": name, "tags": ["odd"]}})
    one.client.delete("/v1/items/n2")
    again = LiveRelease(read_release(tiny_release))
    again.follow(one.service.store.items_after(0, 100))
    assert again.rows_of(["n1", "n2"]).tolist() == [TINY_ITEMS, UNKNOWN]
    person = again.served.person(user_id(3))
    ask = Ask(k=5, now_s=NOW_S, allowed=again.rows_of(["n1"]), rules=again.rules(NOW_S))
    assert [slot.item_id for slot in recommend(again.served, person, ask).slots] == ["n1"]


def test_an_item_that_has_expired_is_not_shown(start: Start) -> None:
    one = start()
    first, second = one.item_ids(user_id(3), limit=20)[:2]
    one.client.put(f"/v1/items/{first}", json={"fields": {"expires_s": 1.0}})
    one.client.put(f"/v1/items/{second}", json={"fields": {"expires_s": 9e9}})
    answer = one.feed(user_id(3), limit=20, debug=True)
    shown = [slot["item_id"] for slot in answer["slots"]]
    assert first not in shown
    assert shown[0] == second
    assert answer["debug"]["removed"]["expired"] == 1


def test_what_has_expired_by_the_time_that_is_asked_for_is_not_shown(start: Start) -> None:
    one, now_s = start(), time.time()
    first = one.item_ids(user_id(3), limit=20)[0]
    one.client.put(f"/v1/items/{first}", json={"fields": {"expires_s": now_s + 3600}})
    for asked_s, is_shown in ((now_s + 7200, False), (now_s, True), (now_s - 9e6, True)):
        shown = one.item_ids(user_id(3), limit=20, context={"time_s": asked_s})
        assert (first in shown) == is_shown
    one.client.put(f"/v1/items/{first}", json={"fields": {"expires_s": now_s - 1}})
    shown = one.item_ids(user_id(3), limit=20, context={"time_s": now_s - 9e6})
    assert first not in shown


def test_what_has_expired_is_like_nothing(start: Start) -> None:
    one = start()

    def similar() -> list[str]:
        answer = one.client.get(f"/v1/items/{quote(item_id(3))}/similar", params={"limit": 5})
        return [slot["item_id"] for slot in answer.json()["items"]]

    before = similar()
    one.client.put(f"/v1/items/{quote(before[0])}", json={"fields": {"expires_s": 1.0}})
    assert similar()[:4] == before[1:]


def test_a_deleted_item_stays_away_after_a_restart(start: Start, tiny_served: Served) -> None:
    one = start()
    first = one.item_ids(user_id(3), limit=20)[0]
    one.client.delete(f"/v1/items/{first}")
    again = LiveRelease(tiny_served)
    again.follow(one.service.store.items_after(0, 100))
    row = int(again.rows_of([first])[0])
    assert np.flatnonzero(again.changes.is_gone).tolist() == [row]
    again.served.index.add(np.array([row]), again.served.item_vectors[[row]])


def test_a_users_blocked_items_are_not_shown(start: Start) -> None:
    one = start()
    before = one.item_ids(user_id(3), limit=20)
    blocked = {"fields": {"blocked_items": before[:2], "job": "nurse"}}
    assert one.client.put(f"/v1/users/{user_id(3)}", json=blocked).status_code == 200
    answer = one.feed(user_id(3), limit=20, debug=True)
    assert not {*before[:2]} & {slot["item_id"] for slot in answer["slots"]}
    assert answer["debug"]["removed"]["blocked"] == 2
    wrong = one.client.put(f"/v1/users/{user_id(3)}", json={"fields": {"blocked_items": "x"}})
    assert wrong.status_code == 400


@pytest.mark.parametrize("mode", ["popular", "latest"])
def test_what_a_user_wishes_not_to_see_is_not_in_what_everybody_gets(
    start: Start, mode: str
) -> None:
    one, user = start(), user_id(3)

    def is_even(shown_id: str) -> bool:
        return int(shown_id.split(",")[0].split()[1]) % 2 == 0

    everybodys = one.item_ids(mode=mode, limit=20)
    blocked, rest = everybodys[:2], everybodys[2:]
    fields = {"blocked_items": blocked, "muted": {"tags": ["odd"]}}
    one.client.put(f"/v1/users/{user}", json={"fields": fields})
    shown = one.item_ids(user, mode=mode, limit=20)
    left = [each for each in rest if is_even(each)]
    assert 0 < len(left) < len(rest)
    assert shown[: len(left)] == left
    assert all(is_even(each) for each in shown)
    assert not {*blocked} & {*shown}
    assert one.item_ids(mode=mode, limit=20) == everybodys
    # Of the erased nothing is left, their wishes neither.
    one.client.delete(f"/v1/users/{user}")
    assert one.item_ids(user, mode=mode, limit=20) == everybodys


def test_what_was_put_of_a_user_and_fits_no_release_is_left_out_and_told(start: Start) -> None:
    one = start()
    before = one.feed(user_id(3), **asked_at())
    path = f"/v1/users/{user_id(3)}"
    refused = one.client.put(path, json={"fields": {"job": {"no": "category"}}})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("job: expected a category, came {")
    # As if a release came that reads this column in another way.
    one.service.store.put_user(user_id(3), {"job": {"no": "category"}}, 1.0)
    after = one.feed(user_id(3), **asked_at())
    assert after["degraded"] == ["user_features"]
    assert after["slots"] == before["slots"]


def test_of_an_erased_user_nothing_is_read_any_more(start: Start) -> None:
    one = start()
    answer = one.feed(user_id(3))
    one.send(event("e1", user_id(3), item_id(0)))
    erased = one.client.delete(f"/v1/users/{user_id(3)}").json()
    assert (erased["n_events"], erased["is_scrubbed"]) == (1, True)
    after = one.feed(user_id(3))
    assert after["mode"] == "popular"
    assert after["slots"] == one.feed(mode="popular")["slots"]
    assert one.client.get(f"/v1/why/{answer['request_id']}/1").status_code == 404
    refused = one.send(event("e2", user_id(3), item_id(0)))
    assert refused["rejections"] == [
        {"index": 0, "event_id": "e2", "reason": "user_id: this user was erased"}
    ]


# Late, full, broken


class _Slow(ExportedFunction):
    """Waits until it is let go."""

    def __init__(self, real: ExportedFunction, gate: Any) -> None:
        super().__init__(real.stablehlo, real.weights)
        self._gate = gate

    def __call__(self, inputs: Any) -> Any:
        assert self._gate.wait(60)
        return super().__call__(inputs)


@pytest.mark.parametrize(
    ("function", "left_out"), [("ranker", "ranker_late"), ("tower", "retrieval_late")]
)
def test_what_is_late_is_left_out_and_told(
    start: Start, tiny_served: Served, function: str, left_out: str
) -> None:
    gate = threading.Event()
    one = start(deadline_ms=1_000.0)
    popular = one.item_ids(mode="popular", limit=20)
    blocked, seen = popular[:2]
    put = {"fields": {"blocked_items": [blocked]}}
    assert one.client.put(f"/v1/users/{quote(user_id(3))}", json=put).status_code == 200
    one.send(event("late 1", user_id(3), seen, kind="no past"))
    slow: dict[str, Any] = {function: _Slow(getattr(tiny_served, function), gate)}
    whole = one.service.releases.live
    assert whole is not None
    one.service.releases.live = LiveRelease(replace(whole.served, **slow))
    try:
        answer = one.feed(user_id(3), limit=20)
    finally:
        gate.set()
    assert answer["degraded"] == [left_out]
    assert len(answer["slots"]) == 20
    shown = {slot["item_id"] for slot in answer["slots"]}
    past = whole.served.person(user_id(3)).past.items
    assert shown.isdisjoint({blocked, seen, *whole.served.ids_of(past)})
    if left_out == "ranker_late":
        scores = [slot["score"] for slot in answer["slots"]]
        assert scores == sorted(scores, reverse=True)
        assert {slot["source"] for slot in answer["slots"]} != {"popular"}
    else:
        assert {slot["source"] for slot in answer["slots"]} == {"popular"}
    assert one.metric("candidfeed_fallbacks_total", name=left_out) == 1
    # The slate that was written down is the one that was answered.
    why = one.client.get(f"/v1/why/{answer['request_id']}/1").json()
    assert (why["item_id"], why["heads"]) == (answer["slots"][0]["item_id"], {})


def test_what_is_read_for_all_is_taken_from_the_time_that_each_has_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, now_s, left_s = start(deadline_ms=1_000.0), [100.0], list[float]()
    engine, live = one.service.engine, one.service.releases.live
    assert live is not None
    about, make = one.service.store.about, one.service.makers.make

    def slowly(asked: str) -> Any:
        now_s[0] += 0.25
        return about(asked)

    def watched(drafts: Any, here: Any) -> Any:
        left_s.extend(draft.left_s for draft in drafts)
        return make(drafts, here)

    monkeypatch.setattr(engine, "_clock", lambda: now_s[0])
    monkeypatch.setattr(one.service.store, "about", slowly)
    monkeypatch.setattr(one.service.makers, "make", watched)
    works = [engine.work(FeedRequest(user_id=str(number)), live, now_s=NOW_S) for number in (1, 2)]
    assert None not in engine.make(works)
    assert left_s == [0.5, 0.5]


def test_more_than_may_wait_are_refused_at_once(start: Start, tiny_served: Served) -> None:
    gate = threading.Event()
    one = start(n_workers=1, n_waiting=1)
    whole = one.service.releases.live
    assert whole is not None
    slow = replace(whole.served, tower=_Slow(tiny_served.tower, gate))
    one.service.releases.live = LiveRelease(slow)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(one.feed, user_id(3)) for _ in range(2)]
        while one.service.workers.n_in_flight < 2:
            threading.Event().wait(0.001)
        refused = one.client.post("/v1/feed", json={"user_id": user_id(3)})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "busy"
        # All else goes on.
        assert one.client.get("/livez").status_code == 200
        assert one.send(event("b1", user_id(3), item_id(0)))["accepted"] == 1
        gate.set()
        assert [len(each.result()["slots"]) for each in waiting] == [20, 20]
    assert one.metric("candidfeed_refused_total", reason="busy") == 1


@pytest.mark.parametrize("step", ["about", "log_slate"])
def test_of_feeds_made_side_by_side_only_the_broken_one_fails(
    start: Start, tiny_served: Served, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    gate = threading.Event()
    one = start(deadline_ms=60_000.0)
    alone = [one.feed(user_id(number))["slots"] for number in range(6)]
    whole = one.service.releases.live
    assert whole is not None
    slow = replace(whole.served, tower=_Slow(tiny_served.tower, gate))
    one.service.releases.live = LiveRelease(slow)
    real, together = getattr(one.service.store, step), []

    def broken(asked: Any) -> Any:
        if user_id(99) in (asked, getattr(asked, "user_id", None)):
            raise RuntimeError("should not be")
        return real(asked)

    make = one.service.workers._make

    def watched(works: Any) -> Any:
        together.append(len(works))
        return make(works)

    monkeypatch.setattr(one.service.store, step, broken)
    monkeypatch.setattr(one.service.workers, "_make", watched)
    monkeypatch.setattr(one.service.journal, "_stream", io.StringIO())
    asked = [user_id(number) for number in range(6)]
    # Others come before and after it.
    asked.insert(3, user_id(99))
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [
            pool.submit(one.client.post, "/v1/feed", json={"user_id": each}) for each in asked
        ]
        while one.service.workers.n_in_flight < len(asked):
            threading.Event().wait(0.001)
        gate.set()
        results = [each.result() for each in answers]
    bad, good = results[3], [*results[:3], *results[4:]]
    assert bad.status_code == 500
    assert [each.json()["slots"] for each in good] == alone
    # One began before the others came; those were made together, then each for itself.
    assert max(together) >= 3
    assert one.service.workers.n_in_flight == 0


def test_without_the_store_a_feed_is_made_of_what_the_client_tells(start: Start) -> None:
    one = start()
    told = [{"item_id": item_id(3), "kind": "rating", "value": 5, "time_s": NOW_S}]
    one.service.store.close()
    personal = one.feed(user_id(3), history=told, limit=10)
    assert (personal["mode"], personal["degraded"]) == ("personal", ["store_down"])
    assert item_id(3) not in [slot["item_id"] for slot in personal["slots"]]
    stranger = one.feed(user_id(3), limit=10)
    assert (stranger["mode"], stranger["degraded"]) == ("popular", ["store_down"])
    popular = one.feed(user_id(3), mode="popular", history=told, limit=10)
    assert (popular["slots"], popular["degraded"]) == (stranger["slots"], ["store_down"])
    # What they touched is not shown again, whatever it says of what they like.
    told = [{"item_id": item_id(4), "kind": "dislike"}]
    assert one.item_ids(user_id(3), history=told, allow=[item_id(4), item_id(5)]) == [item_id(5)]
    refused = one.client.post("/v1/events", json=event("s1", user_id(3), item_id(0)))
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "the store is closed"
    assert one.metric("candidfeed_lost_slates_total") == 4


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/feed"), ("GET", "/v1/feed/1")])
def test_an_error_that_should_not_be_is_answered_and_told_without_ids(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
) -> None:
    one = start()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("should not be")

    lines = io.StringIO()
    monkeypatch.setattr(one.service.journal, "_stream", lines)
    monkeypatch.setattr(one.service.engine, "work", broken)
    body = {"json": {"user_id": "1"}} if method == "POST" else {}
    answer = one.client.request(method, path, **body)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "bug"
    route = path.replace("/1", "/{user_id}") if path.endswith("/1") else path
    assert one.metric("candidfeed_request_seconds_count", route=route, status="500") == 1
    (told,) = map(json.loads, lines.getvalue().splitlines())
    assert (told["route"], told["error"]) == (route, "RuntimeError")
    assert "in broken" in told["where"]


# Bad input


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "body: invalid JSON"),
        (b"[]", "body: "),
        (b"\xff\xfe", "body: invalid JSON"),
        (
            b'{"user_id": 1, "limit": 0}',
            "limit: input should be greater than or equal to 1, came 0",
        ),
        (
            b'{"user_id": 1, "limit": 1000000}',
            "limit: input should be less than or equal to 200, came 1000000",
        ),
        (b'{"user_id": 1.5}', "user_id: "),
        (b'{"user_id": ""}', "user_id: "),
        (b'{"user": "1"}', "user: extra inputs are not permitted, came '1'"),
        (b'{"mode": "best"}', "mode: "),
        (b'{"context": {"time_s": 1e300}}', "context.time_s: "),
        (b'{"context": {"time_s": NaN}}', "context.time_s: "),
        (b'{"debug": 1}', "debug: input should be a valid boolean, came 1"),
        (b'{"deny": [' + b"1," * 10_000 + b"1]}", "deny: list should have at most 10000 items"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_what_is_wrong(
    shared: Running, body: bytes, told: str
) -> None:
    answer = shared.client.post("/v1/feed", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(told)


def test_a_body_that_is_too_long_is_not_read(shared: Running) -> None:
    def parts() -> Any:
        for _ in range(2_000):
            yield b" " * 1_024

    for content in (b" " * 2_000_000, parts()):
        answer = shared.client.post("/v1/feed", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_long"


def test_unknown_ids_are_counted(start: Start) -> None:
    one = start()
    one.feed("nobody", deny=["nothing", item_id(1)])
    assert one.metric("candidfeed_unknown_ids_total", kind="user") == 1
    assert one.metric("candidfeed_unknown_ids_total", kind="item") == 1


def test_an_event_about_an_item_that_the_release_does_not_know_is_kept(shared: Running) -> None:
    assert shared.send(event("u1", user_id(20), "an item of tomorrow"))["accepted"] == 1
    assert len(shared.item_ids(user_id(20), limit=10)) == 10


def test_all_items_of_the_release_can_be_asked_for(shared: Running) -> None:
    assert len(shared.item_ids("nobody at all", limit=200)) <= TINY_ITEMS


def test_a_path_that_is_not_there_is_told_as_json(shared: Running) -> None:
    answer = shared.client.get("/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "http")


def test_the_page_of_all_routes_needs_no_other_host(shared: Running) -> None:
    page = shared.client.get("/docs").text
    assert "://" not in page
    paths = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(paths) == 3
    for path in paths:
        answer = shared.client.get(path)
        assert (path, answer.status_code) == (path, 200)
        assert len(answer.content) > 1_000
