"""Keras on JAX, or a word that it is not."""

import os
import sys

import pytest

from candidfeed.errors import ConfigError
from candidfeed.keras_backend import use_jax


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
