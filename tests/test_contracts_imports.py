"""What serves requests starts without training code, and what is small starts small."""

import subprocess
import sys

import pytest

TRAINING = {"keras", "keras_rs", "tensorflow", "implicit", "torch"}
HEAVY = TRAINING | {"faiss", "jax", "numpy", "polars", "scipy", "sklearn"}


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh process holds once it has imported `module`."""
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-W", "error", "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "module", ["candidfeed.feed", "candidfeed.release.bundle", "candidfeed.store.store"]
)
def test_the_serving_path_loads_no_training_code(module: str) -> None:
    assert loaded_by(module) & TRAINING == set()


@pytest.mark.parametrize(
    "module",
    ["candidfeed", "candidfeed.cli.app", "candidfeed.release.storage", "candidfeed.store.store"],
)
def test_what_must_start_at_once_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module) & HEAVY == set()
