"""A function that was exported from a trained model: StableHLO that takes its weights."""

import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.export  # is not loaded by `import jax`
import numpy as np
from numpy.typing import NDArray

from candidfeed.errors import ReleaseError

Arrays = Mapping[str, NDArray[Any]]
_Options = dict[str, str | bool]

# For a process that asks once. Measured on both functions of ML-100K: 0.3 s of processor time to
# compile in place of 1.4 s, then 14 ms a call in place of 5 ms.
_QUICKLY: _Options = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": "0"}
# Products of one user's few rows: XLA's library for large ones is slower (docs/log.md).
_WELL: _Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Weights up to this size are compiled in: each that is handed over takes time in every call.
_MOST_CONSTANT_BYTES = 1 << 20


class ExportedFunction:
    """`outputs = function(inputs)`, for inputs of one fixed shape, without the code of the model.

    Attributes:
        stablehlo: what `jax.export` serialised: a function of `(weights, inputs)`, dicts both.
        weights: the model's variables by path, those that the function reads.
    """

    def __init__(self, stablehlo: bytes, weights: Arrays) -> None:
        self.stablehlo, self.weights = stablehlo, weights
        self._run: Callable[[Arrays], Any] | None = None
        self._compiling = threading.Lock()
        self._reads: frozenset[str] = frozenset()

    @property
    def reads(self) -> frozenset[str]:
        """Names of the inputs; others need not be made.

        Raises:
            ReleaseError: this JAX can't run the function.
        """
        if self._run is None:
            self.compile()
        return self._reads

    def __call__(self, inputs: Arrays) -> Any:
        """The output as a NumPy array, or those that the model gives by name.

        Args:
            inputs: may hold more than what the function reads.

        Raises:
            ReleaseError: this JAX can't run the function, or it takes other inputs.
        """
        run = self._run or self.compile()
        try:
            outputs = run({name: inputs[name] for name in self._reads})
        except (TypeError, KeyError) as error:
            raise ReleaseError(
                f"the release's functions take other inputs than this version gives ({error}); "
                "build it again"
            ) from error
        if isinstance(outputs, dict):
            return {name: np.asarray(one) for name, one in outputs.items()}
        return np.asarray(outputs)

    # Not a cached property: until Python 3.11 one lock stands for those of all objects.
    def compile(self, *, quickly: bool = False) -> Callable[[Arrays], Any]:
        """Compile before the first call, once; two functions can be compiled side by side.

        Args:
            quickly: optimise little; the last bits of the outputs may be others.

        Raises:
            ReleaseError: this JAX can't run the function.
        """
        with self._compiling:
            return self._run or self._compile(quickly=quickly)

    def _compile(self, *, quickly: bool) -> Callable[[Arrays], Any]:
        try:
            exported = jax.export.deserialize(bytearray(self.stablehlo))
            (weights, inputs), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
            large = {name: one for name, one in weights.items() if not self._is_constant(name)}
            small = {name: self.weights[name] for name in weights if name not in large}

            def call(handed: Arrays, inputs: Arrays) -> Any:
                return exported.call({**small, **handed}, inputs)

            compiled = _compiled(jax.jit(call).lower(large, inputs), quickly=quickly)
        except (KeyError, TypeError, ValueError, RuntimeError, struct.error) as error:
            raise ReleaseError(
                f"jax {jax.__version__} can't run the release's functions ({error}); build it again"
            ) from error
        handed = jax.device_put({name: self.weights[name] for name in large})
        self._reads = frozenset(inputs)
        self._run = lambda inputs: compiled(handed, inputs)
        return self._run

    def _is_constant(self, name: str) -> bool:
        return self.weights[name].nbytes <= _MOST_CONSTANT_BYTES


def compile_all(functions: Iterable[ExportedFunction], *, quickly: bool) -> None:
    """Compile functions side by side; see `ExportedFunction.compile`.

    In a process that uses JAX for nothing before, it then computes on the thread that asks.
    """
    # Handed over, a request would wait for other threads to wake up.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    with ThreadPoolExecutor() as pool:
        for one in [pool.submit(function.compile, quickly=quickly) for function in functions]:
            one.result()


def _compiled(lowered: jax.stages.Lowered, *, quickly: bool) -> jax.stages.Compiled:
    try:
        return lowered.compile(_QUICKLY if quickly else _WELL)
    except RuntimeError:
        # These options are XLA's own, and may be gone in another version.
        return lowered.compile()
