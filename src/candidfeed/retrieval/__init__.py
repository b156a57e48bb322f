"""Stage one: from all items to hundreds of candidates."""

from candidfeed.keras_backend import use_jax

use_jax()
