"""A `keras.Model` whose sparse tables learn: `compile`, `fit`, callbacks and `summary` as ever.

Keras differentiates with respect to whole variables, and a table of millions of rows is one. Here
the forward pass is differentiated with respect to zeros that are added to what each call of a
`SparseEmbedding` gathers; those gradients are the rows'. Several steps run in one compiled loop
whose state is donated, so that tables are changed in place.
"""

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax

from candidfeed.errors import TrainingError
from candidfeed.retrieval.sparse.event_batches import SeededBatches
from candidfeed.retrieval.sparse.tables import SparseEmbedding, recorded

Array = Any
# Trainable, non-trainable, optimiser's and metrics' variables, as Keras hands them round.
State = tuple[list[Array], list[Array], list[Array], list[Array]]
_ALL_WENT_WELL = -1


class SparseModel(keras.Model):
    """Any model with `SparseEmbedding` layers in it, however deep; the rest learns by `optimizer`.

    A subclass defines `call` and either `compute_loss` or a loss given to `compile`, as for any
    `keras.Model`. A sparse layer must not be called inside a loop of JAX (`lax.scan`, an RNN).

    Where the loss or a gradient is NaN or infinite, `fit` stops with an error that names the step;
    the weights stay as they were before it. They are in the model: nothing needs to be loaded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps_done = 0
        self._steps_to_skip = 0
        self._outcome: tuple[int, Array, Array] | None = None

    def compile(self, *args: Any, steps_per_execution: int = 16, **kwargs: Any) -> None:
        """As Keras, except that this many steps are one call of the compiled loop."""
        super().compile(*args, steps_per_execution=steps_per_execution, **kwargs)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError("sparse tables can't be trained with a scaled loss; use float32")

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as `load_model` asks; Keras wants this where `compile` is not its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def sparse_layers(self) -> list[SparseEmbedding]:
        """Each sparse layer once, in the order in which Keras finds them."""
        found = {id(one): one for one in self._flatten_layers() if isinstance(one, SparseEmbedding)}
        return list(found.values())

    @property
    def steps_done(self) -> int:
        """Steps since `fit` began, those of earlier runs of a resumed training included."""
        return self._steps_done

    def resume_at(self, epoch: int, steps_before: int, step: int) -> None:
        """Make a `fit` that is about to begin go on from an earlier run.

        Args:
            epoch: the first one to train, from 0.
            steps_before: steps of the epochs before it.
            step: steps of it that are done; their batches are dealt and passed over.
        """
        # Keras' own BackupAndRestore sets this too: `fit` reads it after `on_train_begin`.
        self._initial_epoch = epoch
        self._steps_done, self._steps_to_skip = steps_before, step

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Keras. `SeededBatches` are dealt in their own order, another one each epoch.

        Raises:
            TrainingError: the loss or a gradient was not finite.
        """
        self._steps_done, self._steps_to_skip, self._outcome = 0, 0, None
        self._initial_epoch = None
        if isinstance(x, SeededBatches):
            kwargs["shuffle"] = False
            # First, so that a checkpoint's own callback finds the epoch's order set.
            kwargs["callbacks"] = [_EpochOrder(x), *(kwargs.get("callbacks") or [])]
        history = super().fit(x, *args, **kwargs)
        self.raise_if_not_finite()
        return history

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras, with the error of `fit`."""
        logs = super().train_on_batch(*args, **kwargs)
        self.raise_if_not_finite()
        return logs

    def train_step(self, state: State, data: Any) -> tuple[dict[str, Array], State]:
        """One step; what a step does to a model whose loss is not finite is nothing."""
        logs, state, *_ = self._checked_step(state, data)
        return logs, state

    def make_train_function(self, force: bool = False) -> None:
        """The function that `fit` calls with its state and the batches that are left."""
        if self.train_function is not None and not force:
            return
        if self.run_eagerly or not self.jit_compile:
            super().make_train_function(force)
            return
        loop = jax.jit(self._loop, donate_argnums=0)

        def train(state: State, iterator: Iterator[Any]) -> tuple[dict[str, Array], State]:
            # Before the next call: from then on the state of the last one is no more.
            self.raise_if_not_finite()
            batches, n_skipped = self._next_batches(iterator)
            logs: dict[str, Array] = {}
            # With no step to do the loop still says which figures there are.
            groups = _groups(batches[n_skipped:], self.steps_per_execution) or [
                (0, _stack(batches[:1], self.steps_per_execution))
            ]
            for n_steps, group in groups:
                if self._failed():
                    break
                logs, state, at, loss = loop(state, group, n_steps)
                self._outcome = (self._steps_done, at, loss)
                self._steps_done += n_steps
            return logs, state

        self.train_function = train

    def _next_batches(self, iterator: Iterator[Any]) -> tuple[list[Any], int]:
        """The batches of one call, and how many of them are to be passed over.

        Raises:
            StopIteration: there are none.
        """
        batches = list(islice(iterator, self.steps_per_execution))
        if not batches:
            raise StopIteration
        n_skipped = min(self._steps_to_skip, len(batches))
        self._steps_to_skip -= n_skipped
        self._steps_done += n_skipped
        return batches, n_skipped

    def _failed(self) -> bool:
        return self._outcome is not None and int(self._outcome[1]) != _ALL_WENT_WELL

    def raise_if_not_finite(self) -> None:
        """Waits for the steps that were begun, and looks whether all went well.

        Raises:
            TrainingError: one did not; the message names it.
        """
        outcome, failed = self._outcome, self._failed()
        self._outcome = None
        if outcome and failed:
            first, at, loss = outcome
            step = first + int(at)
            self._steps_done = step
            what = "a gradient is not finite" if np.isfinite(loss) else f"the loss is {float(loss)}"
            raise TrainingError(
                f"training stopped: {what} at step {step} (counted from 0); the model keeps the "
                "weights from before that step; lower the learning rate or look at that batch"
            )

    def _loop(
        self, state: State, group: Any, n_steps: Array
    ) -> tuple[dict[str, Array], State, Array, Array]:
        """Up to `n_steps` steps; logs, state, the first step that failed (or -1), and its loss."""

        def step(at: Array, state: State) -> tuple[dict[str, Array], State, Array, Array]:
            batch = jax.tree.map(lambda one: lax.dynamic_index_in_dim(one, at, 0, False), group)
            return self._checked_step(state, batch)

        shapes = jax.eval_shape(step, jnp.int32(0), state)
        logs = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes[0])

        def go_on(carry: tuple[Any, ...]) -> Array:
            return (carry[0] < n_steps) & (carry[3] == _ALL_WENT_WELL)

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            at, _, state, *_ = carry
            logs, state, went_well, loss = step(at, state)
            return at + 1, logs, state, jnp.where(went_well, _ALL_WENT_WELL, at), loss

        start = (jnp.int32(0), logs, state, jnp.int32(_ALL_WENT_WELL), jnp.float32(0))
        _, logs, state, failed, loss = lax.while_loop(go_on, body, start)
        return logs, state, failed, loss

    def _checked_step(
        self, state: State, data: Any
    ) -> tuple[dict[str, Array], State, Array, Array]:
        """Logs, the new state (the old one where something is not finite), if it went well, loss.

        The metrics take part in what is kept: a failed step is not in the epoch's mean either.
        """
        trainable, fixed, optimizer, metrics = state
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_of(trainable: list[Array], deltas: list[Array] | None) -> Any:
            with recorded(deltas) as sites:
                loss, aux = self.compute_loss_and_updates(
                    trainable, fixed, metrics, x, y, weight,
                    training=True, optimizer_variables=optimizer,
                )  # fmt: skip
            return loss, (aux, sites.ids), sites

        sites = _calls(lambda: loss_of(trainable, None)[2])
        deltas = [jnp.zeros((*ids.shape, layer.dim)) for layer, ids in sites]
        differentiated = jax.value_and_grad(
            lambda *by: loss_of(*by)[:2], argnums=(0, 1), has_aux=True
        )
        (_, (aux, ids)), (gradients, row_gradients) = differentiated(trainable, deltas)
        loss, y_pred, new_fixed, new_metrics = aux
        new_trainable, new_optimizer = self.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        logs, new_metrics = self._update_metrics_variables(new_metrics, loss, x, y, y_pred, weight)
        went_well = _all_finite([loss, *gradients, *row_gradients])
        calls = _by_layer([layer for layer, _ in sites], ids, row_gradients)
        tables = self._updated_tables(fixed, calls, went_well)
        kept = [
            tables[i] if i in tables else _either(went_well, *pair)
            for i, pair in enumerate(zip(new_fixed, fixed, strict=True))
        ]
        rest = [(new_trainable, trainable), (new_optimizer, optimizer), (new_metrics, metrics)]
        trainable, optimizer, metrics = (
            [_either(went_well, *pair) for pair in zip(*two, strict=True)] for two in rest
        )
        return logs, (trainable, kept, optimizer, metrics), went_well, jnp.float32(loss)

    def _updated_tables(
        self,
        fixed: list[Array],
        calls: list[tuple[SparseEmbedding, Array, Array]],
        go: Array,
    ) -> dict[int, Array]:
        """Values of the variables of sparse layers after a step, by place among the fixed ones."""
        place = {id(one): i for i, one in enumerate(self.non_trainable_variables)}
        own = [place[id(one)] for layer in self.sparse_layers for one in layer.variables]
        tables = {i: fixed[i] for i in own}
        for layer, ids, gradients in calls:
            places = [place[id(one)] for one in layer.state]
            rate = fixed[place[id(layer.learning_rate)]]
            new = layer.updated([fixed[i] for i in places], rate, ids, gradients, go)
            tables.update(zip(places, new, strict=True))
        return tables


class _EpochOrder(keras.callbacks.Callback):
    """Tells the batches which epoch they are asked for."""

    def __init__(self, batches: SeededBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.batches.epoch = epoch


def _groups(batches: list[Any], size: int) -> list[tuple[int, Any]]:
    """Runs of batches of one shape, each stacked and filled up to `size`, with their count."""
    runs = [list(run) for _, run in groupby(batches, key=_shapes)]
    return [(len(run), _stack(run, size)) for run in runs]


def _stack(batches: list[Any], size: int) -> Any:
    return jax.tree.map(lambda *arrays: _stacked(arrays, size), *batches)


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [np.shape(one) for one in jax.tree.leaves(batch)]


def _stacked(arrays: tuple[Any, ...], size: int) -> np.ndarray:
    first = np.asarray(arrays[0])
    stacked = np.zeros((size, *first.shape), first.dtype)
    for place, array in enumerate(arrays):
        stacked[place] = array
    return stacked


def _calls(forward: Callable[[], Any]) -> list[tuple[SparseEmbedding, Any]]:
    """Which sparse layers a forward pass calls, with ids of which shape; nothing is computed."""
    found: list[tuple[SparseEmbedding, Any]] = []

    def watched() -> int:
        sites = forward()
        shapes = [jax.ShapeDtypeStruct(ids.shape, ids.dtype) for ids in sites.ids]
        found.extend(zip(sites.layers, shapes, strict=True))
        return 0

    jax.eval_shape(watched)
    return found


def _by_layer(
    layers: list[SparseEmbedding], ids: list[Array], gradients: list[Array]
) -> list[tuple[SparseEmbedding, Array, Array]]:
    """Each layer once, with the ids [n] and gradients [n, dim] of all its calls end to end."""
    calls = []
    for layer in {id(one): one for one in layers}.values():
        own = [i for i, one in enumerate(layers) if one is layer]
        flat = jnp.concatenate([jnp.ravel(ids[i]) for i in own])
        rows = jnp.concatenate([gradients[i].reshape(-1, layer.dim) for i in own])
        calls.append((layer, flat, rows))
    return calls


def _all_finite(arrays: list[Array]) -> Array:
    # A sum of squares is finite if each part is, and one pass over memory.
    return jnp.isfinite(sum(jnp.sum(jnp.square(one.astype("float32"))) for one in arrays))


def _either(go: Array, new: Array, old: Array) -> Array:
    return jnp.where(go, new, old)
