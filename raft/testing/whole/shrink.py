"""Makes a failure of whole nodes small: the fewest troubles and requests that still show it."""

from __future__ import annotations

from raft.testing.choices import Choice, Choices
from raft.testing.shrinking import Budget, ddmin
from raft.testing.whole.run import Failure, simulate
from raft.testing.whole.world import Parts


def shrink(
    failure: Failure, budget: Budget | None = None, parts: Parts | None = None
) -> list[Choice]:
    """Return as few of the failure's choices as still break the same rule.

    All chance that is no choice (delays, election timeouts, what a loss of power leaves) stays
    that of the seed.
    """

    def fails(part: list[Choice]) -> bool | list[Choice]:
        try:
            simulate(failure.seed, parts, choices=Choices.replaying(part))
        except Failure as again:
            return again.choices if again.rule == failure.rule else False
        return False

    return ddmin(failure.choices, fails, budget)


def as_test(failure: Failure, choices: list[Choice]) -> str:
    """Return a test that plays `choices`: to be pasted, and to fail until the bug is mended."""
    lines = [
        f"def test_seed_{failure.seed}_keeps_{failure.rule.lower()}() -> None:",
        f'    """{failure.rule}: say here what went wrong."""',
        "    choices = [",
        *(f"        Choice({each.stream!r}, {each.number}, {each.value!r})," for each in choices),
        "    ]",
        f"    simulate({failure.seed}, choices=Choices.replaying(choices))",
    ]
    return "\n".join(lines)
