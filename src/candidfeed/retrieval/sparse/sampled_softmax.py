"""Softmax over a catalogue that is too large to score in full: shared negatives, corrected logQ.

For a user u with the positive p the loss is

    -f(u, p) + log( exp f(u, p) + sum over negatives n, n != p, of exp( f(u, n) - logq(n) ) )

where logq(n) is the log of how often n is expected among the draws of this step. So the sum is an
unbiased estimate of the sum over all other items, whatever the negatives are drawn from. The
positive is in the sum with certainty and is not corrected. The gradient is that of the refined
correction of Khrylchenko et al. (RecSys 2025, arXiv 2507.09331): there the positive is left out of
the sum and each example is weighted by 1 - P(p), which is the same thing, term by term.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

Array = Any
_LEFT_OUT = -1e30
# 1,024 x 1,024 float32 logits are 4 MiB: with them the three products of a chunk stay in cache.
_CHUNK_ON_CPU = 1024


def log_expected_draws(
    items: NDArray[np.integer], share: NDArray[np.floating], *, n_uniform: int, n_in_batch: int
) -> NDArray[np.float32]:
    """Natural log of how often each item is expected among the shared negatives of a step.

    Args:
        items: rows of items, any shape.
        share: of each item, its share of all events, float [n_items].
        n_uniform: negatives drawn uniformly from all items.
        n_in_batch: negatives that are positives of other examples, so drawn by `share`.

    Source: Yang et al., WWW 2020 companion (mixed negative sampling).
    """
    expected = n_uniform / len(share) + n_in_batch * share[items]
    return np.log(np.maximum(expected, np.finfo(np.float32).tiny)).astype(np.float32)


def sampled_softmax(
    user: Array,
    positive: Array,
    negative: Array,
    *,
    positive_row: Array,
    negative_row: Array,
    negative_logq: Array,
    weight: Array,
    temperature: float = 1.0,
    hard: Array = None,
    hard_row: Array = None,
) -> Array:
    """Weighted sum of the losses of a batch, in nats, float32 [].

    A negative that is the example's own positive is left out for that example (accidental hit).

    Vectors may be bfloat16 (Keras' `mixed_bfloat16`): then the products of the shared negatives
    take bfloat16 and sum in float32, which processors with AVX-512 BF16 do in half the time.
    Everything else is float32 in any case.

    Args:
        user, positive: float32 [batch, dim]; row i of `positive` is what user i took.
        negative: float32 [n, dim], shared by all examples.
        positive_row: int32 [batch], which item each positive is.
        negative_row: int32 [n], likewise.
        negative_logq: float32 [n], log of the expected number of draws (`log_expected_draws`).
        weight: float32 [batch]; 1 / batch gives the mean. No gradient is taken for it.
        temperature: divides all scores before anything else; > 0.
        hard: float32 [batch, n_hard, dim], further negatives of each example alone. They are not
            drawn at random, so each counts once, uncorrected.
        hard_row: int32 [batch, n_hard], which items they are; a negative row is no item.
    """
    exact = user.astype(jnp.float32) / temperature
    own = jnp.sum(exact * positive, axis=1, keepdims=True)
    if hard is not None:
        scores = jnp.einsum("bd,bhd->bh", exact, hard.astype(jnp.float32))
        out = (hard_row == positive_row[:, None]) | (hard_row < 0)
        own = jnp.concatenate([own, jnp.where(out, _LEFT_OUT, scores)], axis=1)
    user = exact.astype(user.dtype)
    return _shared_softmax(user, own, negative, positive_row, negative_row, negative_logq, weight)


@jax.custom_vjp
def _shared_softmax(
    user: Array,
    own: Array,
    negative: Array,
    positive_row: Array,
    negative_row: Array,
    logq: Array,
    weight: Array,
) -> Array:
    """The loss, where `own` float32 [batch, 1 + n_hard] scores the positive and hard negatives."""
    chunks = _chunks(user, own, positive_row, weight)

    def add(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
        rows, _, own_rows, taken, weights = chunk
        losses, *_ = _losses(rows, own_rows, taken, negative.T, negative_row, logq)
        return total + jnp.sum(weights * losses), None

    return lax.scan(add, jnp.float32(0), chunks)[0]


def _with_gradients(
    user: Array,
    own: Array,
    negative: Array,
    positive_row: Array,
    negative_row: Array,
    logq: Array,
    weight: Array,
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The loss and its gradients: a chunk's logits are used while they are in cache, then dropped.

    No product takes a transposed left side: XLA's processor kernels are three times slower there.
    """
    n, dim = user.shape
    across = lax.optimization_barrier(negative.T)

    def one(sums: tuple[Array, Array], chunk: tuple[Array, ...]) -> Any:
        rows, rows_across, own_rows, taken, weights = chunk
        losses, shared, p_own, total = _losses(rows, own_rows, taken, across, negative_row, logq)
        by_total = weights / total
        d_user = _product(shared, negative) * by_total[:, None]
        d_own = weights[:, None] * p_own.at[:, 0].add(-1.0)
        loss = sums[0] + jnp.sum(weights * losses)
        d_negative = sums[1] + _product((rows_across * by_total).astype(user.dtype), shared)
        return (loss, d_negative), (d_user, d_own)

    start = (jnp.float32(0), jnp.zeros((dim, len(negative)), jnp.float32))
    (loss, d_negative), (d_user, d_own) = lax.scan(
        one, start, _chunks(user, own, positive_row, weight)
    )
    d_user, d_own = d_user.reshape(-1, dim)[:n], d_own.reshape(-1, own.shape[1])[:n]
    return loss, (d_user.astype(user.dtype), d_own, d_negative.T.astype(negative.dtype))


def _losses(
    rows: Array, own: Array, taken: Array, across: Array, negative_row: Array, logq: Array
) -> tuple[Array, Array, Array, Array]:
    """Per row: its loss, exp of the negatives' logits, P of its own logits, and exp's sum.

    Both exps are less the row's greatest logit.
    """
    logits = _product(rows, across) - logq
    logits = jnp.where(taken[:, None] == negative_row, _LEFT_OUT, logits)
    greatest = jnp.maximum(own.max(axis=1), logits.max(axis=1, initial=_LEFT_OUT))
    shared, mine = jnp.exp(logits - greatest[:, None]), jnp.exp(own - greatest[:, None])
    total = shared.sum(axis=1) + mine.sum(axis=1)
    return jnp.log(total) + greatest - own[:, 0], shared, mine / total[:, None], total


def _product(left: Array, right: Array) -> Array:
    """In the type of the vectors among the two, summed in float32."""
    kind = jnp.bfloat16 if jnp.bfloat16 in (left.dtype, right.dtype) else jnp.float32
    return jnp.matmul(left.astype(kind), right.astype(kind), preferred_element_type=jnp.float32)


def _chunks(user: Array, own: Array, positive_row: Array, weight: Array) -> tuple[Array, ...]:
    """The batch as [chunks, rows, ...], filled up with rows of weight 0."""
    n = len(user)
    size = min(n, _CHUNK_ON_CPU) if jax.default_backend() == "cpu" else n
    split = partial(_split, size=size)
    rows = split(user)
    return rows, jnp.swapaxes(rows, 1, 2), split(own), split(positive_row), split(weight)


def _split(array: Array, *, size: int) -> Array:
    left = -len(array) % size
    padded = jnp.pad(array, ((0, left), *((0, 0),) * (array.ndim - 1)))
    return padded.reshape(-1, size, *array.shape[1:])


def _forward(*arguments: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _with_gradients(*arguments)


def _backward(gradients: tuple[Array, Array, Array], by: Array) -> tuple[Array, ...]:
    d_user, d_own, d_negative = (by.astype(one.dtype) * one for one in gradients)
    return d_user, d_own, d_negative, None, None, None, None


_shared_softmax.defvjp(_forward, _backward)
