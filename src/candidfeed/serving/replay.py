"""Slates made again from what was kept of them, and held against what was answered."""

import json
from dataclasses import dataclass
from typing import Any, Final

from candidfeed.feed.policy import Policy
from candidfeed.feed.served import Served
from candidfeed.serving.basis import slate_of
from candidfeed.serving.sample import Sample, as_it_was
from candidfeed.serving.slate_line import slate_line, slot_line
from candidfeed.serving.wire import encoded
from candidfeed.store.records import SlateRecord

_N_SLOTS: Final = "number of slots"


@dataclass(frozen=True)
class Difference:
    """
    Attributes:
        position: of the slot, from 1; 0 for the slate as a whole.
        name: what differs.
    """

    position: int
    name: str
    answered: Any
    made_again: Any


def differences(
    served: Served, record: SlateRecord, sample: Sample
) -> tuple[list[Difference], list[str]]:
    """What differs, to the last bit, when a slate is made again; and the steps that it lacked.

    Args:
        served: the release that answered; its items are set to what they were then.
        sample: what the record says that it was made from.
    """
    line = json.loads(record.slots)
    policy, degraded = Policy.of(line["policy"]), line["degraded"]
    live = as_it_was(served, sample.items)
    slate = slate_of(sample.basis, live, policy, left_out=degraded)
    told = [slot_line(slot) for slot in slate.slots]
    line_again = slate_line(
        served, slate, told, policy.to_json(), surface=line["surface"], degraded=degraded
    )
    again = json.loads(encoded(line_again))
    found = [
        Difference(0, name, line[name], again[name])
        for name in again
        if name != "slots" and line[name] != again[name]
    ]
    slots, slots_again = line["slots"], again["slots"]
    if len(slots) != len(slots_again):
        found.append(Difference(0, _N_SLOTS, len(slots), len(slots_again)))
    found += [
        Difference(slot["position"], name, slot[name], one[name])
        for slot, one in zip(slots, slots_again, strict=False)
        for name in slot
        if slot[name] != one[name]
    ]
    return found, degraded
