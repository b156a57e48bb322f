"""Keys: who may ask for what, and how often."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import item_id, user_id
from tests.serving.conftest import Running, Start, event

from candidfeed.serving.limits import TokenBucket

ROUTES: list[tuple[str, str, str, Any]] = [
    ("feed", "POST", "/v1/feed", {}),
    ("feed", "GET", "/v1/feed/1", None),
    ("feed", "GET", "/v1/items/1/similar", None),
    ("feed", "GET", "/v1/why/1/1", None),
    ("events", "POST", "/v1/events", event("k1", 1, 1)),
    ("admin", "PUT", "/v1/items/new", {"fields": {}}),
    ("admin", "DELETE", "/v1/items/new", None),
    ("admin", "PUT", "/v1/users/new", {"fields": {}}),
    ("admin", "DELETE", "/v1/users/new", None),
    ("admin", "GET", "/v1/keys", None),
    ("admin", "POST", "/v1/keys", {"name": "x", "scopes": ["feed"]}),
    ("admin", "DELETE", "/v1/keys/x", None),
    ("metrics", "GET", "/metrics", None),
]


def add_key(one: Running, name: str, *scopes: str, **more: Any) -> str:
    answer = one.client.post("/v1/keys", json={"name": name, "scopes": scopes, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["key"]


def ask(one: Running, key: str | None, method: str, path: str, body: Any) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.request(
        method, f"{str(one.client.base_url).rstrip('/')}{path}", json=body, headers=headers
    )


def test_each_route_asks_for_a_key_of_its_scope(start: Start) -> None:
    one = start()
    keys = {scope: add_key(one, scope, scope) for scope in ("feed", "events", "admin", "metrics")}
    expired = add_key(one, "old", *keys, expires_s=1.0)
    for scope, method, path, body in ROUTES:
        for wrong in (None, "cf_wrong", expired, keys["feed"][:-1]):
            answer = ask(one, wrong, method, path, body)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        statuses = {
            name: ask(one, key, method, path, body).status_code for name, key in keys.items()
        }
        assert {name for name, status in statuses.items() if status != 403} == {scope}, path
    for path in ("/livez", "/readyz"):
        assert ask(one, None, "GET", path, None).status_code == 200


def test_every_route_of_the_description_is_tested_for_its_key(shared: Running) -> None:
    description = shared.client.get("/openapi.json").json()
    described = description["paths"]
    # So that the page of all routes can send a key.
    assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert description["security"] == [{"key": []}]
    routes = {
        (method.upper(), path) for path, methods in described.items() for method in methods
    } - {("GET", "/livez"), ("GET", "/readyz")}
    assert len(routes) == len(ROUTES)


def test_only_a_hash_of_a_key_is_kept(start: Start) -> None:
    one = start()
    key = add_key(one, "app", "feed")
    one.service.store.flush()
    for path in one.folder.parent.glob("store.db*"):
        assert key.removeprefix("cf_").encode() not in path.read_bytes()
        assert one.key.removeprefix("cf_").encode() not in path.read_bytes()
    entries = one.client.get("/v1/keys").json()["keys"]
    assert [(entry["name"], entry["scopes"]) for entry in entries] == [
        ("app", ["feed"]),
        ("first", ["feed", "events", "admin", "metrics"]),
    ]


def test_a_key_that_was_removed_opens_nothing(start: Start) -> None:
    one = start()
    key = add_key(one, "app", "feed")
    assert ask(one, key, "POST", "/v1/feed", {}).status_code == 200
    assert one.client.delete("/v1/keys/app").status_code == 200
    assert ask(one, key, "POST", "/v1/feed", {}).status_code == 401
    assert one.client.delete("/v1/keys/app").status_code == 404


def test_a_key_of_one_user_reads_nothing_of_another(start: Start) -> None:
    one = start()
    of_other = one.feed(user_id(4))["request_id"]
    key = add_key(one, "phone", "feed", "events", user_id=user_id(3))
    own = ask(one, key, "POST", "/v1/feed", {"user_id": user_id(3)})
    assert own.status_code == 200
    assert ask(one, key, "POST", "/v1/feed", {"user_id": user_id(4)}).status_code == 403
    assert ask(one, key, "GET", f"/v1/feed/{user_id(4)}", None).status_code == 403
    assert ask(one, key, "POST", "/v1/feed", {}).json()["mode"] == "popular"
    path = f"/v1/why/{own.json()['request_id']}/1"
    assert ask(one, key, "GET", path, None).status_code == 200
    assert ask(one, key, "GET", f"/v1/why/{of_other}/1", None).status_code == 404
    batch = {"events": [event("1", user_id(3), item_id(1)), event("2", user_id(4), item_id(1))]}
    counted = ask(one, key, "POST", "/v1/events", batch).json()
    assert (counted["accepted"], counted["rejected"]) == (1, 1)
    # With the user their key is gone.
    one.client.delete(f"/v1/users/{user_id(3)}")
    assert ask(one, key, "POST", "/v1/feed", {"user_id": user_id(3)}).status_code == 401


def test_one_key_that_asks_too_often_leaves_others_alone(start: Start) -> None:
    one = start(requests_per_s=0.001, burst=3.0)
    statuses = [one.client.post("/v1/feed", json={}).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    other = one.service.keys
    assert other is not None
    key = other.add("other", ("feed",), now_s=0.0)
    assert ask(one, key, "POST", "/v1/feed", {}).status_code == 200


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(1, 100),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 50)), max_size=50),
)
def test_a_bucket_lets_through_its_burst_and_its_rate_and_no_more(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now_s, taken = TokenBucket(rate, burst), 0.0, 0.0
    bucket.take(burst, now_s=0.0)
    for wait_s, n in steps:
        now_s += wait_s
        asked_s = bucket.take(n, now_s=now_s)
        if asked_s:
            # After that long it is let through.
            now_s += asked_s * (1 + 1e-9) + 1e-9
            assert bucket.take(n, now_s=now_s) == pytest.approx(0.0, abs=1e-6)
        taken += n
        # A request of more than the burst may run into debt by what it asks for above it.
        assert taken <= rate * now_s * (1 + 1e-6) + burst + max(0.0, n - burst) + 1e-6
