"""docs/protocol.md and the tests speak of the same rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def rules() -> list[int]:
    """The numbers of the document's headings."""
    return [int(number) for number in re.findall(r"^## (\d+)\. ", DOCUMENT.read_text(), re.MULTILINE)]


def counts_by_rule() -> dict[int, int]:
    """Rule → how many tests are in the classes with its number."""
    found: dict[int, int] = {}
    for module in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.ClassDef) and (number := re.match(r"TestRule(\d\d)", node.name)):
                tests = [each for each in ast.walk(node) if getattr(each, "name", "").startswith("test_")]
                found[int(number[1])] = found.get(int(number[1]), 0) + len(tests)
    return found


def test_the_rules_are_numbered_without_a_gap() -> None:
    assert rules() == list(range(1, 22))


def test_each_rule_has_tests_and_each_test_a_rule() -> None:
    assert {number for number, tests in counts_by_rule().items() if tests > 0} == set(rules())
