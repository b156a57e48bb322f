"""The table of what was published."""

import pytest

from candidfeed.data.splits import PROTOCOLS
from candidfeed.errors import ConfigError
from candidfeed.reference.published import REFERENCES, Reference, find_reference


def test_the_five_classic_models_are_there_by_name() -> None:
    assert list(REFERENCES) == [
        "tfrs-retrieval",
        "tfrs-ranking",
        "keras-dot",
        "keras-deep",
        "keras-hybrid",
    ]
    assert all(name == reference.name for name, reference in REFERENCES.items())


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=lambda reference: reference.name)
def test_the_protocol_of_the_published_figures_is_one_of_ours(reference: Reference) -> None:
    assert reference.protocol in PROTOCOLS


def test_a_misspelt_name_is_told_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'keras-deep'.*'tfrs-retrieval'") as error:
        find_reference("keras-depp")
    assert error.value.exit_code == 2
