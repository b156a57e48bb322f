"""Which backend Keras runs on: JAX, chosen here and nowhere else."""

import os
import sys

from candidfeed.errors import ConfigError


def use_jax() -> None:
    """Make Keras run on JAX; to be called before anything imports Keras.

    Raises:
        ConfigError: another backend is asked for in the environment, or Keras is loaded with one.
    """
    chosen = os.environ.setdefault("KERAS_BACKEND", "jax")
    if "keras" in sys.modules:
        import keras

        chosen = keras.backend.backend()
    if chosen != "jax":
        raise ConfigError(
            f"candidfeed needs Keras on JAX, but the backend is {chosen!r}; "
            "set KERAS_BACKEND=jax before Keras is imported"
        )
