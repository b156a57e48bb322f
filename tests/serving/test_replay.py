"""Slates are made again from what was kept of them, to the last bit, and so are their features."""

import json
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import TINY_ITEMS, TINY_USERS, Typed, item_id, user_id
from tests.serving.conftest import Running, Start, event, publish

from candidfeed.errors import DataError, StoreError
from candidfeed.feed.policy import Brake, Explore, Policy
from candidfeed.feed.served import Served
from candidfeed.ranking.inputs import DENSE_FEATURES
from candidfeed.serving.replay import differences
from candidfeed.serving.sample import changed_of, decode_sample, encode_sample, is_sampled
from candidfeed.store.records import SlateRecord

POLICY = Policy(0.3, {"tags": 6}, Explore((2, 5), 6), Brake(0.5, 10))
WHOLE: dict[str, Any] = {"sample_features": 1.0, "policy": POLICY}
N_REQUESTS = 150


def records(service: Running) -> list[SlateRecord]:
    service.service.store.flush()
    return [record for _, record in service.service.store.slates_after(0, 10_000)]


@pytest.fixture
def replayed(typed: Typed, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Types `candidfeed replay`; gives the exit code and the outcome."""

    def run(service: Running, *more: object) -> tuple[int, dict[str, Any]]:
        service.service.store.flush()
        out, store = tmp_path / "outcome.json", tmp_path / "store.db"
        code, said, errors = typed("replay", service.folder, "--store", store, "--json", out, *more)
        content = json.loads(out.read_bytes())
        assert f"Made again: {content['n_slates']:,} feeds" in said, errors
        return code, content

    return run


def some_change(service: Running, rng: random.Random, n: int) -> None:
    """An event, an item that goes, comes back or expires, or what is put of a user."""
    client, item, user = service.client, item_id(rng.randrange(TINY_ITEMS)), any_user(rng)
    kind = rng.choices(("event", "delete", "put", "expire", "user"), (10, 2, 2, 1, 2))[0]
    if kind == "event":
        if rng.random() < 0.3:
            item = f"newcomer {rng.randrange(5)}"
        sent = event(f"e{n}", user, item, value=rng.randrange(1, 6), time_s=time.time())
        assert service.send(sent)["accepted"] == 1
    elif kind == "delete":
        assert client.delete(f"/v1/items/{item}").status_code == 200
    elif kind in ("put", "expire"):
        expires_s = time.time() + rng.choice((-60.0, 3_600.0))
        fields: dict[str, Any] = {"expires_s": expires_s} if kind == "expire" else {}
        if rng.random() < 0.5:
            item = f"newcomer {rng.randrange(5)}"
        if rng.random() < 0.7:
            fields |= {"title": f"New {n}", "tags": [rng.choice(("odd", "even", "old"))]}
        answer = client.put(f"/v1/items/{item}", json={"fields": fields})
        # What was deleted can't be put again.
        assert answer.status_code in (200, 409)
    else:
        fields = rng.choice(
            ({"job": "nurse"}, {"blocked_items": [item]}, {"muted": {"tags": ["old"]}}, {})
        )
        assert client.put(f"/v1/users/{user}", json={"fields": fields}).status_code == 200


def any_user(rng: random.Random) -> str:
    """One in ten is not known to the release."""
    return rng.choice(("new", "newer")) if rng.random() < 0.1 else user_id(rng.randrange(8))


def some_request(rng: random.Random) -> dict[str, Any]:
    asked: dict[str, Any] = {"user_id": any_user(rng), "limit": rng.randrange(1, 25)}
    if rng.random() < 0.2:
        asked["mode"] = rng.choice(("popular", "latest"))
    if rng.random() < 0.2:
        asked["deny"] = [item_id(rng.randrange(TINY_ITEMS)) for _ in range(3)] + ["no such item"]
    if rng.random() < 0.1:
        asked["allow"] = [item_id(i) for i in rng.sample(range(TINY_ITEMS), 12)]
    if rng.random() < 0.1:
        asked["context"] = {"time_s": 1_700_000_000.0 + rng.randrange(10**7)}
    return {**asked, "debug": rng.random() < 0.2}


@pytest.mark.parametrize("release", ["tiny_release", "by_vectors"])
def test_feeds_between_all_kinds_of_changes_are_made_again_to_the_last_bit(
    start: Start,
    replayed: Callable[..., tuple[int, dict[str, Any]]],
    request: pytest.FixtureRequest,
    release: str,
) -> None:
    service, rng = start(request.getfixturevalue(release), **WHOLE), random.Random(0)
    shown = set()
    for n in range(N_REQUESTS):
        if rng.random() < 0.6:
            some_change(service, rng, n)
        shown |= set(service.item_ids(**some_request(rng)))
    assert {one.split()[0] for one in shown} == {"item", "newcomer"}
    last = decode_sample(records(service)[-1].features or b"").items
    assert last.newcomers
    assert last.edited
    code, outcome = replayed(service)
    assert (code, outcome["differing"]) == (0, [])
    assert outcome["n_slates"] == outcome["n_same"] == N_REQUESTS
    assert outcome["n_features"] == outcome["n_same_features"] > N_REQUESTS / 2
    assert (outcome["n_gone"], outcome["n_other_past"]) == (0, 0)


def test_feeds_that_lack_a_step_are_made_again_without_it(
    start: Start,
    replayed: Callable[..., tuple[int, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = start(**WHOLE)
    engine, store = service.service.engine, service.service.store
    told = [{"item_id": item_id(3), "kind": "rating", "value": 5}]
    with monkeypatch.context() as patch:
        patch.setattr(engine._maker, "_ranking_s", 1e9)
        assert service.feed(user_id(1))["degraded"] == ["ranker_late"]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_settings", replace(engine._settings, deadline_ms=1e-9))
        assert service.feed(user_id(1))["degraded"] == ["retrieval_late"]
    with monkeypatch.context() as patch:
        patch.setattr(store, "about", _unreadable)
        assert service.feed(user_id(1), history=told)["degraded"] == ["store_down"]
    store.put_user(user_id(2), {"job": {"no": "category"}}, 1.0)
    assert service.feed(user_id(2))["degraded"] == ["user_features"]
    code, outcome = replayed(service)
    assert (code, outcome["n_same"], outcome["differing"]) == (0, 4, [])
    assert outcome["degraded"] == dict.fromkeys(
        ("ranker_late", "retrieval_late", "store_down", "user_features"), 1
    )
    # What the client told is not in the log.
    assert (outcome["n_same_features"], outcome["n_other_past"]) == (1, 1)


def _unreadable(user_id: str) -> Any:
    raise StoreError("can't be read")


def test_a_feed_is_made_again_by_the_release_that_answered_while_that_is_kept(
    start: Start, replayed: Callable[..., tuple[int, dict[str, Any]]], tiny_served: Served
) -> None:
    service = start(**WHOLE)
    first = service.feed(user_id(1))["release_id"]
    others = replace(tiny_served.settings, value_weights={"engaged": 0.0, "liked": 1.0})
    publish(replace(tiny_served, settings=others), service.folder)
    service.service.releases.load()
    assert service.feed(user_id(1))["release_id"] != first
    code, outcome = replayed(service)
    assert (code, outcome["n_same"], outcome["n_gone"]) == (0, 2, 0)
    publish(tiny_served, service.folder)
    code, outcome = replayed(service)
    assert (code, outcome["n_same"], outcome["n_gone"]) == (0, 1, 1)
    assert replayed(service, "-n", 1)[1]["n_slates"] == 1


def test_whatever_was_changed_in_a_record_is_told(start: Start, tiny_served: Served) -> None:
    service = start(**WHOLE)
    request_id = service.feed(user_id(1), limit=5)["request_id"]
    (record,) = records(service)
    assert record.features is not None
    sample = decode_sample(record.features)
    line = json.loads(record.slots)
    line["slots"][2]["score"] = np.nextafter(line["slots"][2]["score"], 2.0)
    line["slots"][3]["propensity"] = 0.5
    changed = replace(record, slots=json.dumps(line).encode())
    found, _ = differences(tiny_served, changed, sample)
    assert [(one.position, one.name) for one in found] == [(3, "score"), (4, "propensity")]
    # Another id draws other items, and another past gives other scores.
    others = [replace(sample.basis, request_id=f"{n} {request_id}") for n in range(8)]
    # One of thirty draws the same.
    assert any(differences(tiny_served, record, replace(sample, basis=one))[0] for one in others)
    other = replace(sample.basis, later=None)
    assert differences(tiny_served, record, replace(sample, basis=other))[0]


def with_another_feature(record: SlateRecord, *, slot: int, column: int) -> SlateRecord:
    """The same, as if the ranker had read something else."""
    assert record.features is not None
    sample = decode_sample(record.features)
    assert sample.read is not None
    dense = sample.read.dense.copy()
    dense[slot, column] += 1
    packed = encode_sample(replace(sample, read=replace(sample.read, dense=dense)))
    return replace(record, request_id="changed", features=packed)


def test_a_difference_ends_the_command_with_1_and_is_named(
    start: Start, replayed: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    service = start(**WHOLE)
    service.feed(user_id(1), limit=5)
    (record,) = records(service)
    service.service.store.log_slate(with_another_feature(record, slot=1, column=2))
    code, outcome = replayed(service, "-n", 1)
    (one,) = outcome["differing"]
    assert (code, one["differences"][0]["position"]) == (1, 2)
    assert one["differences"][0]["name"] == DENSE_FEATURES[2]


def test_what_the_ranker_read_of_an_item_that_came_later_is_made_again_too(
    start: Start, replayed: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    service, column = start(**WHOLE), DENSE_FEATURES.index("affinity")
    for name, tag in (("first", "even"), ("second", "odd")):
        put = {"fields": {"title": f"The {name}", "tags": [tag]}}
        assert service.client.put(f"/v1/items/{name}", json=put).status_code == 200
    shown = service.item_ids(user_id(1), limit=3, allow=["second", item_id(30)])
    assert set(shown) == {"second", item_id(30)}
    code, outcome = replayed(service)
    assert (code, outcome["n_features"], outcome["n_same_features"]) == (0, 1, 1)
    (record,) = records(service)
    place = shown.index("second")
    service.service.store.log_slate(with_another_feature(record, slot=place, column=column))
    code, outcome = replayed(service, "-n", 1)
    (difference,) = outcome["differing"][0]["differences"]
    assert (code, difference["position"], difference["name"]) == (1, place + 1, "affinity")


def test_an_event_that_comes_late_is_no_difference_and_is_counted(
    start: Start, replayed: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    service = start(**WHOLE)
    service.feed(user_id(1))
    service.send(event("late", user_id(1), item_id(30), time_s=time.time() - 3_600))
    code, outcome = replayed(service)
    assert (code, outcome["n_same"], outcome["n_features"], outcome["n_other_past"]) == (0, 1, 0, 1)


def test_a_store_without_samples_is_refused(start: Start, typed: Typed, tmp_path: Path) -> None:
    service = start(sample_features=0.0)
    service.feed(user_id(1))
    assert records(service)[0].features is None
    code, _, errors = typed("replay", service.folder, "--store", tmp_path / "store.db")
    assert code == 2
    assert "serve with a greater --sample-features" in errors


def test_of_a_share_of_the_requests_what_they_were_made_from_is_kept(start: Start) -> None:
    service = start(sample_features=0.3)
    for _ in range(20):
        service.feed(user_id(1))
    kept = [one for one in records(service) if one.features is not None]
    assert {one.request_id for one in kept} == {
        one.request_id for one in records(service) if is_sampled(one.request_id, 0.3)
    }
    assert service.metric("candidfeed_samples_total", outcome="kept") == len(kept)
    ids = [f"{n:x}" for n in range(20_000)]
    share = np.mean([is_sampled(one, 0.3) for one in ids])
    # Five standard errors.
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(ids))


def test_what_is_too_large_or_changed_meanwhile_is_counted_and_not_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(**WHOLE)
    live = service.service.releases.live
    assert live is not None
    with monkeypatch.context() as patch:
        patch.setattr(live, "version", live.version + 1)
        service.feed(user_id(1))
    monkeypatch.setattr("candidfeed.serving.sample.RECORD_BYTES", 100)
    service.feed(user_id(1))
    assert [one.features for one in records(service)] == [None, None]
    assert service.metric("candidfeed_samples_total", outcome="items_changed") == 1
    assert service.metric("candidfeed_samples_total", outcome="too_large") == 1


def test_what_had_changed_of_the_items_is_told_anew_only_after_a_change(
    start: Start,
    replayed: Callable[..., tuple[int, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr(
        "candidfeed.serving.making.changed_of", lambda live: told.append(live) or changed_of(live)
    )
    service = start(**WHOLE)
    for n in range(3):
        for user in range(4):
            service.feed(user_id(user))
        service.client.delete(f"/v1/items/{item_id(n)}")
    assert len(told) == 3
    gone = [decode_sample(one.features or b"").items.gone for one in records(service)]
    assert [len(one) for one in gone] == [0] * 4 + [1] * 4 + [2] * 4
    assert replayed(service)[0] == 0


def test_what_is_kept_goes_with_its_user_and_holds_no_key(start: Start) -> None:
    service = start(**WHOLE)
    service.feed(user_id(TINY_USERS - 1))
    (record,) = records(service)
    assert record.features is not None
    sample = decode_sample(record.features)
    assert encode_sample(sample) == record.features
    assert service.key.encode() not in zlib.decompress(record.features)
    assert service.client.delete(f"/v1/users/{user_id(TINY_USERS - 1)}").status_code == 200
    assert records(service) == []


@pytest.mark.parametrize("packed", [b"", b"x", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_what_is_no_sample_is_refused(packed: bytes) -> None:
    with pytest.raises(DataError, match="sample: can't be read"):
        decode_sample(packed)
