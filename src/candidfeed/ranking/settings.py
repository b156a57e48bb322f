"""How the ranker is built and trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankerSettings:
    """How the ranker is built and trained.

    Attributes:
        features: what the engagement head reads, a name in `feature_choice.READABLE`.
        dim: length of a member's taste vectors.
        members: taste models that are averaged.
        n_draws: of the posterior of a Bayesian factorisation, mixed with the taste models where
            ratings are few enough (`posterior_training.pays`); 0 for none.
        draw_dim: length of a draw's vectors.
        forget_user: share of the lists whose user is trained as an unknown one.
        l2: weight of the squared taste vectors, per row of the batch.
        learning_rate: of Adam; for the taste trunk it falls to a tenth along a cosine.
        weight_decay: of the engagement head.
        n_epochs: passes over the ratings; over candidate lists at most, of many fewer.
        list_length: rated rows of one user in a batch.
        lists_per_batch: users a step.
    """

    features: str = "all"
    dim: int = 12
    members: int = 8
    n_draws: int = 32
    draw_dim: int = 10
    forget_user: float = 0.3
    l2: float = 0.001
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    n_epochs: int = 8
    list_length: int = 128
    lists_per_batch: int = 16
