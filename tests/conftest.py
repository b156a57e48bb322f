"""What all tests share: the environment, Hypothesis' profile, and the real data."""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from candidfeed.data.tables import Dataset

# Before any test module imports what reads it. One thread each: the same sums on every machine,
# and implicit warns of a threaded OpenBLAS.
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def ml_100k() -> "Dataset":
    """MovieLens-100K, fetched once into the user's cache."""
    # Here, because it imports Polars, which must find the environment as it is set above.
    from candidfeed.cli.output import cache_folder
    from candidfeed.data.load import load_dataset

    return load_dataset("ml-100k", cache=cache_folder(), now=NOW)
