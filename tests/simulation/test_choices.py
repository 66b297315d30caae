"""Choices are recorded, told again without chance, and shrunk to what matters."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raft.testing.choices import BadChoices, Choice, Choices, Json, read_lines
from raft.testing.shrinking import Budget, ddmin, lowered


def fate(rng: random.Random) -> Json:
    """Draw what becomes of a message."""
    return ["late", rng.randint(1, 9)] if rng.random() < 0.3 else None


def story(choices: Choices, links: str = "ab") -> list[Json]:
    """Ask each stream thirty times."""
    return [choices.stream(link).choose(fate, None) for _ in range(30) for link in links]


def test_a_replay_tells_the_same_story_without_chance() -> None:
    """What was drawn comes back from the list alone."""
    drawn = Choices.drawing(7)
    told = story(drawn)
    again = Choices.replaying(drawn.made())
    assert story(again) == told
    assert again.made() == drawn.made()
    assert 0 < len(drawn.made()) < 60


def test_the_same_seed_decides_alike_and_another_does_not() -> None:
    """A seed is a story."""
    assert story(Choices.drawing(7)) == story(Choices.drawing(7)) != story(Choices.drawing(8))


def test_a_stream_that_is_asked_more_leaves_the_others_as_they_are() -> None:
    """So a list survives that the code asks for one thing more."""
    alone = [Choices.drawing(7).stream("a")]
    assert story(Choices.drawing(7), "ab")[::2] == [alone[0].choose(fate, None) for _ in range(30)]


def test_what_is_not_in_the_list_is_calm() -> None:
    """Leaving a choice out is a run as well."""
    choices = Choices.replaying([Choice("a", 2, ["late", 3])])
    assert [choices.stream("a").choose(fate, None) for _ in range(4)] == [
        *(None, None),
        ["late", 3],
        None,
    ]


def test_choices_are_kept_in_a_file(tmp_path: Path) -> None:
    """One JSON value a line."""
    drawn = Choices.drawing(7)
    told = story(drawn)
    drawn.save(tmp_path / "story", {"seed": 7})
    again, about = Choices.load(tmp_path / "story")
    assert about == {"seed": 7}
    assert story(again) == told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: not a file of choices"),
        ('{"raft": "choices", "version": 2}\n', "line 1: not a file of choices, version 1"),
        ("nothing", "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"raft": "choices", "version": 1}\n["a", "b", null]\n', r"line 2: not \[stream"),
    ],
)
def test_a_file_that_is_no_list_of_choices_is_refused(
    text: str, complaint: str, tmp_path: Path
) -> None:
    """With its name, and the line."""
    path = tmp_path / "story"
    path.write_text(text)
    with pytest.raises(BadChoices, match=f"story, {complaint}"):
        Choices.load(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """As the command line shows it."""
    with pytest.raises(BadChoices, match="story cannot be read: "):
        read_lines(tmp_path / "story", "choices")


@pytest.mark.parametrize("needed", [set(), {0}, {99}, {3, 4}, {0, 50, 99}, {10, 20, 30, 40, 50}])
def test_delta_debugging_leaves_what_is_needed(needed: set[int]) -> None:
    """And nothing else, in its order."""
    tried: list[int] = []

    def fails(part: list[int]) -> bool:
        tried.append(len(part))
        return needed <= set(part)

    assert ddmin(range(100), fails) == sorted(needed)
    assert len(tried) < 300


def test_delta_debugging_ends_with_its_budget() -> None:
    """What it has found by then still fails."""
    tried: list[int] = []

    def fails(part: list[int]) -> bool:
        tried.append(len(part))
        return 7 in part

    left = ddmin(range(1000), fails, Budget(tries=4))
    assert 7 in left
    assert len(tried) == 4


def test_a_number_is_lowered_for_as_long_as_it_fails() -> None:
    """One step at a time: who wants the least asks again."""
    assert lowered(64, lambda number: number >= 30, Budget()) == 32
    assert lowered(31, lambda number: number >= 30, Budget()) == 30
    assert lowered(30, lambda number: number >= 30, Budget()) == 30
    assert lowered(5, lambda _: True, Budget(), 2) == 2
