"""Every place where bytes from outside enter, as one function of bytes each.

A target returns where the bytes were taken or refused by a typed error of its own, and raises
where anything else happened: that is a finding, whoever looks for it (hypothesis in
`test_fuzz`, coverage-guided search in `search`). Where bytes were taken, what they mean is
written again and read again, and must mean the same.

Checksums keep a blind search out of what lies behind them. So targets of formats with
checksums come twice: as the bytes are, and with the checksums set right.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from tests.fuzz import disk_targets, text_targets, wire_targets


@frozen
class Target:
    """One way in.

    Attributes:
        run: takes the bytes.
        seeds: returns inputs to begin with, all of them good.
        words: tokens that a search may insert.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()


TARGETS: dict[str, Target] = {
    "boxes": Target(wire_targets.boxes, wire_targets.box_seeds),
    "messages": Target(wire_targets.messages, wire_targets.message_seeds, wire_targets.WORDS),
    "peers": Target(wire_targets.peers, wire_targets.peer_seeds, wire_targets.WORDS),
    "questions": Target(wire_targets.questions, wire_targets.question_seeds, wire_targets.WORDS),
    "answers": Target(wire_targets.answers, wire_targets.answer_seeds, wire_targets.WORDS),
    "codec": Target(wire_targets.codec, wire_targets.codec_seeds),
    "records": Target(disk_targets.records, disk_targets.record_seeds),
    "payloads": Target(disk_targets.payloads, disk_targets.payload_seeds),
    "segments": Target(disk_targets.segments, disk_targets.segment_seeds),
    "snapshots": Target(disk_targets.snapshots, disk_targets.snapshot_seeds),
    "contents": Target(disk_targets.contents, disk_targets.content_seeds),
    "sessions": Target(disk_targets.sessions, disk_targets.session_seeds),
    "backups": Target(disk_targets.backups, disk_targets.backup_seeds),
    "identity": Target(text_targets.identity, text_targets.identity_seeds),
    "history": Target(text_targets.history, text_targets.history_seeds, text_targets.HISTORY_WORDS),
    "config": Target(text_targets.config, text_targets.config_seeds, text_targets.CONFIG_WORDS),
    "http": Target(text_targets.http, text_targets.http_seeds, text_targets.HTTP_WORDS),
}
