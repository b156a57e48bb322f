"""What a client may send, on purpose or not: nothing of it may hurt anybody else."""

import io
import json
import logging
import socket
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import polars as pl
import pytest
from tests.conftest import item_id, user_id
from tests.serving.conftest import Running, Start, event, until

from candidfeed.data.vocabulary import UNKNOWN
from candidfeed.feed.item_table import ItemTable
from candidfeed.release.bundle import read_release
from candidfeed.release.erased import traces_of
from candidfeed.serving.item_changes import Changes
from candidfeed.serving.journal import Journal, Surviving, all_in
from candidfeed.serving.live import LiveRelease
from candidfeed.store.records import Change
from candidfeed.store.store import open_store

# Seconds that no float can hold.
TOO_LARGE = int("1" + 400 * "0")


@pytest.mark.parametrize("expires_s", [TOO_LARGE, -TOO_LARGE, 2**63, "soon", True, [1]])
def test_an_end_that_is_no_time_is_refused_before_it_is_kept(
    shared: Running, expires_s: object
) -> None:
    put = {"fields": {"title": "Endless", "expires_s": expires_s}}
    answer = shared.client.put("/v1/items/endless", json=put)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("expires_s (seconds since 1970 UTC): ")
    assert not [one for one in shared.service.store.items_after(0, 100) if one.id == "endless"]


def test_an_end_that_somebody_else_wrote_stops_nothing(start: Start) -> None:
    one = start()
    # As a program may that has the store open too.
    one.service.store.put_item(item_id(1), {"expires_s": TOO_LARGE}, 1.0)
    assert one.client.delete(f"/v1/items/{quote(item_id(2))}").status_code == 200
    assert item_id(2) not in one.item_ids(user_id(3), allow=[item_id(1), item_id(2)])
    changes = Changes.none(3).then({0: {"expires_s": TOO_LARGE}, 1: {"expires_s": 5}}, 3)
    assert changes.ends_s.tolist() == [5.0]


@pytest.mark.parametrize("name", ["a/b", "/", "a//b/", "x/similar", "%2F", "é?#&", "a b"])
def test_an_id_may_hold_any_text(start: Start, name: str) -> None:
    one, path = start(), quote(name, safe="")
    ask = one.client.request
    assert ask("PUT", f"/v1/items/{path}", json={"fields": {"title": "It"}}).status_code == 200
    assert one.item_ids(user_id(3), allow=[name]) == [name]
    assert ask("DELETE", f"/v1/items/{path}").status_code == 200
    assert one.item_ids(user_id(3), allow=[name]) == []
    assert one.send(event("1", name, item_id(3)))["accepted"] == 1
    fed = ask("GET", f"/v1/feed/{path}").json()
    assert fed["mode"] == "personal"
    assert ask("PUT", f"/v1/users/{path}", json={"fields": {}}).status_code == 200
    assert ask("DELETE", f"/v1/users/{path}").json()["n_events"] == 1
    assert one.service.store.is_erased(name)
    made = ask("POST", "/v1/keys", json={"name": name, "scopes": ["feed"]})
    assert made.status_code == 200
    assert ask("DELETE", f"/v1/keys/{path}").status_code == 200
    assert name not in [key.name for key in one.service.store.keys()]


def test_a_path_that_is_no_text_names_nobody(shared: Running) -> None:
    for path in ("/v1/users/%FF", "/v1/feed/a%C3", "/v1/items/%ED%A0%80"):
        answer = shared.client.delete(path)
        assert answer.status_code == 400, path
        assert answer.json()["error"]["code"] == "not_understood"
    assert not shared.service.store.is_erased("\N{REPLACEMENT CHARACTER}")


def test_no_address_is_answered_by_another(shared: Running) -> None:
    answer = shared.client.get("/v1/keys/", headers={"Host": "elsewhere.invalid"})
    assert "location" not in answer.headers
    assert shared.client.get("/v1/feed/").status_code == 400


def test_an_id_that_the_store_cannot_keep_is_refused_whatever_it_is_for(shared: Running) -> None:
    # As characters it is short enough.
    name = 600 * "é"
    for method, path, body in (
        ("POST", "/v1/feed", {"user_id": name}),
        ("GET", f"/v1/feed/{quote(name)}", None),
        ("PUT", f"/v1/users/{quote(name)}", {}),
        ("PUT", f"/v1/items/{quote(name)}", {}),
        ("DELETE", f"/v1/items/{quote(name)}", None),
        ("POST", "/v1/keys", {"name": name, "scopes": ["feed"]}),
    ):
        answer = shared.client.request(method, path, json=body)
        assert answer.status_code == 400, (method, path)
        assert "at most 1024 bytes" in answer.json()["error"]["message"]


def test_half_a_surrogate_pair_rejects_its_event_alone(shared: Running) -> None:
    good = event("good with half a pair", "whole", item_id(3))
    for name in ("event_id", "user_id", "item_id", "kind", "request_id", "no_field_\ud800"):
        bad = event("bad with half a pair", "whole", item_id(3)) | {name: "\ud800"}
        body = json.dumps({"events": [good, bad]})
        answer = shared.client.post("/v1/events", content=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["accepted"] + told["duplicate"], told["rejected"]) == (1, 1)
        assert told["rejections"][0]["index"] == 1


def test_a_number_written_otherwise_is_another_item(tiny_release: Path) -> None:
    served = read_release(tiny_release)
    frame = served.items.frame
    numbered = frame.with_columns(pl.Series("item_id", range(len(frame)), pl.Int64))
    live = LiveRelease(replace(served, items=ItemTable(numbered)))
    others = ["007", "+7", " 7", "\N{FULLWIDTH DIGIT SEVEN}", "7.0", "0x7", "-0", "7_0"]
    changes = [Change(1, "7", None, 1.0)]
    changes += [Change(2 + n, name, {"title": name}, 1.0) for n, name in enumerate(others)]
    live.follow([*changes, Change(50, "1000", {"title": "A number"}, 1.0)])
    rows = live.rows_of([*others, "1000"])
    assert UNKNOWN not in rows
    assert live.served.ids_of(rows) == [*others, 1000]
    (gone, *_) = live.rules(0.0)
    assert gone.bars(live.rows_of(["7", 7])).tolist() == [True, True]
    assert not gone.bars(rows).any()


def test_a_key_of_one_user_changes_nothing_for_all(start: Start) -> None:
    one = start()
    asked = {"name": "theirs", "scopes": ["feed", "admin"], "user_id": user_id(3)}
    refused = one.client.post("/v1/keys", json=asked)
    assert refused.status_code == 400
    assert "admin" in refused.json()["error"]["message"]
    # One that an older version made.
    ring = one.service.keys
    assert ring is not None
    key = ring.add("older", ["feed", "admin"], now_s=1.0, user_id=user_id(3))
    headers = {"Authorization": f"Bearer {key}"}
    for method, path in (
        ("PUT", f"/v1/users/{quote(user_id(4))}"),
        ("DELETE", f"/v1/users/{quote(user_id(4))}"),
        ("DELETE", f"/v1/items/{quote(item_id(3))}"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
    ):
        answer = one.client.request(method, path, headers=headers)
        assert answer.status_code == 403, (method, path)
    fed = one.client.post("/v1/feed", json={"user_id": user_id(3)}, headers=headers)
    assert fed.status_code == 200


def test_a_client_that_goes_in_the_middle_is_no_error_of_ours(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, lines = start(), io.StringIO()
    monkeypatch.setattr(one.service.journal, "_stream", lines)
    routes = {
        ("POST", "/v1/feed"): "/v1/feed",
        ("POST", "/v1/events"): "/v1/events",
        ("PUT", "/v1/items/1"): "/v1/items/{item_id}",
    }
    for method, path in routes:
        with socket.create_connection((one.client.base_url.host, one.client.base_url.port)) as sent:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {one.key}\r\n"
            sent.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())

    def n_answered(status: str) -> list[float]:
        sample = "candidfeed_request_seconds_count"
        return [one.metric(sample, route=route, status=status) for route in routes.values()]

    until(lambda: n_answered("400") == [1, 1, 1], "the end of all three")
    assert n_answered("500") == [0, 0, 0]
    assert lines.getvalue() == ""


def test_what_goes_wrong_elsewhere_is_a_line_of_the_log_too() -> None:
    lines = io.StringIO()
    journal = Journal(lines, clock=lambda: 0.0)

    def fails() -> None:
        raise ValueError(f"of user {6 * 7}")

    with all_in(journal):
        logging.getLogger("uvicorn.error").warning("odd %s", "request")
        thread = threading.Thread(target=fails, name="maker")
        thread.start()
        thread.join()
        with Surviving(journal, "watching"):
            fails()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["event"] for one in told] == ["log", "thread ended", "unexpected error", "log"]
    assert "overflow" in told[3]["message"]
    assert (told[0]["logger"], told[0]["message"]) == ("uvicorn.error", "odd request")
    assert (told[1]["thread"], told[1]["error"]) == ("maker", "ValueError")
    assert (told[2]["of"], told[2]["error"]) == ("watching", "ValueError")
    assert "in fails" in told[2]["where"]
    assert "42" not in lines.getvalue()


def test_a_pointer_that_cannot_be_read_is_told_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, lines = start(), io.StringIO()
    monkeypatch.setattr(one.service.journal, "_stream", lines)
    pointer = one.folder / "current"
    before = pointer.read_bytes()
    pointer.write_bytes(b"nonsense")

    def n_failed() -> float:
        return one.metric("candidfeed_release_loads_total", outcome="failed")

    until(lambda: n_failed() == 1, "what is wrong")
    (told,) = map(json.loads, lines.getvalue().splitlines())
    assert told["event"] == "release not loaded"
    assert str(pointer) in told["why"]
    assert one.feed(user_id(3))["slots"]
    # Looked at again many times meanwhile; what is served already is not loaded anew.
    assert n_failed() == 1
    pointer.write_bytes(before)
    until(lambda: not one.service.releases._is_lost, "the pointer")
    pointer.write_bytes(b"nonsense again")
    until(lambda: n_failed() == 2, "what is wrong again")
    assert one.metric("candidfeed_release_loads_total", outcome="loaded") == 1


def test_the_page_of_a_service_is_json_in_all_its_errors(shared: Running) -> None:
    with httpx.Client(base_url=shared.client.base_url) as nobody:
        for path in ("/v1/nothing", "/v1/items/1/similar/x", "/v1/users/", "/favicon.ico"):
            answer = nobody.get(path)
            assert answer.status_code >= 400
            assert set(answer.json()) == {"error"}, path


def test_an_unfinished_build_is_looked_into_for_numbers_too(tmp_path: Path) -> None:
    left = tmp_path / "releases" / ".candidfeed-unfinished-0badcafe"
    left.mkdir(parents=True)
    pl.DataFrame({"user_id": [7, 99_999]}).write_parquet(left / "users.parquet")
    where = str(tmp_path / "store.db")
    with open_store(where) as store:
        for name, n_found in (("99999", 1), ("9999", 0)):
            traces = traces_of(name, releases=left.parent, store=store, where=where)
            assert sum(one.n_found for one in traces) == n_found
