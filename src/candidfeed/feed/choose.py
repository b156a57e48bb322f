"""What a policy means for one release and person: its strength, caps, brake and draws, applied."""

import hashlib
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from candidfeed.feed.policy import Brake, Policy
from candidfeed.feed.scoring import user_vector
from candidfeed.feed.selection import Cap, Draw, Selected, by_value, select, select_by
from candidfeed.feed.served import Person, Rows, Served

BRAKE = "brake"


def choose(
    served: Served,
    person: Person,
    rows: Rows,
    values: NDArray[np.floating],
    *,
    k: int,
    policy: Policy,
    request_id: str,
) -> Selected:
    """k of the candidates, as the policy says.

    Args:
        rows: of the candidates, int32 [c].
        values: what they are ordered by, [c].
        policy: its caps are for columns that the release's items have.
    """
    caps = [
        Cap(name, served.cards.codes(name).of_rows(rows), at_most)
        for name, at_most in policy.caps.items()
    ]
    positions = policy.explore.positions
    is_drawn = bool(positions) and positions[0] <= k
    is_plain = not (caps or is_drawn or policy.diversity > 0)
    plain = select(values, rows, k) if is_plain else None
    if is_braked(person, policy.brake):
        brake = _brake_cap(served, person, rows, k, policy.brake)
        if plain is not None and brake.lets_pass(plain.picked):
            return plain
        caps.append(brake)
    elif plain is not None:
        return plain
    return select_by(
        values,
        rows,
        k,
        strength=policy.diversity,
        vectors=served.vectors_of(rows) if policy.diversity > 0 else None,
        caps=caps,
        draw=Draw(positions, policy.explore.pool, rng_of(request_id)) if is_drawn else None,
    )


def is_braked(person: Person, brake: Brake) -> bool:
    """Whether a single item could turn this person's slate over, and something else is known."""
    return brake.share < 1 and 2 <= len(person.past) <= brake.longest_past


def rests_on_last(served: Served, person: Person, rows: Rows, k: int) -> NDArray[np.bool_]:
    """Which candidates are not among stage one's first k of them without the last touched item."""
    without = replace(person, past=person.past.without(int(person.past.items[-1])))
    scores = served.scores_of(user_vector(served, without), rows)
    rests = np.ones(len(rows), bool)
    rests[by_value(scores, rows)[:k]] = False
    return rests


def rng_of(request_id: str) -> np.random.Generator:
    """The same draws for the same request, whenever it is made again."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _brake_cap(served: Served, person: Person, rows: Rows, k: int, brake: Brake) -> Cap:
    rests = rests_on_last(served, person, rows, k)
    codes = np.where(rests, 0, -1).astype(np.int32)[:, None]
    return Cap(BRAKE, codes, max(1, ceil(brake.share * k)))
