"""What is left of a damaged log: every frame that is whole, on whichever side of the damage.

Recovery stops at the first damage. This reads on, changes nothing, and says three things: where
the damage is; which entries are good; and whether it is still certain how the log ended, with which
term and vote. A valid frame proves all before it durable, so the last one tells how far the server
had been, whatever lies broken in between [RULES D1].

After a damage nothing is known until a frame says it anew: the index by the next entry, truncation
or segment; term and vote by the next hard state, which each segment begins with.
"""

from __future__ import annotations

import os

from attrs import define, field, frozen

from raft.core.configuration import Configuration
from raft.core.outputs import HardState
from raft.errors import StorageDamaged
from raft.storage import frames, segments
from raft.storage.files import Files, read_all
from raft.storage.frames import Frame
from raft.storage.marks import How, Mark, decode_hard_state, decode_mark
from raft.storage.records import BadRecord, Kind, Record, decode, decode_configuration
from raft.storage.segments import HEADER_BLOCK_BYTES


@frozen
class Damage:
    """A place in a file that is not as it was written."""

    path: str
    offset: int
    reason: str

    def __str__(self) -> str:
        """Return what an operator is told of it."""
        return f"{self.path}, byte {self.offset}: {self.reason}"


@frozen
class Stretch:
    """Entries [start, end) that are whole; the last one is of `last_term`."""

    start: int
    end: int
    last_term: int


@frozen
class Salvaged:
    """What a directory's log still says.

    Attributes:
        damages: where it is damaged, in the order of the log.
        stretches: which entries are good, in order.
        hard_state: the last term and vote; None where they cannot be known any more.
        last: (term, index) of the last entry that the log held; None where that is unknown.
        marks: all snapshot marks that can be read, oldest first.
        configurations: of the log, as far as they can be read, with their indexes.
        names: of all segments, oldest first, and which of them are (or follow) the first damaged.
    """

    damages: tuple[Damage, ...]
    stretches: tuple[Stretch, ...]
    hard_state: HardState | None
    last: tuple[int, int] | None
    marks: tuple[Mark, ...]
    configurations: tuple[tuple[int, Configuration], ...]
    names: tuple[str, ...]
    damaged_names: tuple[str, ...]

    @property
    def before(self) -> tuple[str, ...]:
        """The segments before the first damaged one."""
        first = min(self.damaged_names, default="")
        return tuple(name for name in self.names if name < first) if first else self.names

    @property
    def behind(self) -> tuple[str, ...]:
        """The segments after the last damaged one."""
        last = max(self.damaged_names, default="")
        return tuple(name for name in self.names if name > last)


def salvage(files: Files, directory: str, incarnation: int = 0) -> Salvaged:
    """Read all segments of `directory`, past every damage; change nothing. Blocks.

    Raises:
        BadConfiguration: a newer version of this library wrote it.
        OSError: the disk refused.
    """
    return _Salvage(files, directory, incarnation).run()


@define(eq=False)
class _Salvage:
    files: Files
    directory: str
    incarnation: int
    damages: list[Damage] = field(factory=list)
    damaged: set[str] = field(factory=set)
    stretches: list[Stretch] = field(factory=list)
    marks: list[Mark] = field(factory=list)
    configurations: list[tuple[int, Configuration]] = field(factory=list)
    hard_state: HardState | None = None
    next_index: int | None = None
    last_term: int = 0
    _broken: bool = False
    """Whether something was lost since the last entry that could be read."""
    _sequence: int = 0
    _checksum: int = 0
    _end: tuple[str, int] = ("", 0)
    """Where the last whole frame ended."""

    def run(self) -> Salvaged:
        names = self.files.names(self.directory)
        found = {number: name for name in names if (number := segments.number_of(name)) is not None}
        if found:
            for number in range(min(found), max(found) + 1):
                self._read(number, os.path.join(self.directory, segments.name(number)), found)
        last = None
        if self.next_index is not None:
            last = (self.last_term, self.next_index - 1)
        hard_state = self.hard_state
        if hard_state is not None and last is not None and last[0] > hard_state.current_term:
            hard_state = None
        return Salvaged(
            tuple(self.damages),
            tuple(self.stretches),
            hard_state,
            last,
            tuple(self.marks),
            tuple(self.configurations),
            tuple(found[number] for number in sorted(found)),
            tuple(sorted(self.damaged)),
        )

    def _read(self, number: int, path: str, found: dict[int, str]) -> None:
        if number not in found:
            self._damage(path, 0, "the segment is missing")
            return
        fd = self.files.open(path)
        try:
            content = read_all(self.files, fd, self.files.size(fd), 0)
        finally:
            self.files.close(fd)
        head = content[: segments.HEADER.size]
        try:
            id = segments.decode_header(head, path, number, self.incarnation, len(content))
        except StorageDamaged as error:
            self._damage(path, error.offset, str(error.args[-1]).partition(";")[0])
            return
        before = self._end
        self._read_frames(path, content, id)
        is_newest = number == max(found)
        if self._end == before and not (is_newest and (before[0] or number == 1)):
            self._damage(path, HEADER_BLOCK_BYTES, "the segment's first frame is damaged")

    def _read_frames(self, path: str, content: bytes, id: int) -> None:
        view = memoryview(content)
        offset = HEADER_BLOCK_BYTES
        while True:
            frame = frames.find(view, offset, id)
            if frame is None:
                following = frames.successor(content, offset, id, self._sequence + 1)
                if following is None:
                    return
                self._damage(path, offset, "the frame here is damaged")
                offset = following
                continue
            if self._follows(path, offset, frame):
                self._take(path, offset, frame, content)
                self._sequence, self._checksum = frame.sequence, frame.checksum
                self._end = (path, frame.end)
            offset = frame.end

    def _follows(self, path: str, offset: int, frame: Frame) -> bool:
        """Tell whether a frame may be believed, and note what is missing before it."""
        if not self._end[0] and not self._broken:
            # Segments before the first one are gone because nobody needs them.
            return True
        if frame.sequence <= self._sequence:
            self._damage(path, offset, f"frame {frame.sequence} stands here a second time")
            return False
        chained = frame.sequence == self._sequence + 1 and frame.previous == self._checksum
        if not chained and not self._broken:
            where = self._end
            self._damage(*where, f"what followed here is lost, up to frame {frame.sequence}")
        return True

    def _damage(self, path: str, offset: int, reason: str) -> None:
        """Note a damage: from here on nothing is known that no later frame says."""
        self.damages.append(Damage(path, offset, reason))
        self.damaged.add(os.path.basename(path))
        self._broken = True
        self.hard_state = self.next_index = None

    def _take(self, path: str, offset: int, frame: Frame, content: bytes) -> None:
        try:
            records = list(decode(content[frame.body : frame.end]))
            for record in records:
                self._take_record(record)
        except (BadRecord, UnicodeDecodeError) as error:
            self._damage(path, offset, f"the frame's content cannot be: {error}")
            return
        self._broken = False

    def _take_record(self, record: Record) -> None:
        if record.kind == Kind.HARD_STATE:
            self.hard_state = decode_hard_state(record)
        elif record.kind == Kind.SEGMENT:
            if self.next_index is None:
                self._go_on_at(record.index, record.term)
        elif record.kind == Kind.TRUNCATE:
            self._go_on_at(record.index, record.term)
        elif record.kind == Kind.SNAPSHOT:
            mark, how = decode_mark(record)
            if not self.marks or self.marks[-1] != mark:
                self.marks.append(mark)
            if how is How.DISCARD_LOG:
                self._go_on_at(1, 0)
                self._go_on_at(mark.index + 1, mark.term)
        else:
            self._take_entry(record)

    def _take_entry(self, record: Record) -> None:
        index, term = record.index, record.term
        if self.next_index is None:
            self._go_on_at(index, 0)
        elif index != self.next_index:
            raise BadRecord(0, f"entry {index} where {self.next_index} must follow")
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.end == index and not self._broken:
            self.stretches[-1] = Stretch(last.start, index + 1, term)
        else:
            self.stretches.append(Stretch(index, index + 1, term))
            self._broken = False
        if record.kind == Kind.CONFIGURATION:
            self.configurations.append((index, decode_configuration(record.payload)))
        self.next_index, self.last_term = index + 1, term

    def _go_on_at(self, index: int, prev_term: int) -> None:
        """Let the log go on with entry `index`: what stood there, and behind it, was removed."""
        while self.stretches and self.stretches[-1].start >= index:
            self.stretches.pop()
        if self.stretches and self.stretches[-1].end > index:
            last = self.stretches[-1]
            self.stretches[-1] = Stretch(last.start, index, prev_term)
        self.configurations = [each for each in self.configurations if each[0] < index]
        self.next_index, self.last_term = index, prev_term
