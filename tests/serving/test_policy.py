"""Slates over HTTP keep to the policy, and say what it did; users mute what they don't want."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import user_id
from tests.serving.conftest import Running, Start, event

from candidfeed.errors import DataError
from candidfeed.feed.policy import Brake, Explore, Policy
from candidfeed.feed.served import Served
from candidfeed.release.bundle import read_release
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.service import Service
from candidfeed.serving.settings import ServeSettings
from candidfeed.store.store import open_store

POLICY = Policy(0.3, {"tags": 6}, Explore((2, 5), 6), Brake(0.5, 10))


def tags_of(served: Served, item_ids: list[Any]) -> list[str]:
    rows = served.item_ids.rows(item_ids).tolist()
    return [tag for row in rows for tag in served.items["tags"][row]]


def put(service: Running, user: str, fields: dict[str, Any]) -> Any:
    return service.client.put(f"/v1/users/{user}", json={"fields": fields})


def test_a_muted_value_is_never_shown_and_is_counted(shared: Running, tiny_served: Served) -> None:
    user = user_id(31)
    assert "odd" in tags_of(tiny_served, shared.item_ids(user, limit=9))
    assert put(shared, user, {"muted": {"tags": ["odd", "no such tag"]}}).status_code == 200
    answer = shared.feed(user, limit=9, debug=True)
    assert "odd" not in tags_of(tiny_served, [slot["item_id"] for slot in answer["slots"]])
    assert len(answer["slots"]) == 9
    assert answer["debug"]["removed"]["muted"] > 0
    assert put(shared, user, {}).status_code == 200
    assert "odd" in tags_of(tiny_served, shared.item_ids(user, limit=9))


@pytest.mark.parametrize(
    ("muted", "said"),
    [
        (["odd"], 'expected {"COLUMN": ["VALUE"]}, came [\'odd\']'),
        ({"tags": "odd"}, 'expected {"COLUMN": ["VALUE"]}, came'),
        ({"tags": [3]}, 'expected {"COLUMN": ["VALUE"]}, came'),
        ({"tag": ["odd"]}, "'tag' is no column of categories or tags of this release's items; "),
        ({"title": ["x"]}, "'title' is no column of categories or tags"),
    ],
)
def test_what_can_not_be_muted_is_refused(shared: Running, muted: object, said: str) -> None:
    answer = put(shared, user_id(30), {"muted": muted})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"muted: {said}")


def test_slots_and_records_say_what_the_policy_did(start: Start, tiny_served: Served) -> None:
    service = start(policy=POLICY)
    answer = service.feed(user_id(4), limit=8, debug=True)
    slots, funnel = answer["slots"], answer["debug"]
    assert [slot["source"] == "explore" for slot in slots] == [p in (2, 5) for p in range(1, 9)]
    drawn = 1 / funnel["drawn_from"]
    assert [slot["propensity"] for slot in slots] == [
        drawn if slot["source"] == "explore" else 1.0 for slot in slots
    ]
    assert 2 <= funnel["drawn_from"] <= 6
    assert funnel["diversity"] == POLICY.diversity
    assert funnel["filled"] == 0
    tags = tags_of(tiny_served, [slot["item_id"] for slot in slots])
    assert max(tags.count(one) for one in tags) <= 6
    n_moved = sum(place > 8 for place in funnel["by_value"])
    assert sum(funnel["passed_over"].values()) == n_moved
    record = service.service.store.slate(answer["request_id"])
    assert record is not None
    logged = json.loads(record.slots)
    assert Policy.of(logged["policy"]) == POLICY
    assert [one["propensity"] for one in logged["slots"]] == [one["propensity"] for one in slots]
    assert [one["by_value"] for one in logged["slots"]] == funnel["by_value"]


def test_a_slate_without_the_ranker_keeps_to_the_caps(start: Start, tiny_served: Served) -> None:
    service = start(policy=replace(POLICY, caps={"tags": 4}), deadline_ms=0.001)
    for u in (4, 5):
        answer = service.feed(user_id(u), limit=8)
        assert answer["degraded"] == ["retrieval_late"]
        tags = tags_of(tiny_served, [slot["item_id"] for slot in answer["slots"]])
        assert {tags.count("odd"), tags.count("even")} == {4}


def test_a_policy_for_columns_that_the_items_have_not_is_refused_at_the_start(
    tiny_release: Path, tmp_path: Path
) -> None:
    settings = ServeSettings(policy=Policy(caps={"genres": 2}))
    store = open_store(str(tmp_path / "store.db"))
    with (
        Service.open(tiny_release, store, settings, with_keys=False) as service,
        pytest.raises(DataError, match="policy: caps: 'genres' is no column of categories"),
    ):
        service.start()


def test_a_cap_counts_new_items_and_what_was_put_of_others(start: Start) -> None:
    service = start(policy=Policy(caps={"tags": 1}, brake=Brake(1.0, 10)))

    def put_item(name: str, *tags: str) -> None:
        fields = {"title": name, "tags": list(tags)}
        assert service.client.put(f"/v1/items/{name}", json={"fields": fields}).status_code == 200

    known = [str(one) for one in service.item_ids(user_id(31), limit=4)]
    new = [f"new{n}" for n in range(5)]
    for name in new:
        put_item(name, "of one sort")
    for n, name in enumerate(known):
        put_item(name, f"own {n}", "odd" if n == 0 else f"other {n}")

    def shown() -> list[str]:
        return [str(one) for one in service.item_ids(user_id(31), allow=[*new, *known], limit=5)]

    slate = shown()
    assert {*slate} > {*known}
    assert len({*slate} & {*new}) == 1
    # One more that counts as the new ones do: the cap gives way only where nothing else is left.
    put_item(known[2], "of one sort")
    slate = shown()
    assert {*slate[:4]} > {known[0], known[1], known[3]}
    assert len({*slate[:4]} & {*new, known[2]}) == 1
    # A restart finds the same.
    live = service.service.releases.live
    assert live is not None
    again = LiveRelease(read_release(service.folder))
    again.follow(service.service.store.items_after(0, 100))
    rows = live.rows_of([*new, *known])
    codes, codes_again = (one.served.cards.codes("tags") for one in (live, again))
    found = [
        [sorted(each[each >= 0]) for each in one.of_rows(rows)] for one in (codes, codes_again)
    ]
    assert found[0][:5] == [[codes.code_of["of one sort"]]] * 5
    assert [len(each) for each in found[0]] == [len(each) for each in found[1]]


def test_what_was_put_of_an_item_of_the_release_is_muted_and_shown_at_once(
    start: Start, tiny_served: Served
) -> None:
    service = start()
    user = user_id(31)
    first, second = (str(one) for one in service.item_ids(user, limit=2))
    put(service, user, {"muted": {"tags": ["unwanted"]}})
    assert {first, second} <= {str(one) for one in service.item_ids(user, limit=5)}
    for fields, is_shown, title in (
        ({"title": "Anew", "tags": ["odd", "unwanted"]}, False, "Anew"),
        ({"title": "Anew", "tags": ["even"]}, True, "Anew"),
        # What is not named is not known, as in the next release.
        ({"tags": ["even"]}, True, first),
        ({"title": "Anew", "tags": None}, True, "Anew"),
        # Nothing is said of what it is.
        ({"expires_s": 9e9}, True, title_of(tiny_served, first)),
    ):
        answer = service.client.put(f"/v1/items/{first}", json={"fields": fields})
        assert answer.status_code == 200
        slots = service.feed(user, allow=[first, second])["slots"]
        assert {str(slot["item_id"]) for slot in slots} == {second, *[first] * is_shown}
        everybody = service.feed("nobody", allow=[first])["slots"]
        assert [slot["title"] for slot in everybody] == [title]
    # Who touched it is told why by its name of now.
    put_item = service.client.put(f"/v1/items/{second}", json={"fields": {"title": "Second"}})
    assert put_item.status_code == 200
    service.send(event("only", "fan", second))
    reasons = {slot["reason"] for slot in service.feed("fan", limit=20)["slots"]}
    assert any("Second" in reason for reason in reasons), reasons


def title_of(served: Served, item_id: str) -> str:
    return served.titles_of(served.item_ids.rows([item_id]))[0]
