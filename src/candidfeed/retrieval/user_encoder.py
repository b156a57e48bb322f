"""The user tower of a model as one compiled function, for models whose weights go on changing."""

from collections.abc import Callable
from typing import Any

import jax
import keras


def user_encoder(model: Any) -> Callable[[list[Any], dict[str, Any]], Any]:
    """`model.user_vectors` as a function of the values of the model's variables and of its inputs.

    It is compiled once for each shape of the inputs.
    """
    variables = model.variables

    @jax.jit
    def encode(values: list[Any], inputs: dict[str, Any]) -> Any:
        state = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=state):
            return model.user_vectors(inputs)

    return encode
