"""An exported function that this JAX can't run is told as such."""

import re

import jax
import numpy as np
import pytest

from candidfeed.errors import ReleaseError
from candidfeed.feed import exported
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.scoring import tower_inputs
from candidfeed.feed.served import Served


def test_what_is_no_exported_function_is_refused(tiny_served: Served) -> None:
    cut = tiny_served.tower.stablehlo[:100]
    for broken in (b"", b"nonsense" * 20, cut):
        function = ExportedFunction(broken, {})
        with pytest.raises(ReleaseError, match=f"jax {re.escape(jax.__version__)} can't run"):
            function.compile()


def test_a_function_without_its_weights_is_refused(tiny_served: Served) -> None:
    with pytest.raises(ReleaseError, match="can't run the release's functions"):
        ExportedFunction(tiny_served.tower.stablehlo, {}).compile()


def test_what_is_compiled_quickly_gives_the_same_up_to_rounding(tiny_served: Served) -> None:
    person = tiny_served.person(tiny_served.users.id_of(0))
    inputs = tower_inputs(person, tiny_served.settings, item_vectors=tiny_served.item_vectors)
    quick = ExportedFunction(tiny_served.tower.stablehlo, tiny_served.tower.weights)
    quick.compile(quickly=True)
    np.testing.assert_allclose(quick(inputs), tiny_served.tower(inputs), atol=1e-5)


def test_an_option_that_this_xla_does_not_know_is_done_without(
    tiny_served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "_QUICKLY", {"xla_cpu_no_such_option": True})
    ExportedFunction(tiny_served.tower.stablehlo, tiny_served.tower.weights).compile(quickly=True)


@pytest.mark.parametrize("shape", [(2, 64), (1, 65)])
def test_inputs_of_another_shape_are_told_as_another_version(
    tiny_served: Served, shape: tuple[int, int]
) -> None:
    wrong = {
        "history": np.zeros(shape, np.int32),
        "feature_ids": np.zeros((1, 1), np.int32),
        "feature_weights": np.zeros((1, 1), np.float32),
    }
    with pytest.raises(ReleaseError, match="take other inputs than this version gives"):
        tiny_served.tower(wrong)
    with pytest.raises(ReleaseError, match="take other inputs than this version gives"):
        tiny_served.tower({"history": wrong["history"]})
