"""An exported function that this JAX can't run is told as such."""

import re

import jax
import numpy as np
import pytest

from candidfeed.errors import ReleaseError
from candidfeed.feed.exported import ExportedFunction
from candidfeed.feed.served import Served


def test_what_is_no_exported_function_is_refused(tiny_served: Served) -> None:
    cut = tiny_served.tower.stablehlo[:100]
    for broken in (b"", b"nonsense" * 20, cut):
        function = ExportedFunction(broken, {})
        with pytest.raises(ReleaseError, match=f"jax {re.escape(jax.__version__)} can't run"):
            function.compile()


def test_it_is_compiled_once(tiny_served: Served) -> None:
    function = ExportedFunction(tiny_served.tower.stablehlo, tiny_served.tower.weights)
    assert function.compile() is function.compile()


def test_inputs_of_another_shape_are_refused(tiny_served: Served) -> None:
    wrong = {
        "history": np.zeros((2, 3), np.int32),
        "feature_ids": np.zeros((2, 1), np.int32),
        "feature_weights": np.zeros((2, 1), np.float32),
    }
    with pytest.raises(TypeError):
        tiny_served.tower(wrong)
