"""Slates as JSON: what is answered of a slot, and the line that is kept of a slate."""

from collections.abc import Mapping, Sequence
from typing import Any

from candidfeed.feed.pipeline import weights_of
from candidfeed.feed.served import Served
from candidfeed.feed.slate import Slate, Slot


def slate_line(
    served: Served,
    slate: Slate,
    policy: Mapping[str, Any],
    *,
    surface: str,
    degraded: Sequence[str],
) -> dict[str, Any]:
    """What is kept of every slate, in `SlateRecord.slots`.

    Args:
        policy: as JSON.
    """
    return {
        "surface": surface,
        "degraded": list(degraded),
        "weights": weights_of(served, slate.person),
        "policy": policy,
        "slots": [_kept(slot) for slot in slate.slots],
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
    heads = {"engaged": slot.p_engaged, "liked": slot.p_like, "rating": slot.rating, **slot.actions}
    return {name: one for name, one in heads.items() if one is not None}


def _kept(slot: Slot) -> dict[str, Any]:
    line = {**slot_line(slot), "by_value": slot.by_value, "heads": heads_of(slot)}
    del line["title"]
    return line
