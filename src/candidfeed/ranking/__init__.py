"""Stage two: from hundreds of candidates to the order in which they are shown."""

from candidfeed.keras_backend import use_jax

use_jax()
