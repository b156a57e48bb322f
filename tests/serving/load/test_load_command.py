"""`candidfeed load`: what a person types and sees."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Typed = Callable[..., tuple[int, str, str]]
SHORT = ("--seconds", "0.4", "--warm-up", "0.1", "--limit", "3", "--timeout", "30")


def url(service: Any) -> str:
    return f"http://127.0.0.1:{service.port}"


def test_a_load_is_told_in_a_table_of_80_columns(
    typed: Typed, served: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDIDFEED_KEY", "secret")
    arguments = (url(served), *SHORT, "--rate", "100", "--events-share", "0.5")
    exit_code, output, errors = typed("load", *arguments, "--json", here / "load.json")
    assert (exit_code, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    assert output.startswith(f"{url(served)}: 100.0 requests/s asked, ")
    assert "p50 ms  p95 ms  p99 ms  p99.9 ms  max ms" in output
    assert "\nreleases: 0001-a " in output

    told = json.loads((here / "load.json").read_text())
    run, events = told["run"], told["events"]
    assert (told["url"], told["n_failed"], run["asked_per_s"]) == (url(served), 0, 100.0)
    assert run["n"] == run["feed"]["n_good"] + run["events"]["n_good"] == 40
    assert run["answers"] == {"200": 40}
    assert run["slots"] == {"3": run["feed"]["n_good"]}
    assert events["n_sent"] == events["n_acknowledged"] == len(served.events)
    assert f"Events sent {events['n_sent']}, acknowledged {events['n_sent']} " in output
    assert all("\r\nAuthorization: Bearer secret\r\n" in head for head in served.heads)


def test_a_failed_request_ends_in_1_and_a_refused_one_does_not(typed: Typed, served: Any) -> None:
    for status, expected in ((503, 0), (429, 0), (500, 1), (422, 1)):
        served.asked.clear()

        def sometimes(path: str, body: object, status: int = status) -> tuple[int, bytes] | None:
            return (status, b"{}") if len(served.asked) > 2 and path == "/v1/feed" else None

        served.instead = sometimes
        exit_code, output, errors = typed("load", url(served), *SHORT, "--events-share", "0")
        assert (exit_code, errors) == (expected, "")
        assert f"answers: {status} " in output
        assert ("Failed requests: " in output) is (expected == 1)


def test_a_wrong_slate_is_a_failed_request(typed: Typed, served: Any) -> None:
    def twice(path: str, body: dict[str, Any]) -> tuple[int, bytes] | None:
        slate = served.slate(body)
        slate["slots"][1]["item_id"] = slate["slots"][0]["item_id"]
        return (200, json.dumps(slate).encode()) if len(served.asked) > 1 else None

    served.instead = twice
    exit_code, output, _ = typed("load", url(served), *SHORT, "--events-share", "0")
    assert exit_code == 1
    assert "wrong: item twice " in output


def test_one_request_in_flight_at_a_time(typed: Typed, served: Any) -> None:
    exit_code, output, _ = typed("load", url(served), *SHORT, "--in-flight", "1")
    assert exit_code == 0
    assert output.startswith(f"{url(served)}: 1 in flight, ")
    assert served.n_connections == 1


def test_a_peak_is_found_and_overloaded(typed: Typed, served: Any, here: Path) -> None:
    """The service refuses all that comes after the 200th request."""
    few = ("--seconds", "0.1", "--warm-up", "0", "--rate", "100", "--events-share", "0")
    served.instead = lambda path, body: (503, b"") if len(served.asked) > 200 else None
    arguments = (*few, "--find-peak", "--overload", "3", "--json", "peak.json")
    exit_code, output, errors = typed("load", url(served), *arguments)
    assert (exit_code, errors) == (0, "")
    told = json.loads((here / "peak.json").read_text())
    held = [step["rate_per_s"] for step in told["steps"] if step["holds"]]
    assert told["peak_per_s"] == max(held) == told["run"]["asked_per_s"]
    assert told["overload"]["asked_per_s"] == 3 * told["peak_per_s"]
    assert told["overload"]["answers"] == {"503": told["overload"]["n"]}
    assert told["run_after"]["asked_per_s"] == told["peak_per_s"]
    assert told["goodput_share"] == 0
    assert max(map(len, output.splitlines())) <= 80
    assert f"Peak with p99 within 50 ms: {max(held):,.1f} requests/s\n" in output
    assert "goodput 0% of the peak's" in output
    assert "refused" in output


def test_users_of_a_world_ask_and_click_in_its_time(
    typed: Typed, served: Any, tmp_path: Path
) -> None:
    world = tmp_path / "world"
    small = ("--users", "50", "--items", "30", "--events", "2000")
    assert typed("synth", "-o", world, *small)[0] == 0
    arguments = ("--data", world, "--rate", "200", "--events-share", "0.5", *SHORT)
    exit_code, _, errors = typed("load", url(served), *arguments)
    assert (exit_code, errors) == (0, "")
    feeds = [body for path, body in served.asked if path == "/v1/feed"]
    assert {type(body["user_id"]) for body in feeds} == {int}
    assert {body["user_id"] for body in feeds} <= set(range(50))
    # The world ends 90 days after 2024-01-01 UTC.
    end_s = 1_704_067_200 + 90 * 86_400
    assert min(body["context"]["time_s"] for body in feeds) >= end_s
    assert min(event["time_s"] for event in served.events.values()) >= end_s


def test_users_of_a_file_ask(typed: Typed, served: Any, here: Path) -> None:
    (here / "users.txt").write_text("anna\nbo\n")
    assert typed("load", url(served), *SHORT, "--users-file", "users.txt")[0] == 0
    asked = {body["user_id"] for path, body in served.asked if path == "/v1/feed"}
    assert asked == {"anna", "bo"}


# Wrong usage


def test_a_service_that_is_not_there_is_one_clear_line(typed: Typed) -> None:
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        service = f"http://127.0.0.1:{held.getsockname()[1]}"
        exit_code, output, errors = typed("load", service)
    assert (exit_code, output) == (2, "")
    assert errors.startswith(f"error: {service}: no answer (")
    assert errors.endswith("is `candidfeed serve` there?\n")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, b""), "/v1/feed answered 401; name a key that may ask for feeds and send events"),
        ((503, b""), "/v1/feed answered 503, not 200; is it a feed service, and ready?"),
        (
            (422, b'{"error": {"message": "limit: at most 200"}}'),
            " answered 422: limit: at most 200",
        ),
        ((200, b"<html>"), "/v1/feed: not what a feed service answers (not JSON)"),
    ],
)
def test_a_service_that_does_not_serve_is_told_before_the_load(
    typed: Typed, served: Any, reply: tuple[int, bytes], message: str
) -> None:
    served.instead = lambda path, body: reply
    exit_code, output, errors = typed("load", url(served))
    assert (exit_code, output, len(served.asked)) == (2, "", 1)
    assert errors.startswith(f"error: {url(served)}/v1/feed")
    assert message in errors


def test_a_feed_of_nothing_is_told_before_the_load(typed: Typed, served: Any) -> None:
    empty = json.dumps({**served.slate({"limit": 0}), "slots": []}).encode()
    served.instead = lambda path, body: (200, empty)
    exit_code, _, errors = typed("load", url(served))
    assert exit_code == 2
    assert errors == f"error: {url(served)}: the feeds of 5 users are empty\n"


def test_a_key_without_events_is_told_before_the_load(typed: Typed, served: Any) -> None:
    served.instead = lambda path, body: (403, b"") if path == "/v1/events" else None
    exit_code, _, errors = typed("load", url(served))
    assert exit_code == 2
    assert f"error: {url(served)}/v1/events answered 403; name a key that may" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://192.0.2.1"], "192.0.2.1 is not this machine; only load a service that is yours"),
        (["example.org:80"], "example.org is not this machine"),
        (["https://localhost"], "'https://localhost' is no URL of a service such as http://127."),
        (["http://localhost/v1/feed"], "is no URL of a service"),
        (["http://localhost:99999"], "is no URL of a service"),
        (["http://[::1"], "is no URL of a service"),
        (["localhost", "--overload", "3"], "add --find-peak"),
        (["localhost", "--in-flight", "1", "--find-peak"], "name one"),
        (["localhost", "--key", "a\nb"], "--key: is no API key"),
        (["localhost", "--rate", "2e4", "--seconds", "1e3"], "more than one run asks (2,000,000)"),
        (["localhost", "--find-peak", "--seconds", "1e3"], "20,040,000 requests are more than"),
        (["localhost", "--data", "w", "--users-file", "u"], "name one of --data and --users-file"),
        (["localhost", "--data", "w"], "w: holds no synthetic world"),
        (["localhost", "--users-file", "u"], "u: No such file"),
        (["localhost", "--users", "0"], "users should be 1 or more, but 0 came"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    typed: Typed, here: Path, arguments: list[str], message: str
) -> None:
    exit_code, output, errors = typed("load", *arguments)
    assert (exit_code, output) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_the_tool_loads_no_model_and_no_server() -> None:
    names = (
        "candidfeed.cli.load",
        "candidfeed.serving.load.session",
        "candidfeed.data.synthetic.oracle",
    )
    script = f"import sys, {', '.join(names)}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & {"jax", "keras", "faiss", "fastapi", "starlette", "uvicorn"} == set()
