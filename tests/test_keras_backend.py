"""Keras on JAX, or a word that it is not."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from candidfeed import keras_backend
from candidfeed.errors import ConfigError
from candidfeed.keras_backend import compiled_once, use_jax


def test_jax_is_chosen_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "to be restored")
    del os.environ["KERAS_BACKEND"]
    use_jax()
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_another_backend_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ConfigError, match=r"the backend is 'torch'; set KERAS_BACKEND=jax"):
        use_jax()


def test_a_keras_that_is_loaded_on_another_backend_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ConfigError, match="the backend is 'tensorflow'"):
        use_jax()


@pytest.fixture
def no_folder() -> Iterator[None]:
    """As it is outside of these tests: JAX has no folder for what it compiles."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    given = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", given)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_folder")
def test_the_same_arithmetic_of_two_models_is_compiled_once_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import jax
    import jax.numpy as jnp

    monkeypatch.setattr(keras_backend, "_LEAST_SECONDS", 0.0)
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    found = []
    with compiled_once():
        folder = Path(jax.config.jax_compilation_cache_dir)
        for _ in range(2):
            model = jax.jit(lambda x: jnp.tanh(x @ x.T) * 3.25)
            found.append(np.asarray(model(jnp.ones((7, 5)))))
    assert hits.count("/jax/compilation_cache/cache_hits") >= 1
    np.testing.assert_array_equal(found[0], found[1])
    assert not folder.exists()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.usefixtures("no_folder")
def test_a_folder_that_was_given_for_what_is_compiled_stays_in_use(tmp_path: Path) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with compiled_once():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
