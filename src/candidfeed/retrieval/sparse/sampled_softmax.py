"""Softmax over a catalogue that is too large to score in full: shared negatives, corrected logQ.

For a user u with the positive p the loss is

    -f(u, p) + log( exp f(u, p) + sum over negatives n, n != p, of exp( f(u, n) - logq(n) ) )

where logq(n) is the log of how often n is expected among the draws of this step. So the sum is an
unbiased estimate of the sum over all other items, whatever the negatives are drawn from. The
positive is in the sum with certainty and is not corrected. The gradient is that of the refined
correction of Khrylchenko et al. (RecSys 2025, arXiv 2507.09331): there the positive is left out of
the sum and each example is weighted by 1 - P(p), which is the same thing, term by term.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

Array = Any
Products = Literal["float32", "bfloat16"]
_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_QUICK_FROM_LOGITS = 2**20
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


def quick_products(n_logits: int) -> Products:
    """The type of the products of a step with so many logits: bfloat16 where that saves time.

    On ML-100K and a synthetic world the models are equally good (docs/decisions.md).
    """
    is_worth_it = n_logits >= _QUICK_FROM_LOGITS and _has_bfloat16()
    return "bfloat16" if is_worth_it else "float32"


@cache
def _has_bfloat16() -> bool:
    """Whether JAX computes on a processor that has products of bfloat16."""
    if jax.default_backend() != "cpu":
        return False
    try:
        known = _CPU_INFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(known.split())


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
    products: Products = "float32",
) -> Array:
    """Weighted sum of the losses of a batch, in nats, float32 [].

    A negative that is the example's own positive is left out for that example (accidental hit).

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
        products: what the factors of the three products with shared negatives are rounded to; sums
            are float32, and so is all else. Processors with AVX-512 BF16 do them in half the time.
    """
    user = user / temperature
    own = jnp.sum(user * positive, axis=1, keepdims=True)
    if hard is not None:
        scores = jnp.einsum("bd,bhd->bh", user, hard)
        out = (hard_row == positive_row[:, None]) | (hard_row < 0)
        own = jnp.concatenate([own, jnp.where(out, _LEFT_OUT, scores)], axis=1)
    given = _Given(positive_row, negative_row, negative_logq, weight)
    return _shared_softmax(products, user, own, negative, given)


class _Given(NamedTuple):
    """What no gradient is taken for; as in `sampled_softmax`."""

    positive_row: Array
    negative_row: Array
    logq: Array
    weight: Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shared_softmax(
    products: Products, user: Array, own: Array, negative: Array, given: _Given
) -> Array:
    """The loss, where `own` float32 [batch, 1 + n_hard] scores the positive and hard negatives."""
    across = negative.T.astype(products)

    def add(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
        rows, _, own_rows, taken, weights = chunk
        losses, *_ = _losses(rows, own_rows, taken, across, given)
        return total + jnp.sum(weights * losses), None

    return lax.scan(add, jnp.float32(0), _chunks(products, user, own, given))[0]


def _with_gradients(
    products: Products, user: Array, own: Array, negative: Array, given: _Given
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The loss and its gradients: a chunk's logits are used while they are in cache, then dropped.

    No product takes a transposed left side: XLA's processor kernels are three times slower there.
    """
    n, dim = user.shape
    rounded = negative.astype(products)
    across = lax.optimization_barrier(rounded.T)

    def one(sums: tuple[Array, Array], chunk: tuple[Array, ...]) -> Any:
        rows, rows_across, own_rows, taken, weights = chunk
        losses, shared, p_own, total = _losses(rows, own_rows, taken, across, given)
        by_total = weights / total
        shared = shared.astype(products)
        d_user = _product(shared, rounded) * by_total[:, None]
        d_own = weights[:, None] * p_own.at[:, 0].add(-1.0)
        loss = sums[0] + jnp.sum(weights * losses)
        d_negative = sums[1] + _product((rows_across * by_total).astype(products), shared)
        return (loss, d_negative), (d_user, d_own)

    start = (jnp.float32(0), jnp.zeros((dim, len(negative)), jnp.float32))
    (loss, d_negative), (d_user, d_own) = lax.scan(one, start, _chunks(products, user, own, given))
    d_user, d_own = d_user.reshape(-1, dim)[:n], d_own.reshape(-1, own.shape[1])[:n]
    return loss, (d_user, d_own, d_negative.T)


def _backward(
    _products: Products, gradients: tuple[Array, Array, Array], by: Array
) -> tuple[Array, Array, Array, None]:
    d_user, d_own, d_negative = (by * one for one in gradients)
    return d_user, d_own, d_negative, None


_shared_softmax.defvjp(_with_gradients, _backward)


def _losses(
    rows: Array, own: Array, taken: Array, across: Array, given: _Given
) -> tuple[Array, Array, Array, Array]:
    """Per row: its loss, exp of the negatives' logits, P of its own logits, and exp's sum.

    Both exps are less the row's greatest logit.
    """
    logits = _product(rows, across) - given.logq
    logits = jnp.where(taken[:, None] == given.negative_row, _LEFT_OUT, logits)
    greatest = jnp.maximum(own.max(axis=1), logits.max(axis=1, initial=_LEFT_OUT))
    shared, mine = jnp.exp(logits - greatest[:, None]), jnp.exp(own - greatest[:, None])
    total = shared.sum(axis=1) + mine.sum(axis=1)
    return jnp.log(total) + greatest - own[:, 0], shared, mine / total[:, None], total


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _chunks(products: Products, user: Array, own: Array, given: _Given) -> tuple[Array, ...]:
    """The batch as [chunks, rows, ...], filled up with rows of weight 0.

    Users, users turned, scores of their own, the positives' rows, weights.
    """
    n = len(user)
    # Never one chunk alone: XLA drops a loop of one, turns its products round, and then has no
    # processor kernel for those of bfloat16.
    size = min(-(-n // 2), _CHUNK_ON_CPU) if jax.default_backend() == "cpu" else n
    split = partial(_split, size=size)
    rows = split(user.astype(products))
    across = jnp.swapaxes(rows, 1, 2)
    return rows, across, split(own), split(given.positive_row), split(given.weight)


def _split(array: Array, *, size: int) -> Array:
    left = -len(array) % size
    padded = jnp.pad(array, ((0, left), *((0, 0),) * (array.ndim - 1)))
    return padded.reshape(-1, size, *array.shape[1:])
