"""Slates are made again from what was kept of them, to the last bit."""

from typing import Any

from tests.conftest import user_id
from tests.serving.conftest import Running, Start

from candidfeed.feed.policy import Brake, Explore, Policy
from candidfeed.feed.served import Served
from candidfeed.release.bundle import read_release
from candidfeed.serving.replay import differences
from candidfeed.serving.sample import decode_sample
from candidfeed.store.records import SlateRecord

POLICY = Policy(0.3, {"tags": 6}, Explore((2, 5), 6), Brake(0.5, 10))
WHOLE = {"sample_features": 1.0, "policy": POLICY}


def records(service: Running) -> list[SlateRecord]:
    service.service.store.flush()
    return [record for _, record in service.service.store.slates_after(0, 10_000)]


def made_again(service: Running, served: Served) -> dict[str, list[Any]]:
    """What differs, by request."""
    found = {}
    for record in records(service):
        assert record.features is not None
        found[record.request_id] = differences(served, record, decode_sample(record.features))
    return found


def test_a_slate_is_made_again_from_its_record_to_the_last_bit(start: Start) -> None:
    service = start(**WHOLE)
    again = read_release(service.folder)
    request_id = service.feed(user_id(1), limit=9)["request_id"]
    assert made_again(service, again) == {request_id: []}
