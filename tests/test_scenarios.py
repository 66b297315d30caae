"""Every scenario has a test that names it, or a sentence that says what is missing."""

from __future__ import annotations

import pytest

from tests.scenarios import LIST, PAGE, Test, cited_elsewhere, collected, listed, modules, page

SCENARIOS = listed(LIST.read_text(encoding="utf-8"))
TESTS = collected()
REMEDY = "run `python tests/scenarios.py` and commit docs/internals/scenarios.md"


def test_the_page_is_what_the_list_and_the_tests_say() -> None:
    """A test that is renamed, added or removed is one in the table as well."""
    assert PAGE.read_text(encoding="utf-8") == page(SCENARIOS, TESTS), REMEDY


def test_no_scenario_is_silently_missing() -> None:
    """Shown by a test, or with a sentence why it is not."""
    cited = {name for test in TESTS for name in test.cites}
    told = cited | {each.name for each in SCENARIOS if each.yet or each.cannot}
    assert [each.name for each in SCENARIOS if each.name not in told] == []


def test_what_is_shown_is_not_said_to_be_impossible() -> None:
    """Either a test shows it, or none can."""
    cited = {name for test in TESTS for name in test.cites}
    assert [
        each.name for each in SCENARIOS if each.cannot and (each.yet or each.name in cited)
    ] == []


def test_every_name_that_a_test_cites_is_in_the_list() -> None:
    """A misspelt citation would show nothing."""
    names = {each.name for each in SCENARIOS}
    strangers = {f"{test.path}::{test.name}": set(test.cites) - names for test in TESTS}
    assert {place: names for place, names in strangers.items() if names} == {}


def test_scenarios_are_cited_in_docstrings_of_tests_and_nowhere_else() -> None:
    """A citation in a comment looks like a proof and counts for nothing."""
    assert [path for path, text in modules() if cited_elsewhere(text)] == []


def test_the_table_reads_docstrings_alone() -> None:
    """One way of citing: the name in a comment, a string or another function is none."""
    text = (
        'def test_a():\n    """sc-E1 and sc-C5b, sc-E1."""\n    x = "sc-E2"\n\n\n'
        'async def test_b():\n    """Nothing."""  # sc-E3\n\n\ndef run():\n    """sc-E4."""\n'
    )
    assert cited_elsewhere(text) == 3
    row = listed('[chapters]\nE = "Elections"\n[E1]\nhappens = "This."\nholds = "That."\n')
    made = page(row, [Test("test_x.py", "test_a", ["E1", "C5b"])])
    assert "| E1 | This. | That. | [a](../../tests/test_x.py) |" in made
    assert "Of 1 scenarios 1 are shown, 0 are shown in part, 0 not yet, and 0 cannot be." in made


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[Z1]\nhappens = "a"\nholds = "b"\n', "Z1 is of no chapter; there are E"),
        ('[E1]\nhappens = "a"\n', "E1 must say what happens and what holds"),
        ('[E1]\nhappens = "a"\nholds = "b"\nnever = "c"\n', "E1 has never"),
    ],
)
def test_a_row_that_says_too_little_or_too_much_is_refused(text: str, complaint: str) -> None:
    """The list is read with care: a misspelt key would drop what is missing from the page."""
    with pytest.raises(ValueError, match=complaint):
        listed('[chapters]\nE = "Elections"\n' + text)
