"""What was published of each classic model: its settings, its figures, and where they stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from candidfeed.config import suggest
from candidfeed.errors import ConfigError

Kind = Literal["retrieval", "rating"]


@dataclass(frozen=True)
class Reference:
    """A classic model's settings and figures, as published.

    Attributes:
        kind: what it predicts: which item comes next, or which rating it gets.
        protocol: the split that the published figures are of.
        reshuffle: whether each epoch sees the rows in another order. The TFRS tutorials cache
            their batches, so that each epoch sees the same ones.
        validation_share: the last share of the train rows is kept out of training and watched;
            0 where the authors train on all of them: then the test rows are watched. Nothing is
            decided by what is watched.
        figures: metric to the published value, on the test rows of ml-100k.
        source: the title and authors of what it was published in.
    """

    name: str
    summary: str
    kind: Kind
    protocol: str
    epochs: int
    batch_size: int
    reshuffle: bool
    validation_share: float
    figures: Mapping[str, float]
    source: str


_TFRS = "TensorFlow Recommenders tutorial 'Recommending movies: {}'"
_NOTEBOOK = (
    "notebook 'Explicit Feedback Neural Recommender Systems', M2 Data Science Paris-Saclay "
    "(O. Grisel, C. Ollion)"
)

REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        reference.name: reference
        for reference in (
            Reference(
                name="tfrs-retrieval",
                summary="two 32-d id towers, in-batch softmax, Adagrad 0.5",
                kind="retrieval",
                protocol="random",
                epochs=10,
                batch_size=8192,
                reshuffle=False,
                validation_share=0.0,
                figures={"top@100/seen": 0.188},
                source=_TFRS.format("retrieval"),
            ),
            Reference(
                name="tfrs-ranking",
                summary="32-d embeddings, dense 256-64-1, squared error, Adagrad 0.1",
                kind="rating",
                protocol="random",
                epochs=3,
                batch_size=8192,
                reshuffle=False,
                validation_share=0.0,
                figures={"rmse": 1.11},
                source=_TFRS.format("ranking"),
            ),
            Reference(
                name="keras-dot",
                summary="64-d embeddings, dot product, absolute error, Adam",
                kind="rating",
                protocol="keras-notebook",
                epochs=10,
                batch_size=64,
                reshuffle=True,
                validation_share=0.1,
                figures={"mse": 0.903, "mae": 0.735},
                source=_NOTEBOOK,
            ),
            Reference(
                name="keras-deep",
                summary="64-d embeddings, concatenated, dropout 0.5, dense 64-1, absolute error",
                kind="rating",
                protocol="keras-notebook",
                epochs=10,
                batch_size=64,
                reshuffle=True,
                validation_share=0.1,
                figures={"mse": 0.889, "mae": 0.735},
                source=_NOTEBOOK,
            ),
            Reference(
                name="keras-hybrid",
                summary="64-d embeddings and metadata, dense 64-64-1, dropout 0.3, absolute error",
                kind="rating",
                protocol="keras-notebook",
                epochs=10,
                batch_size=64,
                reshuffle=True,
                validation_share=0.1,
                figures={"mse": 0.863, "mae": 0.718},
                source=_NOTEBOOK,
            ),
        )
    }
)


def find_reference(name: str) -> Reference:
    """The classic model of this name.

    Raises:
        ConfigError: there is none; the message names the nearest and lists all.
    """
    if name not in REFERENCES:
        raise ConfigError(f"no classic model {name!r}{suggest(name, list(REFERENCES))}")
    return REFERENCES[name]
