"""Slates as JSON: what is answered of a slot, and the line that is kept of a slate."""

from collections.abc import Mapping, Sequence
from typing import Any

from candidfeed.feed.pipeline import weights_of
from candidfeed.feed.served import Served
from candidfeed.feed.slate import Slate, Slot


def slate_line(
    served: Served,
    slate: Slate,
    slots: Sequence[Mapping[str, Any]],
    policy: Mapping[str, Any],
    *,
    surface: str,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """What is kept of every slate, in `SlateRecord.slots`.

    Args:
        slots: what is answered of each (`slot_line`).
        policy: as JSON.
    """
    return {
        "surface": surface,
        "degraded": list(degraded),
        "weights": weights_of(served, slate.person),
        "policy": policy,
        "slots": [_kept(slot, told) for slot, told in zip(slate.slots, slots, strict=True)],
    }


def slot_line(slot: Slot) -> dict[str, Any]:
    """What is answered of a slot."""
    return {
        "position": slot.position,
        "item_id": slot.item_id,
        "kind": "organic",
        "title": slot.title,
        "score": slot.value,
        "source": slot.source,
        "reason": slot.reason,
        "propensity": slot.propensity,
    }


def heads_of(slot: Slot) -> Mapping[str, float | None]:
    """What was predicted; nothing where the ranker was not asked."""
    if slot.p_engaged is None:
        return {}
    rated = {} if slot.p_like is None else {"liked": slot.p_like, "rating": slot.rating}
    return {"engaged": slot.p_engaged, **rated, **slot.actions}


def _kept(slot: Slot, told: Mapping[str, Any]) -> dict[str, Any]:
    line = {**told, "by_value": slot.by_value, "heads": heads_of(slot)}
    del line["title"]
    return line
