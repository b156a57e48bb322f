"""The classic models, by name: what this project grows out of, as published."""

from candidfeed.keras_backend import use_jax

use_jax()
