"""A function that was exported from a trained model: StableHLO that takes its weights."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export  # is not loaded by `import jax`
import numpy as np
from numpy.typing import NDArray

from candidfeed.errors import ReleaseError

Arrays = Mapping[str, NDArray[Any]]


class ExportedFunction:
    """`outputs = function(inputs)`, for inputs of one fixed shape, without the code of the model.

    Attributes:
        stablehlo: what `jax.export` serialised: a function of `(weights, inputs)`, dicts both.
        weights: the model's variables by path, those that the function reads.
    """

    def __init__(self, stablehlo: bytes, weights: Arrays) -> None:
        self.stablehlo, self.weights = stablehlo, weights
        self._run: Callable[[dict[str, Any]], Any] | None = None

    def __call__(self, inputs: Arrays) -> Any:
        """The outputs as NumPy arrays, in the structure that the model gives them."""
        return jax.tree.map(np.asarray, self.compile()(dict(inputs)))

    # Not a cached property: until Python 3.11 one lock would stand for all functions.
    def compile(self) -> Callable[[dict[str, Any]], Any]:
        """Compile at the first call; two functions can be compiled side by side.

        Raises:
            ReleaseError: this JAX can't read what was exported.
        """
        if self._run is None:
            call, weights = _compiled(self.stablehlo), jax.device_put(dict(self.weights))
            self._run = lambda inputs: call(weights, inputs)
        return self._run


def _compiled(stablehlo: bytes) -> Callable[[Any, Any], Any]:
    try:
        exported = jax.export.deserialize(bytearray(stablehlo))
        arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        return jax.jit(exported.call).lower(*arguments).compile()
    except (ValueError, RuntimeError, struct.error) as error:
        raise ReleaseError(
            f"jax {jax.__version__} can't run the release's functions ({error}); build it again"
        ) from error
