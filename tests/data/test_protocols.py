"""The cards of protocols: the page says what the program prints."""

from pathlib import Path

import pytest

from candidfeed.data.protocols import PROTOCOLS
from candidfeed.evaluation.report import protocol_card

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocols.md"


def sections() -> dict[str, list[str]]:
    page = PAGE.read_text(encoding="utf-8")
    parts = [part.splitlines() for part in page.split("\n## ")[1:]]
    return {lines[0]: [line for line in lines[1:] if line.startswith("- ")] for lines in parts}


def test_the_page_of_protocols_has_each_protocol_and_no_other() -> None:
    assert [name for name, lines in sections().items() if lines] == list(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_page_and_the_printed_card_say_the_same(name: str) -> None:
    printed = [line.plain for line in protocol_card(name)]
    assert printed[0].strip() == f"Protocol {name}"
    assert [f"- {line}" for line in printed[1:]] == sections()[name]


def test_a_protocol_without_a_card_prints_nothing() -> None:
    assert protocol_card("put together by hand") == []
