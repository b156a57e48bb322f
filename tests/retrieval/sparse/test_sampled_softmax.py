"""The loss for large catalogues, against a slow loop, and its gradients, against JAX' own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from candidfeed.retrieval.sparse import sampled_softmax as module
from candidfeed.retrieval.sparse.sampled_softmax import (
    Products,
    log_expected_draws,
    quick_products,
    sampled_softmax,
)

BATCH, SHARED, HARD, DIM, N_ITEMS = 7, 5, 2, 3, 9


def batch(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    return {
        "user": normal(BATCH, DIM),
        "positive": normal(BATCH, DIM),
        "negative": normal(SHARED, DIM),
        "hard": normal(BATCH, HARD, DIM),
        "positive_row": rng.integers(N_ITEMS, size=BATCH, dtype=np.int32),
        # The first is some example's positive: an accidental hit.
        "negative_row": np.arange(SHARED, dtype=np.int32),
        "negative_logq": np.log(rng.uniform(0.1, 2.0, SHARED)).astype(np.float32),
        "hard_row": rng.integers(-1, N_ITEMS, size=(BATCH, HARD), dtype=np.int32),
        "weight": rng.uniform(0.0, 1.0, BATCH).astype(np.float32),
    }


def slow_loss(given: dict[str, np.ndarray], temperature: float) -> float:
    """One example, one negative at a time, in double precision."""
    total = 0.0
    for b in range(BATCH):
        user = given["user"][b].astype(np.float64) / temperature
        score = float(user @ given["positive"][b])
        sum_exp = np.exp(score)
        for n in range(SHARED):
            if given["negative_row"][n] != given["positive_row"][b]:
                sum_exp += np.exp(user @ given["negative"][n] - given["negative_logq"][n])
        for h in range(HARD):
            if given["hard_row"][b, h] not in (given["positive_row"][b], -1):
                sum_exp += np.exp(user @ given["hard"][b, h])
        total += float(given["weight"][b]) * (np.log(sum_exp) - score)
    return total


def plain_loss(given: dict[str, np.ndarray]) -> jax.Array:
    """The same in a few lines of JAX, differentiated by JAX."""
    own = jnp.sum(given["user"] * given["positive"], axis=1, keepdims=True)
    shared = given["user"] @ given["negative"].T - given["negative_logq"]
    hits = given["positive_row"][:, None] == given["negative_row"]
    hard = jnp.einsum("bd,bhd->bh", given["user"], given["hard"])
    out = (given["hard_row"] == given["positive_row"][:, None]) | (given["hard_row"] < 0)
    logits = [own, jnp.where(hits, -1e30, shared), jnp.where(out, -1e30, hard)]
    losses = jax.nn.logsumexp(jnp.concatenate(logits, axis=1), axis=1) - own[:, 0]
    return jnp.sum(given["weight"] * losses)


@pytest.mark.parametrize("chunk", [2, 7, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_loss_is_that_of_a_slow_loop(
    chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ON_CPU", chunk)
    given = batch()
    assert (given["positive_row"] == given["negative_row"][:, None]).any()
    found = float(sampled_softmax(**given, temperature=temperature))
    assert found == pytest.approx(slow_loss(given, temperature), rel=1e-5)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_its_gradients_are_those_that_jax_takes_of_the_plain_form(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ON_CPU", chunk)
    given = batch(1)
    learned = ("user", "positive", "negative", "hard")

    def gradients(loss) -> dict[str, jax.Array]:
        return jax.grad(lambda some: loss({**given, **some}))({k: given[k] for k in learned})

    ours, expected = gradients(lambda g: sampled_softmax(**g)), gradients(plain_loss)
    for name in learned:
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-6, err_msg=name)


def test_its_gradient_is_that_of_the_refined_logq_correction() -> None:
    """There the positive is not in the sum, and each example is weighted by 1 - P(positive)."""
    given = {k: v for k, v in batch(2).items() if not k.startswith("hard")}

    def refined(user: jax.Array) -> jax.Array:
        own = jnp.sum(user * given["positive"], axis=1)
        shared = user @ given["negative"].T - given["negative_logq"]
        hits = given["positive_row"][:, None] == given["negative_row"]
        others = jax.nn.logsumexp(jnp.where(hits, -1e30, shared), axis=1)
        p_positive = jax.lax.stop_gradient(jax.nn.sigmoid(own - others))
        return jnp.sum(given["weight"] * (1 - p_positive) * (others - own))

    ours = jax.grad(lambda user: sampled_softmax(**{**given, "user": user}))(given["user"])
    np.testing.assert_allclose(ours, jax.grad(refined)(given["user"]), atol=1e-6)


def test_the_weight_of_an_outer_factor_reaches_the_gradients() -> None:
    given = batch(3)
    one = jax.grad(lambda user: sampled_softmax(**{**given, "user": user}))(given["user"])
    five = jax.grad(lambda user: 5 * sampled_softmax(**{**given, "user": user}))(given["user"])
    np.testing.assert_allclose(five, 5 * one, atol=1e-5)


def test_scores_far_beyond_what_exp_can_hold_give_finite_numbers() -> None:
    given = batch(4, scale=60.0)
    loss, gradient = jax.value_and_grad(lambda user: sampled_softmax(**{**given, "user": user}))(
        given["user"]
    )
    assert float(loss) == pytest.approx(float(plain_loss(given)), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_an_example_all_of_whose_negatives_are_its_positive_has_no_loss() -> None:
    given = {k: v for k, v in batch(5).items() if not k.startswith("hard")}
    given["positive_row"][:] = 4
    given["negative_row"][:] = 4
    loss, gradient = jax.value_and_grad(lambda user: sampled_softmax(**{**given, "user": user}))(
        given["user"]
    )
    assert float(loss) == 0.0
    assert not np.asarray(gradient).any()


def test_expected_draws_count_both_ways_of_being_drawn() -> None:
    share = np.array([0.5, 0.25, 0.25, 0.0])
    found = log_expected_draws(np.array([0, 3]), share, n_uniform=8, n_in_batch=4)
    np.testing.assert_allclose(found, np.log([8 / 4 + 4 * 0.5, 8 / 4]), rtol=1e-6)
    assert np.isfinite(log_expected_draws(np.array([3]), share, n_uniform=0, n_in_batch=4)).all()


def test_the_corrected_sum_estimates_the_sum_over_all_other_items() -> None:
    """Mean over many draws of the sum over negatives, against the full softmax' sum."""
    rng = np.random.default_rng(0)
    scores, share = rng.normal(size=N_ITEMS), rng.dirichlet(np.ones(N_ITEMS))
    n_uniform, n_in_batch, n_draws, positive = 6, 4, 40_000, 2
    uniform = rng.integers(N_ITEMS, size=(n_draws, n_uniform))
    drawn = np.hstack([uniform, rng.choice(N_ITEMS, (n_draws, n_in_batch), p=share)])
    logq = log_expected_draws(drawn, share, n_uniform=n_uniform, n_in_batch=n_in_batch)
    sums = np.where(drawn == positive, 0.0, np.exp(scores[drawn] - logq)).sum(axis=1)
    expected = np.delete(np.exp(scores), positive).sum()
    assert sums.mean() == pytest.approx(expected, abs=4 * sums.std() / np.sqrt(n_draws))


@pytest.mark.parametrize(
    ("n", "n_negatives", "dim"),
    [(1, 1, 1), (3, 500, 64), (100, 48, 16), (1024, 1024, 64), (1025, 100, 20), (4096, 8, 33)],
)
def test_products_of_bfloat16_are_close_whatever_the_shapes(
    n: int, n_negatives: int, dim: int
) -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(rows, dim)).astype(np.float32) for rows in (n, n, n_negatives)]
    scaled = [one / dim**0.5 for one in vectors]

    def loss(user: jax.Array, positive: jax.Array, negative: jax.Array, how: Products) -> jax.Array:
        return sampled_softmax(
            user,
            positive,
            negative,
            positive_row=np.arange(n, dtype=np.int32),
            negative_row=np.arange(n_negatives, dtype=np.int32),
            negative_logq=np.zeros(n_negatives, np.float32),
            weight=np.full(n, 1 / n, np.float32),
            products=how,
        )

    differentiated = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    exact, exact_by = differentiated(*scaled, "float32")
    rounded, rounded_by = differentiated(*scaled, "bfloat16")
    assert float(rounded) == pytest.approx(float(exact), rel=1e-3)
    for one, other in zip(exact_by, rounded_by, strict=True):
        # A bfloat16 has eight binary digits.
        np.testing.assert_allclose(other, one, atol=2**-6 * float(np.abs(one).max()))


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx512_bf16 sse", "bfloat16"), ("sse", "float32")]
)
def test_products_are_rounded_where_the_processor_gains_by_it_and_the_step_is_large(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(module, "_CPU_INFO", tmp_path / "cpuinfo")
    module._has_bfloat16.cache_clear()
    assert quick_products(2**20) == expected
    assert quick_products(2**20 - 1) == "float32"
    module._has_bfloat16.cache_clear()
