"""Everything that small clusters can do is visited, counted, and the bugs there are found.

Each model's number of states is pinned. A change of the core that changes it has changed what a
cluster can do: look at why before the number is written anew, and say so in the commit.
"""

from __future__ import annotations

import pytest
from attrs import evolve, fields_dict
from click.testing import CliRunner

import tests.simulation.planted
from raft.core.server import Server
from raft.testing.small import exhaustive, normal
from raft.testing.small.bounds import LIVELY
from raft.testing.small.exhaustive import DEEPER, MODELS, Bounds, Model, explore, members
from tests.simulation.planted import BUGS

STATES = {
    "three campaigns": 16474,
    "a command": 59886,
    "a command, one by one": 85406,
    "a crash": 50945,
    "a message twice": 58288,
    "a slow save": 29243,
    "slow saves and a crash": 1718,
    "a slow save and a beat": 15129,
    "three histories": 50589,
    "four servers, a message twice": 565,
    "a snapshot": 8173,
    "a transfer": 7045,
    "a learner becomes a voter": 7171,
    "a server joins": 5217,
    "a learner and a voter change places": 6150,
    "two voters leave": 21107,
    "a voter leaves": 906,
    "pre-vote and check-quorum": 20630,
}
NAMED = {model.name: model for model in (*MODELS, *DEEPER)}
LARGE_STATES = 10_000

FOUND = {
    "an_older_terms_entry_commits_by_counting": "three histories, one by one",
    "a_vote_leaves_before_it_is_saved": "a slow save",
    "a_candidate_asks_before_its_own_vote_is_saved": "a slow save",
    "a_vote_is_never_saved": "a crash",
    "entries_are_acknowledged_before_they_are_saved": "a slow save",
    "the_own_last_index_is_acknowledged": "a read",
    "what_was_received_counts_as_saved": "a slow save and a beat",
    "a_follower_commits_what_it_did_not_verify": "a learner becomes a voter",
    "a_read_is_confirmed_without_a_round": "a read",
    "an_answer_sent_before_the_read_confirms_it": "a read",
    "a_read_is_served_before_the_terms_no_op_commits": "a read",
    "votes_are_counted_by_number": "four servers, a message twice",
    "a_vote_of_an_older_term_counts": "three campaigns",
    "a_quorum_is_one_short": "three campaigns",
    "a_longer_log_is_up_to_date": "three histories, one by one",
    "a_follower_always_truncates": "a message twice",
    "the_previous_term_is_not_checked": "three histories, one by one",
    "entries_are_applied_before_they_are_saved": "a slow save",
    "a_term_is_forgotten": "two rounds of pre-vote",
    "a_truncated_configuration_stays": "a voter leaves, and elections",
    "members_change_while_a_change_is_uncommitted": "a learner and a voter change places",
    "members_change_before_the_term_commits": "a promotion and a command",
    "two_voters_change_in_a_single_step": "two voters leave",
    "a_joint_configuration_takes_a_majority_of_the_union": "a learner and a voter change places",
    "a_leader_counts_itself_after_its_removal": "a voter leaves",
    "learners_count_as_voters": "a learner becomes a voter",
    "a_configuration_counts_from_its_commit": "a learner and a voter change places",
    "a_removed_server_campaigns": "a voter leaves, and elections",
}
UNSEEN = {
    "a_refused_pre_vote_hides_the_newer_term": "safe: only liveness suffers",
    "a_lost_message_is_never_sent_again": "safe: only liveness suffers",
    "a_joint_configuration_is_left_only_by_its_author": "safe: only liveness suffers",
    "a_newcomer_is_waited_for_without_an_end": "safe: only liveness suffers",
    "the_window_has_no_end": "no model holds so many messages as a window",
    "a_change_follows_any_configuration": "no model asks with an expected configuration",
}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            each,
            id=each.name,
            marks=[pytest.mark.slow] if STATES[each.name] > LARGE_STATES else [],
        )
        for each in MODELS
    ],
)
def test_everything_a_small_cluster_can_do_keeps_its_promises(model: Model) -> None:
    """I1 to I15 and I18, at every step of every run within the bounds."""
    explored = explore(model)
    print(explored)
    assert explored.counterexample is None, str(explored.counterexample)
    assert explored.complete
    assert explored.states == STATES[model.name], (
        f"{explored}: it had {STATES[model.name]} states. Something in the core does more, or "
        "less, than before. Find out what, and say it in the commit that writes the new number."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a rule that it breaks, and with the way there."""
    BUGS[name].plant(monkeypatch)
    explored = explore(NAMED[FOUND[name]], states=100_000)
    assert explored.counterexample is not None, f"not found: {explored}"
    assert explored.counterexample.violation.rule in BUGS[name].rules, str(explored.counterexample)
    assert str(explored.counterexample).startswith("1. n")


def test_each_planted_bug_is_found_or_there_is_a_reason() -> None:
    """So that one that is planted later is not forgotten here."""
    own = [
        name
        for name, bug in BUGS.items()
        if bug.plant.__module__ == tests.simulation.planted.__name__
    ]
    assert sorted(own) == sorted([*FOUND, *UNSEEN])


def test_the_shortest_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at it sees what happened, in order, and what came of each step."""
    BUGS["a_quorum_is_one_short"].plant(monkeypatch)
    explored = explore(NAMED["three campaigns"])
    lines = str(explored.counterexample).splitlines()
    assert lines[0] == "1. n1: its time is up"
    assert lines[-1].startswith("I15: n1 leads term 2 by ['n1']")


def test_a_story_keeps_each_servers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that differ in names alone are one; who reads must not see them change."""
    BUGS["an_older_terms_entry_commits_by_counting"].plant(monkeypatch)
    told = str(explore(NAMED["three histories, one by one"]).counterexample)
    sent: set[tuple[str, str]] = set()
    actor, arrivals = "", 0
    for line in told.splitlines()[:-1]:
        if not line.startswith(" "):
            actor, _, rest = line.partition(" ")[2].partition(": ")
            arrivals += rest.startswith("from ")
            if rest.startswith("from "):
                sender, _, message = rest.removeprefix("from ").partition(": ")
                assert (f"{sender} to {actor}", message) in sent, line
        elif line.strip().startswith("to "):
            receiver, _, message = line.strip().removeprefix("to ").partition(": ")
            sent.add((f"{actor} to {receiver}", message))
    assert arrivals > 3


def test_a_search_that_is_cut_short_says_so() -> None:
    explored = explore(NAMED["all of it"], states=500)
    assert not explored.complete
    assert "not all" in str(explored)


def test_names_make_no_difference() -> None:
    """The reduction by symmetry drops no state that has no twin."""
    model = Model("one campaign", Bounds(campaigns=1), max_term=2)
    lopsided = evolve(model, targets=(members("12"),))
    fewer, all_of_them = explore(model), explore(lopsided)
    assert fewer.states < all_of_them.states <= 6 * fewer.states
    assert fewer.depth == all_of_them.depth


def test_a_state_knows_every_field_of_the_core() -> None:
    """What the core keeps is part of a state, but for these, which decide nothing by themselves."""
    assert {"options", "rng", "turn", "now"} == normal._MEANINGLESS
    assert set(fields_dict(Server)) >= normal._MEANINGLESS


def test_time_counts_where_options_let_it() -> None:
    """With check-quorum there are states that differ in how long ago something was."""
    assert explore(Model("lively", Bounds(campaigns=1), options=LIVELY, max_term=2)).complete


def test_the_command_searches_one_model_and_names_the_others() -> None:
    runner = CliRunner()
    found = runner.invoke(exhaustive.main, ["--model", "a voter leaves"])
    assert found.exit_code == 0
    assert found.output.startswith("a voter leaves: 906 states (all)")
    unknown = runner.invoke(exhaustive.main, ["--model", "nothing"])
    assert unknown.exit_code == 2
    assert "a voter leaves" in unknown.output


def test_the_command_fails_where_a_promise_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS["a_quorum_is_one_short"].plant(monkeypatch)
    found = CliRunner().invoke(exhaustive.main, ["--model", "a voter leaves"])
    assert found.exit_code == 1
    assert "1. n1: its time is up" in found.output
