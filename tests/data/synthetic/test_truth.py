"""The formulas of the synthetic world, and the lots that its sources draw from."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from candidfeed.data.synthetic import truth
from candidfeed.data.synthetic.settings import WorldSettings
from candidfeed.data.synthetic.world import World, make_world

SETTINGS = WorldSettings(n_users=40, n_items=60, n_events=1_000, seed=1)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS)


def test_a_taste_turns_from_its_first_vector_to_its_second() -> None:
    taste = np.array([[[1.0, 0.0], [0.0, 1.0]]] * 3, dtype=np.float32)
    shift = truth.taste_shift(np.float32([0.5, 0.5, 0.5]), np.array([0.0, 0.5, 2.0]))
    assert shift.tolist() == [0.0, 0.25, 1.0]
    turned = truth.taste_at(taste, shift)
    np.testing.assert_allclose(turned, [[1, 0], [0.75**0.5, 0.5], [0, 1]], rtol=1e-6)


def sigmoid(logit: float) -> float:
    return 1 / (1 + np.exp(-logit))


def test_the_formulas_are_those_of_the_document() -> None:
    half = np.float32([0.5])
    zero = np.float32([0.0])
    assert truth.p_click(SETTINGS, half, half) == pytest.approx(sigmoid(-1.6 + 4 * 0.5 + 0.5))
    assert truth.p_like(SETTINGS, half, half, zero) == pytest.approx(sigmoid(-2.6 + 1.25 + 0.5))
    assert truth.p_like(SETTINGS, half, zero, half) == pytest.approx(sigmoid(-2.6 + 1.25 - 0.5))
    assert truth.p_hide(SETTINGS, half, half) == pytest.approx(sigmoid(-3.5 - 1.0 + 0.5))
    assert truth.novelty(SETTINGS, np.array([0, 56])).tolist() == [0.5, 0.25]
    np.testing.assert_allclose(truth.examined(SETTINGS)[[0, 3]], [1.0, 4**-0.4], rtol=1e-6)
    np.testing.assert_allclose(truth.other_share(SETTINGS)[[0, 7]], [0.3, 0.6], rtol=1e-6)


@pytest.mark.parametrize("tick", [0, 17, 200, 359])
def test_the_lots_of_a_source_are_the_tickets_of_what_is_out(world: World, tick: int) -> None:
    lots, items = truth.Lots(world), world.items
    is_out = [item for item in range(60) if items.tick[item] <= tick]
    tickets = {item: int(items.tickets[item]) for item in is_out}

    def drawn(start: int, end: int) -> Counter[int]:
        return Counter(lots.item[start:end].tolist())

    for cluster in range(SETTINGS.n_clusters):
        inside = {item: n for item, n in tickets.items() if items.cluster[item] == cluster}
        assert drawn(lots.cluster_start[cluster], lots.cluster_end[tick, cluster]) == inside
    popular, fresh, explored = zip(lots.other_start[:, tick], lots.other_end[:, tick], strict=True)
    assert drawn(*popular) == tickets
    assert drawn(*fresh) == dict.fromkeys([i for i in is_out if items.tick[i] > tick - 28], 1)
    assert drawn(*explored) == dict.fromkeys(is_out, 1)


def test_users_have_lots_from_when_they_joined(world: World) -> None:
    lots, users = truth.Lots(world), world.users
    joined = {user: int(users.tickets[user]) for user in range(40) if users.tick[user] <= 100}
    assert Counter(lots.user[: lots.user_end[100]].tolist()) == joined


def test_a_cluster_of_which_nothing_is_out_has_no_lot(world: World) -> None:
    late = replace(world.items, cluster=(world.items.tick > 0).astype(np.uint16))
    lots = truth.Lots(replace(world, items=late))
    assert lots.cluster_size[0, 1] == 0
    assert lots.cluster_size[359, 1] == late.tickets[late.tick > 0].sum()
