"""Which backend Keras runs on: JAX, chosen here and nowhere else; and what it compiles, once."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from candidfeed.errors import ConfigError

# JAX' names of the folder for what is compiled, and of the least time to compile what is kept.
_FOLDER, _LEAST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
# What compiles faster is not worth a file.
_LEAST_SECONDS = 0.1


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


@contextmanager
def compiled_once() -> Iterator[None]:
    """What is compiled for one model serves every other of the same arithmetic, until the end.

    A build trains the same heads several times, each as a model of its own, and compiling takes
    ten times as long as training them. The compiled functions lie in a folder that goes with the
    block: kept for longer, another processor might meet them. A folder that the caller has given
    JAX stays in use instead.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    given, least = (getattr(jax.config, name) for name in (_FOLDER, _LEAST))
    if given:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="candidfeed-compiled-") as folder:
        try:
            jax.config.update(_FOLDER, folder)
            jax.config.update(_LEAST, _LEAST_SECONDS)
            compilation_cache.reset_cache()
            yield
        finally:
            jax.config.update(_FOLDER, None)
            jax.config.update(_LEAST, least)
            compilation_cache.reset_cache()
