"""Embedding tables of millions of rows: a step reads and writes the rows of its batch, no others.

The table and the state of its optimiser are non-trainable variables. `SparseModel`
(`model.py`) takes the gradient with respect to the rows that a batch gathers and hands it to
`SparseEmbedding.updated`. In any other model the layer is a fixed lookup.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import keras
from jax import lax

from candidfeed.data.memory import require_memory
from candidfeed.retrieval.sparse.memory import table_bytes

Array = Any
Rule = Literal["adagrad", "sgd"]
_TINY = 1e-8
_ROWS_AT_ONCE = 16_384
_GROUP = 4


@dataclass
class CallSites:
    """What the sparse layers did in one traced forward pass, in the order of their calls.

    Attributes:
        deltas: zeros that are added to what each call gathers, so that there is something to
            differentiate by; None while the calls are only counted.
        layers: the layer of each call.
        ids: int32, any shape, of each call.
    """

    deltas: list[Array] | None
    layers: list["SparseEmbedding"] = field(default_factory=list)
    ids: list[Array] = field(default_factory=list)

    def visit(self, layer: "SparseEmbedding", ids: Array, rows: Array) -> Array:
        self.layers.append(layer)
        self.ids.append(ids)
        return rows if self.deltas is None else rows + self.deltas[len(self.ids) - 1]


_open: list[CallSites] = []


@contextmanager
def recorded(deltas: list[Array] | None) -> Iterator[CallSites]:
    """Watch the calls of sparse layers."""
    _open.append(CallSites(deltas))
    try:
        yield _open[-1]
    finally:
        _open.pop()


@keras.saving.register_keras_serializable("candidfeed")
class SparseEmbedding(keras.layers.Layer):
    """Rows of a table by their ids, trained row by row.

    Input: ids int [...]; output: float32 [..., dim] (or the layer's compute type). An id outside
    0 .. n_rows - 1, such as -1 or n_rows, is padding: zeros come out, and nothing is learned.

    The table is allocated when the layer is made. Both rules equal their dense form: `sgd` takes
    `learning_rate` times the gradient off a row; `adagrad` (row-wise, as in DLRM) divides that by
    the root of the row's running sum of mean squared gradients. What one step asks of one row,
    however often and from whatever call, is summed first.

    Args:
        n_rows, dim: the table's shape.
        rule: how rows learn.
        learning_rate: becomes a variable of the layer, so a callback can assign another.
        stddev: of the normal distribution that the table starts from.
        seed: of that start.
        initial_accumulator: what the running sum starts from (`adagrad`).

    Raises:
        ValueError: a size is below 1, or there is no such rule.
        DataError: the table does not fit in the memory that is available.
    """

    def __init__(
        self,
        n_rows: int,
        dim: int,
        *,
        rule: Rule = "adagrad",
        learning_rate: float = 0.1,
        stddev: float = 0.05,
        seed: int = 0,
        initial_accumulator: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if n_rows < 1 or dim < 1:
            raise ValueError(f"a table needs at least one row and one column, not {n_rows} x {dim}")
        if rule not in ("adagrad", "sgd"):
            raise ValueError(f"no rule {rule!r} (there are: adagrad, sgd)")
        self.n_rows, self.dim, self.rule, self.stddev, self.seed = n_rows, dim, rule, stddev, seed
        self.initial_accumulator = initial_accumulator
        self._started_with = learning_rate
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        what = f"{self.name}: a table of {self.n_rows:,} x {self.dim} float32"
        require_memory(table_bytes(self.n_rows, self.dim, rule=self.rule), what)
        self.table = self._variable("table", (self.n_rows, self.dim), self._start)
        self.learning_rate = self._variable("learning_rate", (), self._started_with)
        self.accumulator = (
            self._variable("accumulator", (self.n_rows,), self.initial_accumulator)
            if self.rule == "adagrad"
            else None
        )
        self.built = True

    def _variable(self, name: str, shape: tuple[int, ...], start: Any) -> keras.Variable:
        initializer = start if callable(start) else keras.initializers.Constant(start)
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, dtype="float32", trainable=False
        )

    def _start(self, shape: tuple[int, int], dtype: Any = None) -> Array:
        return _normal_rows(self.seed, self.stddev, n_rows=shape[0], dim=shape[1])

    @property
    def state(self) -> list[keras.Variable]:
        """The variables that a step writes: the table, and the accumulator where there is one."""
        return [self.table] if self.accumulator is None else [self.table, self.accumulator]

    def call(self, ids: Array) -> Array:
        known, at = self._places(ids)
        rows = jnp.where(known[..., None], _gathered(jnp.asarray(self.table.value), at), 0.0)
        if _open:
            rows = _open[-1].visit(self, jnp.asarray(ids), rows)
        return keras.ops.cast(rows, self.compute_dtype)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*ids.shape, self.dim), dtype=self.compute_dtype)

    def _places(self, ids: Array) -> tuple[Array, Array]:
        ids = jnp.asarray(ids, jnp.int32)
        known = (ids >= 0) & (ids < self.n_rows)
        return known, jnp.where(known, ids, 0)

    def updated(
        self, state: list[Array], learning_rate: Array, ids: Array, gradients: Array, go: Array
    ) -> list[Array]:
        """The state after one step; as it was where `go` is false.

        Args:
            state: values of `self.state`.
            ids: int [n], of all calls of the step; repeated ones are summed.
            gradients: float32 [n, dim], with respect to the rows that came out.
            go: bool [].
        """
        known, at = self._places(ids)
        rows, sums = sum_repeated(at, jnp.where(known[:, None] & go, gradients, 0.0))
        inside: dict[str, Any] = {"mode": "promise_in_bounds", "indices_are_sorted": True}
        table, *accumulators = state
        step = learning_rate * sums
        if accumulators:
            squares = jnp.mean(sums * sums, axis=1)
            accumulators = [accumulators[0].at[rows].add(squares, **inside)]
            seen = accumulators[0].at[rows].get(**inside)
            step = step / (jnp.sqrt(seen) + _TINY)[:, None]
        # The further places of a repeated row add zero to it.
        return [table.at[rows].add(-step, **inside), *accumulators]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n_rows": self.n_rows, "dim": self.dim, "rule": self.rule,
                "learning_rate": self._started_with, "stddev": self.stddev, "seed": self.seed,
                "initial_accumulator": self.initial_accumulator}  # fmt: skip


def sum_repeated(ids: Array, values: Array) -> tuple[Array, Array]:
    """Sums the values of each id, in the order in which they stand.

    Half the time of sorting ids together with their places, which XLA does by a slower kernel.

    Args:
        ids: int32 [n].
        values: float32 [n, dim].

    Returns:
        The ids in ascending order, int32 [n], and the sums, float32 [n, dim]: an id's sum stands
        at the first of its places, and zeros at the others.
    """
    in_order = lax.sort(ids, is_stable=False)
    first = jnp.searchsorted(in_order, ids, method="scan")
    return in_order, jnp.zeros_like(values).at[first].add(values, mode="promise_in_bounds")


def _gathered(table: Array, at: Array) -> Array:
    """Rows of a table, float32 [..., dim], by places that are in it.

    XLA's processor kernel is three times as fast on rows of small groups, and if nothing is fused
    to it (8,192 rows of 64 from 1M: 0.5 ms against 1.7).
    """
    n_rows, dim = table.shape
    if dim % _GROUP:
        return table.at[at].get(mode="promise_in_bounds")
    groups = table.reshape(n_rows, dim // _GROUP, _GROUP).at[at].get(mode="promise_in_bounds")
    return lax.optimization_barrier(groups.reshape(*at.shape, dim))


@partial(jax.jit, static_argnames=("n_rows", "dim"))
def _normal_rows(seed: Array, stddev: Array, *, n_rows: int, dim: int) -> Array:
    """Random float32 [n_rows, dim], made in parts: all at once would need the memory thrice."""
    size = min(n_rows, _ROWS_AT_ONCE)
    key = jax.random.key(seed)

    def fill(part: Array, table: Array) -> Array:
        drawn = jax.random.normal(jax.random.fold_in(key, part), (size, dim))
        start = jnp.minimum(part * size, n_rows - size)
        return lax.dynamic_update_slice(table, stddev * drawn, (start, 0))

    parts = math.ceil(n_rows / size)
    return lax.fori_loop(0, parts, fill, jnp.zeros((n_rows, dim), jnp.float32))
