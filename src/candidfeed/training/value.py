"""The published weighted sum of the heads that a list is ordered by."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from candidfeed.config import suggest
from candidfeed.data.tables import Dataset
from candidfeed.errors import ConfigError
from candidfeed.ranking.calibration import Calibrator, weighted_sum

ENGAGED, LIKED = "engaged", "liked"
HEADS = (ENGAGED, LIKED)
"""The heads of every ranker; further ones are the data set's labels."""


def value_weights(chosen: Mapping[str, float] | None, dataset: Dataset) -> dict[str, float]:
    """A weight for each head; 0 for one that is not named.

    Args:
        chosen: by head; where None, what the data set declares for its labels, or where it declares
            nothing P(engaged) alone.

    Raises:
        ConfigError: a weight is for no head.
    """
    heads = (*HEADS, *(label.name for label in dataset.labels))
    declared = {label.name: label.weight for label in dataset.labels if label.weight}
    weights = declared or {ENGAGED: 1.0} if chosen is None else chosen
    for name in weights:
        if name not in heads:
            raise ConfigError(f"value_weights: no head is named {name!r}{suggest(name, heads)}")
    return {**dict.fromkeys(heads, 0.0), **weights}


def value(
    expected: Mapping[str, NDArray[np.float64]],
    weights: Mapping[str, float],
    calibration: Mapping[str, Calibrator],
) -> NDArray[np.float32]:
    """The weighted sum, float32 of the shape of each head.

    Args:
        expected: by head, what the model says: a probability, or of a count its mean.
    """
    asked = {name: calibration[name](expected[name]) for name, weight in weights.items() if weight}
    return weighted_sum(asked, weights)
