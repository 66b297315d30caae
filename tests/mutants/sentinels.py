"""The bugs that guard the tests: each is one line, with the rule that it breaks and its killer.

A killer is a test's node id; without brackets, all that the test is parametrized with.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Sentinel:
    """In `module` the text `old`, which stands there once, becomes `new`."""

    name: str
    """The bug, in words."""
    rule: str
    """The rule of the protocol that it breaks, or the invariant."""
    module: str
    old: str
    new: str
    killer: str

    @property
    def room(self) -> str:
        """The part of the package that it is in."""
        return self.module.split(".")[1]


SENTINELS = (
    Sentinel(
        "an older term's entry commits by counting",
        "L4",
        "raft.core.replication",
        "if server.log.term_at(index) == server.current_term:",
        "if server.log.term_at(index) <= server.current_term:",
        "tests/core/test_commit.py::test_figure_8",
    ),
    Sentinel(
        "a vote is not saved",
        "E1",
        "raft.core.server",
        ("            self.voted_for = candidate\n            self._hard_state_changed()\n"),
        "            self.voted_for = candidate\n",
        "tests/core/test_elections.py::test_a_vote_in_a_term_that_is_saved_already_is_saved_before_it_leaves",
    ),
    Sentinel(
        "a term is not saved",
        "E1",
        "raft.core.server",
        (
            "        self.current_term, self.voted_for = term, None\n"
            "        self._hard_state_changed()\n"
        ),
        "        self.current_term, self.voted_for = term, None\n",
        "tests/core/test_elections.py::test_a_newer_term_in_any_message_is_written_and_clears_vote_and_leader",
    ),
    Sentinel(
        "a vote is given to whoever asks",
        "E1",
        "raft.core.elections",
        "        server.voted_for in (None, sender)\n",
        "        True\n",
        "tests/core/test_elections.py::test_one_vote_in_each_term",
    ),
    Sentinel(
        "votes are counted, not voters",
        "E3",
        "raft.core.configuration",
        "len(half & names) > len(half) // 2",
        "len(names) > len(half) // 2",
        "tests/core/test_configuration.py::test_duplicate_and_unknown_names_do_not_count",
    ),
    Sentinel(
        "nobody asks whether a log is up to date",
        "E2",
        "raft.core.elections",
        (
            "        and server.would_elect(request.last_log_index, request.last_log_term)\n"
            "    )\n"
            "    if granted:"
        ),
        ("    )\n    if granted:"),
        "tests/core/test_elections.py::test_logs_are_compared_by_the_pair_of_last_term_and_last_index",
    ),
    Sentinel(
        "a longer log is up to date",
        "E2",
        "raft.core.log",
        "return (last_term, last_index) >= (self.last_term, self.last_index)",
        "return (last_index, last_term) >= (self.last_index, self.last_term)",
        "tests/core/test_log.py::test_up_to_date_compares_the_pair",
    ),
    Sentinel(
        "a follower always truncates",
        "L3",
        "raft.core.replication",
        ("    start = server.log.first_difference(entries)\n    if start >= entries.end:"),
        ("    start = entries.start\n    if start >= entries.end:"),
        "tests/core/test_replication.py::test_a_late_shorter_append_truncates_nothing",
    ),
    Sentinel(
        "a follower commits what it did not verify",
        "L2",
        "raft.core.replication",
        "max(follower.verified_index, server.commit_index)))",
        "server.log.last_index))",
        "tests/core/test_replication.py::test_a_follower_commits_what_the_leader_did_and_it_has_verified",
    ),
    Sentinel(
        "the own last index is acknowledged",
        "L1",
        "raft.core.replication",
        "        match_index=min(follower.verified_index, server.log.saved_index),\n",
        "        match_index=server.log.saved_index,\n",
        "tests/core/test_replication.py::test_a_follower_never_acknowledges_its_own_last_index",
    ),
    Sentinel(
        "the previous term is not checked",
        "5.3",
        "raft.core.replication",
        ("not log.matches(\n        request.prev_log_index, request.prev_log_term\n    )"),
        "request.prev_log_index > log.last_index",
        "tests/core/test_replication.py::test_a_refusal_hints_at_the_last_entry_of_a_term_not_above",
    ),
    Sentinel(
        "a quorum is one short",
        "E3",
        "raft.core.configuration",
        "sorted(map(reached, half), reverse=True)[len(half) // 2]",
        "sorted(map(reached, half), reverse=True)[(len(half) - 1) // 2]",
        "tests/core/test_configuration.py::test_agreed_is_the_greatest_value_that_a_majority_has_reached",
    ),
    Sentinel(
        "half of the votes elect",
        "E3",
        "raft.core.configuration",
        "len(half & names) > len(half) // 2",
        "len(half & names) >= len(half) // 2",
        "tests/core/test_elections.py::test_half_of_an_even_cluster_is_no_majority",
    ),
    Sentinel(
        "entries are acknowledged before they are saved",
        "L1",
        "raft.core.replication",
        "        match_index=min(follower.verified_index, server.log.saved_index),\n",
        "        match_index=follower.verified_index,\n",
        "tests/core/test_replication.py::test_a_heartbeat_is_answered_at_once_but_for_what_is_saved",
    ),
    Sentinel(
        "a leader counts itself before it has saved",
        "L8",
        "raft.core.server",
        ("            return self.log.saved_index\n        progress"),
        ("            return self.log.last_index\n        progress"),
        "tests/core/test_commit.py::test_a_leader_counts_itself_only_when_it_has_saved",
    ),
    Sentinel(
        "entries are applied before they are saved",
        "L8",
        "raft.core.server",
        "ready = min(self.commit_index, self.log.saved_index) + 1",
        "ready = self.commit_index + 1",
        "tests/core/test_replication.py::test_a_follower_applies_what_is_committed_and_saved",
    ),
    Sentinel(
        "a vote leaves before it is saved",
        "E1",
        "raft.core.server",
        "        ticket = max(after, self.hard_state_ticket)\n",
        "        ticket = after\n",
        "tests/core/test_elections.py::test_a_vote_leaves_only_once_it_is_saved",
    ),
    Sentinel(
        "a vote of another term counts",
        "E3",
        "raft.core.elections",
        " and result.term == server.current_term and result.vote_granted",
        " and result.vote_granted",
        "tests/core/test_elections.py::test_votes_of_another_term_do_not_count",
    ),
    Sentinel(
        "a candidate's own vote counts at once",
        "E1",
        "raft.core.elections",
        "    if isinstance(state, Candidate) and server.saved_ticket >= server.hard_state_ticket:",
        "    if isinstance(state, Candidate):",
        "tests/core/test_elections.py::test_an_earlier_save_does_not_count_the_candidates_vote",
    ),
    Sentinel(
        "a disruption raises the term",
        "E6",
        "raft.core.elections",
        "    disruption = heard_leader(server, sender) and not request.leadership_transfer\n",
        "    disruption = False\n",
        "tests/core/test_elections.py::test_a_vote_request_is_refused_while_a_leader_is_heard",
    ),
    Sentinel(
        "a refused pre-vote hides the newer term",
        "E5",
        "raft.core.elections",
        "term = request.term if granted else server.current_term",
        "term = request.term",
        "tests/core/test_elections.py::test_a_refusal_of_a_pre_vote_carries_the_voters_own_term",
    ),
    Sentinel(
        "a leader stays without a quorum",
        "E7",
        "raft.core.replication",
        "    if options.check_quorum and unheard >= options.election_timeout_seconds:",
        "    if False:",
        "tests/core/test_elections.py::test_a_leader_without_its_quorum_steps_down",
    ),
    Sentinel(
        "a leader stays without a disk",
        "D3",
        "raft.core.replication",
        "    if server.now - server.unsaved_since >= options.disk_timeout_seconds:",
        "    if False:",
        "tests/core/test_elections.py::test_a_leader_whose_disk_hangs_steps_down",
    ),
    Sentinel(
        "a removed server campaigns",
        "M6",
        "raft.core.server",
        "        if self.excluded_index or self.is_repairing:",
        "        if self.is_repairing:",
        "tests/core/test_exclusion.py::test_who_is_told_that_it_was_removed_stands_for_no_election",
    ),
    Sentinel(
        "a learner campaigns when it is told to",
        "E8",
        "raft.core.transfer",
        "        and server.is_voter\n",
        "",
        "tests/core/test_elections.py::test_a_learner_does_not_campaign_on_timeout_now",
    ),
    Sentinel(
        "committed entries are truncated",
        "L3",
        "raft.core.server",
        ("        if start <= self.commit_index:\n            raise"),
        ("        if False:\n            raise"),
        "tests/core/test_replication.py::test_a_conflict_with_a_committed_entry_stops_the_server",
    ),
    Sentinel(
        "a match index falls",
        "L5",
        "raft.core.progress",
        "        if index > self.match_index:",
        "        if index != self.match_index:",
        "tests/core/test_replication.py::test_match_only_grows",
    ),
    Sentinel(
        "a lost disk is not noticed",
        "L5",
        "raft.core.replication",
        "        progress.quarantine()\n    elif",
        "    elif",
        "tests/core/test_replication.py::test_a_follower_whose_disk_went_back_is_quarantined",
    ),
    Sentinel(
        "two leaders of a term are believed",
        "I1",
        "raft.core.replication",
        (
            "    if isinstance(server.state, Leader) or server.leader_id not in (None, sender):\n"
            "        raise"
        ),
        ("    if False:\n        raise"),
        "tests/core/test_elections.py::test_two_leaders_of_one_term_stop_the_server",
    ),
    Sentinel(
        "a follower matches more than the leader has",
        "L5",
        "raft.core.replication",
        (
            "    if max(result.match_index, result.last_log_index) > server.log.last_index:\n"
            "        raise"
        ),
        ("    if False:\n        raise"),
        "tests/core/test_replication.py::test_an_impossible_acknowledgement_stops_the_leader",
    ),
    Sentinel(
        "a read is served before the term's no-op commits",
        "R1",
        "raft.core.reads",
        (" and server.commit_index >= leader.first_index:\n        origins"),
        (":\n        origins"),
        "tests/core/test_reads.py::test_no_read_is_served_before_an_entry_of_the_own_term_is_committed",
    ),
    Sentinel(
        "an answer sent before the read confirms it",
        "R3",
        "raft.core.reads",
        "leader.round = ReadRound(leader.sequence + 1, server.commit_index, origins)",
        "leader.round = ReadRound(leader.sequence, server.commit_index, origins)",
        "tests/core/test_reads.py::test_a_read_needs_a_round_that_is_sent_after_it",
    ),
    Sentinel(
        "reads outlive their leader",
        "R6",
        "raft.core.server",
        "        reads.fail_all(self)\n",
        "",
        "tests/core/test_reads.py::test_a_leader_that_steps_down_fails_its_reads",
    ),
    Sentinel(
        "a lease outlives a transfer",
        "R9",
        "raft.core.reads",
        "        or leader.lease_given_up\n",
        "",
        "tests/core/test_leases.py::test_no_lease_after_a_timeout_now_even_if_it_came_to_nothing",
    ),
    Sentinel(
        "a lease counts from the answer",
        "R9",
        "raft.core.reads",
        "            progress.answered_since = sent_at\n",
        "            progress.answered_since = progress.heard_at\n",
        "tests/core/test_leases.py::test_a_lease_counts_from_when_the_answered_round_was_sent",
    ),
    Sentinel(
        "a lease ignores the drift of clocks",
        "R9",
        "raft.core.reads",
        "return server.configuration.agreed(since) + shortest / bound",
        "return server.configuration.agreed(since) + shortest",
        "tests/core/test_leases.py::test_a_lease_counts_from_when_the_answered_round_was_sent",
    ),
    Sentinel(
        "a voter that learns a newer term forgets its promise",
        "R9",
        "raft.core.elections",
        ("    if server.leader_id is None and _heard_of_late(server):\n        return True\n"),
        "",
        "tests/core/test_leases.py::test_a_voter_keeps_its_promise_when_it_learns_a_newer_term",
    ),
    Sentinel(
        "a promise does not hold in the voter's own term",
        "R9",
        "raft.core.elections",
        "request.term < server.current_term or disruption:",
        "request.term != server.current_term and disruption:",
        "tests/core/test_leases.py::test_a_restarted_voter_keeps_to_that_in_its_own_term_too",
    ),
    Sentinel(
        "a restarted voter forgets its promise",
        "R9",
        "raft.core.elections",
        (
            "    if server.options.clock_drift_bound and _may_have_promised(server):\n"
            "        return True\n"
        ),
        "",
        "tests/core/test_leases.py::test_a_restarted_voter_votes_for_nobody_while_leases_may_last",
    ),
    Sentinel(
        "a truncated configuration stays",
        "M1",
        "raft.core.log",
        "        while self.configurations[-1][0] >= start and",
        "        while self.configurations[-1][0] > start and",
        "tests/core/test_configuration.py::test_a_configuration_that_is_truncated_is_reverted_for_the_timer_too",
    ),
    Sentinel(
        "members change while a change is uncommitted",
        "M2",
        "raft.core.membership",
        ("        and server.log.configuration_index <= server.commit_index\n    )\n\n\ndef pin"),
        ("    )\n\n\ndef pin"),
        "tests/core/test_membership.py::test_a_second_change_is_refused_in_every_phase_of_the_first",
    ),
    Sentinel(
        "two voters change in one step",
        "M3",
        "raft.core.membership",
        "    if len(final.voters ^ heading.voters) <= 1:",
        "    if len(final.voters ^ heading.voters) <= 2:",
        "tests/core/test_membership.py::test_the_way_to_the_target",
    ),
    Sentinel(
        "a joint configuration has one half",
        "M3",
        "raft.core.configuration",
        "        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)",
        "        return (self.voters,)",
        "tests/core/test_elections.py::test_a_joint_configuration_elects_by_both_halves",
    ),
    Sentinel(
        "a change follows any configuration",
        "M4",
        "raft.core.membership",
        (
            "    if event.expected_index not in (None, server.log.configuration_index):\n"
            "        return Refusal.OTHER_CONFIGURATION\n"
        ),
        "",
        "tests/core/test_membership.py::test_a_change_may_name_the_configuration_it_starts_from",
    ),
    Sentinel(
        "a newcomer votes at once",
        "M5",
        "raft.core.membership",
        "joining = tuple(evolve(m, voter=False) for m in heading.target if m.id not in today)",
        "joining = tuple(m for m in heading.target if m.id not in today)",
        "tests/core/test_membership.py::test_a_newcomer_learns_first_and_counts_nowhere",
    ),
    Sentinel(
        "a removed leader stays",
        "M6",
        "raft.core.membership",
        ("    if leader.is_leaving:\n        server.become_follower(None)"),
        ("    if leader.is_leaving:\n        pass"),
        "tests/core/test_membership.py::test_a_removed_leader_that_nobody_relieves_steps_down",
    ),
    Sentinel(
        "another server comes back under an old id",
        "M9",
        "raft.core.server",
        "        is_other = known and self.incarnation and known != self.incarnation\n",
        "        is_other = False\n",
        "tests/core/test_membership.py::test_who_joins_under_an_old_id_does_not_vote_by_its_predecessors_configuration",
    ),
    Sentinel(
        "a second bootstrap is taken",
        "M8",
        "raft.core.server",
        "        if self.current_term:\n            self",
        "        if False:\n            self",
        "tests/core/test_elections.py::test_bootstrap_is_entry_one_of_term_one",
    ),
    Sentinel(
        "proposals are taken during a transfer",
        "M10",
        "raft.core.replication",
        "    if server.state.transfer or server.state.is_leaving:",
        "    if server.state.is_leaving:",
        "tests/core/test_transfer.py::test_a_transfer_stops_new_proposals_definitely",
    ),
    Sentinel(
        "a transfer goes to who lacks entries",
        "M10",
        "raft.core.transfer",
        "    elif not transfer.sent and progress.match_index == server.log.last_index:",
        "    elif not transfer.sent:",
        "tests/core/test_transfer.py::test_a_transfer_first_catches_the_target_up",
    ),
    Sentinel(
        "uncommitted bytes are unbounded",
        "L10",
        "raft.core.replication",
        "    if uncommitted and uncommitted + size_bytes > server.options.max_uncommitted_bytes:",
        "    if False:",
        "tests/core/test_replication.py::test_uncommitted_bytes_are_bounded",
    ),
    Sentinel(
        "a snapshot of what is not applied is taken",
        "N1",
        "raft.core.snapshots",
        ("    if event.index >= server.apply_end:\n        raise"),
        ("    if False:\n        raise"),
        "tests/core/test_snapshots.py::test_a_snapshot_of_what_is_not_applied_stops_the_server",
    ),
    Sentinel(
        "a snapshot keeps a log that differs",
        "N6",
        "raft.core.snapshots",
        "    keep_log = index < turn.log_end and untouched and log.matches(index, term)\n",
        "    keep_log = index < turn.log_end and untouched\n",
        "tests/core/test_snapshots.py::test_a_conflicting_log_goes_with_all_that_follows",
    ),
    Sentinel(
        "an old snapshot is installed",
        "N6",
        "raft.core.snapshots",
        ("    if index > server.commit_index:\n        _install"),
        ("    if index != server.commit_index:\n        _install"),
        "tests/core/test_snapshots.py::test_a_stale_offer_is_answered_and_changes_nothing",
    ),
    Sentinel(
        "a log that lacks applied entries serves",
        "D1",
        "raft.core.server",
        ("        if not self.log.matches(index, term):\n            raise LogLost"),
        ("        if False:\n            raise LogLost"),
        "tests/core/test_snapshots.py::test_a_machine_that_has_what_the_log_lost_is_no_server",
    ),
    Sentinel(
        "a frame is not synced",
        "D1",
        "raft.storage.writer",
        ("        sync(self.files, fd)\n        self.sync_count += 1"),
        "        self.sync_count += 1",
        "tests/storage/test_faults.py::test_what_recovery_found_is_on_the_disk_and_not_only_in_the_page_cache",
    ),
    Sentinel(
        "a save is told before it is written",
        "D5",
        "raft.storage.thread",
        (
            "            self.writer.write(saves)\n"
            "            if ticket is not None and not self.wait.is_taken("
            "ticket, self.seconds() - began):\n"
            "                self.saved(ticket)\n"
        ),
        (
            "            if ticket is not None and not self.wait.is_taken("
            "ticket, self.seconds() - began):\n"
            "                self.saved(ticket)\n"
            "            self.writer.write(saves)\n"
        ),
        "tests/storage/test_faults.py::test_the_first_failed_call_ends_all_acknowledgements",
    ),
    Sentinel(
        "a save is left to somebody who waits no more",
        "D2",
        "raft.storage.brief_wait",
        "                    self._state = Wait.LEFT\n                    self._owed_saves",
        "                    self._owed_saves",
        "tests/storage/test_brief_wait.py::test_a_save_is_reported_once_however_the_race_falls",
    ),
    Sentinel(
        "frames are not chained",
        "D1",
        "raft.storage.recovery",
        "        if frame.sequence == self._sequence + 1 and frame.previous == self._checksum:",
        "        if frame.sequence == self._sequence + 1:",
        "tests/storage/test_faults.py::test_a_frame_that_is_not_chained_to_the_one_before_is_refused",
    ),
    Sentinel(
        "damage in the middle passes for a torn tail",
        "D1",
        "raft.storage.recovery",
        (
            "        if found is not None:\n"
            "            raise StorageDamaged(\n"
            "                segment.path,\n"
            "                offset,\n"
            '                f"the frame here'
        ),
        (
            "        if False:\n"
            "            raise StorageDamaged(\n"
            "                segment.path,\n"
            "                offset,\n"
            '                f"the frame here'
        ),
        "tests/storage/test_faults.py::test_a_flipped_bit_never_makes_another_log",
    ),
    Sentinel(
        "a missing segment is not noticed",
        "D1",
        "raft.storage.recovery",
        "            if number != before + 1:",
        "            if False:",
        "tests/storage/test_faults.py::test_a_missing_segment_is_refused",
    ),
    Sentinel(
        "a frame's checksum is not looked at",
        "D1",
        "raft.storage.frames",
        ("    if crc32(content[offset + 8 : end]) != checksum:\n        return None\n"),
        "",
        "tests/storage/test_faults.py::test_a_torn_last_frame_is_dropped_and_nothing_else",
    ),
    Sentinel(
        "a frame of another segment is taken",
        "D1",
        "raft.storage.frames",
        "    if magic != MAGIC or owner != segment or end > len(content):",
        "    if magic != MAGIC or end > len(content):",
        "tests/storage/test_formats.py::test_a_payload_cannot_pass_for_a_frame",
    ),
    Sentinel(
        "a snapshot's file is not synced",
        "N1",
        "raft.storage.snapshots",
        ("            sync(snapshots.files, self._fd)\n            self._open = False"),
        "            self._open = False",
        "tests/storage/test_faults.py::test_a_disk_that_fails_under_a_snapshot_poisons_the_store",
    ),
    Sentinel(
        "a segment of another directory is taken",
        "M7",
        "raft.storage.segments",
        "    if incarnation and owner and owner != incarnation:",
        "    if False:",
        "tests/storage/test_faults.py::test_another_directory_s_files_are_refused",
    ),
    Sentinel(
        "a last frame that was never proven is believed",
        "D5",
        "raft.storage.recovery",
        ("            if self.ledger.segments:\n                self._rewrite_last_frame()"),
        ("            if False:\n                self._rewrite_last_frame()"),
        "tests/storage/test_faults.py::test_what_recovery_found_is_on_the_disk_and_not_only_in_the_page_cache",
    ),
    Sentinel(
        "an entry is saved out of its place",
        "D2",
        "raft.storage.writer",
        ("            if start != batch.end:\n                raise"),
        ("            if False:\n                raise"),
        "tests/storage/test_contract.py::test_an_entry_out_of_place_poisons",
    ),
    Sentinel(
        "results below the low mark stay",
        "S2",
        "raft.sessions",
        ("        if low_mark > self.kept_from:\n            self._drop_below(low_mark)\n"),
        "",
        "tests/test_sessions.py::test_below_the_low_mark_results_are_forgotten_and_numbers_are_stale",
    ),
    Sentinel(
        "a session expires while it is used",
        "S3",
        "raft.sessions",
        "        found.touched_us = now_us\n",
        "",
        "tests/test_sessions.py::test_each_command_renews_its_session_however_they_are_cut_into_slices",
    ),
    Sentinel(
        "a session that was used last is evicted",
        "S3",
        "raft.sessions",
        "self._by_id.popitem(last=False)",
        "self._by_id.popitem(last=True)",
        "tests/test_sessions.py::test_the_one_unused_for_longest_makes_room",
    ),
    Sentinel(
        "a use does not count for the order",
        "S3",
        "raft.sessions",
        "        self._by_id.move_to_end(session)\n",
        "",
        "tests/test_sessions.py::test_the_one_unused_for_longest_makes_room",
    ),
    Sentinel(
        "results are kept without a bound",
        "I21",
        "raft.sessions",
        "        while len(results) > limits.results or self.size_bytes > limits.results_bytes:",
        "        while False:",
        "tests/test_sessions.py::test_the_bytes_of_results_are_bounded",
    ),
    Sentinel(
        "a view changes under its reader",
        "N2",
        "raft.sessions",
        "        if self._open_views and found.view < self._view:",
        "        if False:",
        "tests/test_sessions.py::test_a_snapshot_shows_nothing_of_what_is_applied_while_it_is_read",
    ),
    Sentinel(
        "an unbounded box is taken",
        "S5",
        "raft.transport.boxes",
        "        elif size_bytes > self.limit_bytes or keys > self.limit_keys:",
        "        elif size_bytes > self.limit_bytes:",
        "tests/transport/test_boxes.py::test_65536_keys_are_refused",
    ),
    Sentinel(
        "a flood without an end is taken",
        "S5",
        "raft.transport.boxes",
        "        elif size_bytes > self.limit_bytes or keys > self.limit_keys:",
        "        elif keys > self.limit_keys:",
        "tests/transport/test_boxes.py::test_a_flood_without_an_end_is_refused_within_the_limit",
    ),
    Sentinel(
        "a chunk that is damaged is taken",
        "N5",
        "raft.transport.wire",
        '        raise BadMessage("the chunk does not match its checksum")',
        "        pass",
        "tests/transport/test_wire.py::test_a_chunk_that_does_not_match_its_checksum_is_refused",
    ),
    Sentinel(
        "an older save makes later entries durable",
        "D2",
        "raft.core.log",
        "        while self._unsaved and self._unsaved[0][0] <= ticket:",
        "        while self._unsaved:",
        "tests/core/test_replication.py::test_a_rewritten_entry_is_not_acknowledged_by_its_first_copys_save",
    ),
    Sentinel(
        "a second vote in a term is given",
        "E1",
        "raft.core.server",
        "        if self.voted_for not in (None, candidate):\n            raise",
        "        if False:\n            raise",
        "tests/core/test_elections.py::test_a_second_vote_in_a_term_stops_the_server",
    ),
    Sentinel(
        "members change before the term commits",
        "M2",
        "raft.core.membership",
        "        and server.commit_index >= server.state.first_index\n",
        "",
        "tests/core/test_membership.py::test_a_committed_configuration_is_not_enough_for_a_change",
    ),
    Sentinel(
        "entries of a truncated copy count as saved",
        "D2",
        "raft.core.log",
        "        self.saved_index = min(self.saved_index, start - 1)\n",
        "",
        "tests/core/test_log.py::test_what_was_saved_and_truncated_is_not_saved",
    ),
    Sentinel(
        "a failed sync is tried again",
        "D3",
        "raft.storage.files",
        "        except InterruptedError:\n            continue\n\n\ndef replace_file",
        "        except OSError:\n            continue\n\n\ndef replace_file",
        "tests/storage/test_faults.py::test_a_failed_sync_is_not_tried_again",
    ),
    Sentinel(
        "a segment's name is not synced",
        "D1",
        "raft.storage.segments",
        (
            "        files.rename(temporary, path)\n"
            "        files.sync_directory(directory)\n"
            "    except"
        ),
        "        files.rename(temporary, path)\n    except",
        "tests/storage/test_crashes.py::test_a_crash_leaves_a_state_between_acknowledged_and_written[rolls]",
    ),
    Sentinel(
        "a snapshot's name is not synced",
        "N1",
        "raft.storage.snapshots",
        (
            "os.path.join(snapshots.directory, final))\n"
            "            snapshots.files.sync_directory(snapshots.directory)\n"
        ),
        "os.path.join(snapshots.directory, final))\n",
        "tests/storage/test_crashes.py::test_a_crash_leaves_a_state_between_acknowledged_and_written[compaction]",
    ),
    Sentinel(
        "segments vanish in any order",
        "D1",
        "raft.storage.writer",
        "        self._owes_sync = True\n        self._sync_removal()\n",
        "",
        "tests/storage/test_crashes.py::test_a_crash_leaves_a_state_between_acknowledged_and_written[compaction_of_many_segments]",
    ),
    Sentinel(
        "a record's checksum is not looked at",
        "D1",
        "raft.storage.records",
        "    if crc32(records[offset + 4 : stop]) != checksum:\n        raise",
        "    if False:\n        raise",
        "tests/storage/test_formats.py::test_a_flipped_bit_of_a_record_is_refused",
    ),
    Sentinel(
        "removed entries are still read",
        "D2",
        "raft.storage.ledger",
        "        while self._firsts and self._firsts[-1] >= start:",
        "        while False:",
        "tests/storage/test_ledger.py::test_an_entry_that_replaces_another_is_read_from_its_own_place",
    ),
    Sentinel(
        "the checker says OK when its budget is spent",
        "I18",
        "raft.testing.linearizability",
        "    if not keys:\n        return report\n    names",
        "    if True:\n        return report\n    names",
        "tests/test_linearizability.py::test_a_spent_budget_is_never_ok",
    ),
    Sentinel(
        "the checker believes what is impossible",
        "I18",
        "raft.testing.linearizability",
        "            if outcome is Outcome.NONE:\n                piece = tuple(",
        (
            "            if outcome is Outcome.NONE:\n"
            "                outcome = Outcome.FOUND\n"
            "            if False:\n"
            "                piece = tuple("
        ),
        "tests/test_linearizability.py::test_a_stale_read_is_found",
    ),
    Sentinel(
        "who has diverged goes on",
        "I20",
        "raft.node.guard",
        "        else:\n            self._begin_narrowing(index, mine, right, sides[right])\n",
        "",
        "tests/node/test_guard.py::test_a_minority_of_two_is_set_aside",
    ),
    Sentinel(
        "a copied state counts as a voice of its own",
        "I20",
        "raft.node.guard",
        "[id for id in sides[each] if not self._is_copy(id)] for each in sides}",
        "sides[each] for each in sides}",
        "tests/node/test_guard.py::test_who_took_a_snapshot_is_no_second_voice_of_who_sent_it",
    ),
    Sentinel(
        "an earlier incarnation's digest counts",
        "M7",
        "raft.node.guard",
        "            if (member, origin) == (incarnation, begun) and (",
        "            if origin == begun and (",
        "tests/node/test_guard.py::test_what_an_earlier_incarnation_said_does_not_count",
    ),
    Sentinel(
        "who has diverged is let in",
        "I20",
        "raft.node.guard",
        (
            "        if known is None or known.incarnation != greeting.incarnation:\n"
            "            return None\n"
            "        if self"
        ),
        "        if True:\n            return None\n        if self",
        (
            "tests/node/test_guard.py::test_who_has_diverged_is_not_let_in_but_who_takes_its_place_is"
        ),
    ),
    Sentinel(
        "a result is no part of the digest",
        "S4",
        "raft.digest",
        "        self.told += (index, folded(content))\n",
        '        self.told += (index, b"")\n',
        "tests/test_digest.py::test_the_digest_is_the_one_of_this_table",
    ),
    Sentinel(
        "entries are no part of the digest",
        "I20",
        "raft.digest",
        "            self.value = _advanced(self.value, _WORD.pack(self.records_crc))\n",
        "",
        (
            "tests/test_digest.py::test_other_entries_with_the_same_outcomes_are_told_apart_at_the_next_multiple"
        ),
    ),
    Sentinel(
        "who executed what the log skips goes on",
        "I20",
        "raft.skips",
        "        if named not in self.done:\n",
        "        if False:\n",
        "tests/test_skips.py::test_who_executed_what_the_log_skips_stops",
    ),
    Sentinel(
        "a snapshot forgets what was skipped",
        "N1",
        "raft.skips",
        "msgspec.msgpack.encode(sorted(self.done))",
        "msgspec.msgpack.encode([])",
        "tests/test_skips.py::test_a_snapshot_between_the_two_knows_what_was_skipped",
    ),
    Sentinel(
        "a server campaigns while its log is repaired",
        "D1",
        "raft.core.server",
        "        if self.excluded_index or self.is_repairing:",
        "        if self.excluded_index:",
        "tests/core/test_repair.py::test_it_stands_for_no_election",
    ),
    Sentinel(
        "a damaged log votes by what is left of it",
        "D1",
        "raft.core.server",
        " and (last_term, last_index) >= self.lost\n",
        "\n",
        "tests/core/test_repair.py::test_a_vote_goes_by_the_last_entry_that_the_log_had",
    ),
    Sentinel(
        "a client believes that what timed out was never appended",
        "S7",
        "raft.client.meanings",
        "Meaning.DOUBT if error.appended else Meaning.AGAIN",
        "Meaning.AGAIN",
        "tests/test_client_sessions.py::test_what_an_error_says_of_the_copy_that_was_sent",
    ),
    Sentinel(
        "a client believes a refusal of what it sent before",
        "I17",
        "raft.client.meanings",
        "    if not in_doubt:\n        return error\n",
        "    if True:\n        return error\n",
        (
            "tests/test_client_sessions.py::test_a_refusal_is_the_answer_unless_an_earlier_copy_may_be_applied"
        ),
    ),
    Sentinel(
        "a client sends past a number that may be missing",
        "S9",
        "raft.client.numbered",
        "        return not holes or sequence < holes[0]\n",
        "        return True\n",
        "tests/test_client_sessions.py::test_nothing_is_sent_past_a_number_that_may_be_missing",
    ),
    Sentinel(
        "a replaced write is answered as if it came back",
        "L9",
        "raft.node.writes",
        "            elif term_at(batch.start) == batch.term:\n                unknown",
        "            elif True:\n                unknown",
        (
            "tests/node/test_shell.py::test_an_entry_that_another_leader_commits_in_its_place_is_superseded"
        ),
    ),
    Sentinel(
        "a crowd of clients beyond the bound is not looked at",
        "I21",
        "raft.testing.whole.bounds",
        "if listener.connection_count > listener.limits.connections:",
        "if listener.connection_count > 2 * listener.limits.connections:",
        "tests/simulation/test_whole_watchers.py::test_a_queue_beyond_its_bound_is_seen",
    ),
    Sentinel(
        "a call that is never answered passes",
        "I22",
        "raft.testing.whole.run",
        "        if open_calls:\n",
        "        if len(open_calls) > 1:\n",
        "tests/simulation/test_whole_watchers.py::test_a_call_without_an_outcome_is_missed",
    ),
    Sentinel(
        "a node that does not stop passes",
        "I22",
        "raft.testing.whole.run",
        "        if still:\n",
        "        if len(still) > 1:\n",
        "tests/simulation/test_whole_watchers.py::test_a_node_that_does_not_stop_is_found",
    ),
    Sentinel(
        "states are not held against what was committed",
        "I20",
        "raft.testing.whole.run",
        "if found != right:",
        "if found is right:",
        "tests/simulation/test_whole_nodes.py::test_the_machines_are_held_against_what_was_committed",
    ),
    Sentinel(
        "errors that nobody handled pass",
        "I22",
        "raft.testing.whole.world",
        "if failure.check(Died, Violation):",
        "if failure.check(Died, Exception):",
        "tests/simulation/test_whole_watchers.py::test_an_error_that_nobody_handled_ends_a_world",
    ),
    Sentinel(
        "a reader who sees nothing again is excused",
        "I19",
        "raft.chaos.clients",
        "seen = found or 0",
        "seen = found or before",
        "tests/chaos/test_storm.py::test_a_reader_that_sees_nothing_after_something_has_gone_back",
    ),
    Sentinel(
        "clients that get nothing done are excused",
        "I17",
        "raft.chaos.verdict",
        "if count >= IDLE_OPERATIONS and not done[name]",
        "if count >= IDLE_OPERATIONS and done[name] < 0",
        "tests/chaos/test_storm.py::test_a_client_that_never_gets_anything_done_is_a_violation",
    ),
    Sentinel(
        "a damaged server votes as if it had lost nothing",
        "D1",
        "raft.core.server",
        "self.log.is_up_to_date(last_index, last_term) and (last_term, last_index) >= self.lost",
        "self.log.is_up_to_date(last_index, last_term)",
        "tests/core/test_repair.py::test_a_vote_goes_by_the_last_entry_that_the_log_had[5-3-False]",
    ),
    Sentinel(
        "a repair ends with what is not saved",
        "D1",
        "raft.core.replication",
        "    if (log.term_at(log.saved_index), log.saved_index) >= server.lost:",
        "    if (log.last_term, log.last_index) >= server.lost:",
        "tests/core/test_repair.py::test_what_is_not_yet_saved_makes_nothing_whole",
    ),
    Sentinel(
        "a repair ends with as many entries of an earlier term",
        "D1",
        "raft.storage.repair_plan",
        "    if _last(recovered) >= repair.last:",
        "    if _last(recovered)[1] >= repair.last[1]:",
        "tests/storage/test_repair.py::test_as_many_entries_of_an_earlier_term_are_not_what_is_owed",
    ),
    Sentinel(
        "an old frame is believed in a later one's place",
        "D1",
        "raft.storage.salvage",
        "        if frame.sequence <= self._sequence:",
        "        if False:",
        "tests/storage/test_repair.py::test_a_frame_that_stands_in_a_later_one_s_place_is_not_believed[0]",
    ),
    Sentinel(
        "a server that was alone waits for others",
        "D1",
        "raft.storage.repair_plan",
        "    elif not read_peers(files, directory):",
        "    elif False:",
        "tests/storage/test_repair.py::test_without_its_configuration_a_server_must_have_heard_others",
    ),
    Sentinel(
        "a server goes on alone in the middle of a repair",
        "E1",
        "raft.storage.survey",
        "    if repair is not None and repair.state not in (FETCHING, DONE):",
        "    if False:",
        "tests/storage/test_survey.py::test_nobody_goes_on_alone_in_the_middle_of_a_repair[writing]",
    ),
    Sentinel(
        "an emptied server elects a founder that has nothing to lead",
        "M9",
        "raft.core.founding",
        "        or last_log_term > FOUNDING_TERM\n",
        "        or last_log_term >= FOUNDING_TERM\n",
        "tests/core/test_founding.py::test_whom_a_server_without_a_history_elects",
    ),
    Sentinel(
        "a wiped founder stands for election though its cluster lives",
        "M9",
        "raft.core.founding",
        "return server.standing is not Standing.FREE and not has_history(server)",
        "return False",
        "tests/core/test_founding.py::test_whose_cluster_lives_without_it_stands_for_no_election",
    ),
    Sentinel(
        "a founder votes before first members could object",
        "M8",
        "raft.core.founding",
        "    if server.now < server.founding_until:\n        return False\n",
        "",
        "tests/core/test_founding.py::test_a_founder_waits_for_the_other_first_members",
    ),
    Sentinel(
        "a founder does not wait for first members to object",
        "M8",
        "raft.core.founding",
        "return -math.inf if has_history(server) else server.founding_until",
        "return -math.inf",
        "tests/core/test_founding.py::test_a_founder_waits_for_the_other_first_members",
    ),
    Sentinel(
        "who was removed and emptied still votes",
        "M6",
        "raft.core.founding",
        "    if server.excluded_index or server.standing is Standing.OUTLIVED:",
        "    if server.standing is Standing.OUTLIVED:",
        "tests/core/test_founding.py::test_who_is_told_of_its_removal_and_has_nothing_has_no_vote",
    ),
    Sentinel(
        "what is said of a removal is forgotten while a leader is heard",
        "M6",
        "raft.core.elections",
        "server.told_excluded_index = max(server.told_excluded_index, index)",
        "server.told_excluded_index = 0",
        "tests/core/test_exclusion.py::test_what_is_said_just_before_a_leader_falls_silent_is_looked_at_again",
    ),
    Sentinel(
        "whoever names a configuration that is known already is another member's heir",
        "M7",
        "raft.node.membership",
        "greeting.member_index > server.log.configuration_index",
        "greeting.member_index >= 0",
        "tests/node/test_directories.py::test_who_names_an_older_configuration_than_is_known_here_is_another",
    ),
)
