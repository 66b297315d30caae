"""A timeline of a few operations, as a picture: SVG, complete in itself and without scripts.

Time runs to the right, from one call or return to the next in equal steps: what matters is what
overlaps, not for how long. Each client has a row; what has no known end runs out of the picture.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from attrs import frozen

from raft.testing.checker.counterexample import label, since
from raft.testing.history import Operation

MOST_OPERATIONS: Final = 200
"""How many are drawn: the last ones to be called."""

_STEP, _ROW, _BAR = 120, 44, 30
_TOP, _SIDE = 84, 24
_LETTER = 7.3
"""How wide a letter is, about, in the unit of the picture."""

_STYLE = """
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1c2330; }
.title { font: bold 15px system-ui, sans-serif; }
.note, .tick { font: 11px system-ui, sans-serif; fill: #5b6472; }
.line { stroke: #e3e7ee; stroke-width: 1; }
.done { fill: #d7e8fb; stroke: #2f6db3; }
.unknown { fill: #f4f4f4; stroke: #8a8f99; stroke-dasharray: 5 3; }
.last { fill: #fbdcd9; stroke: #b3261e; stroke-width: 2; }
"""


@frozen
class _Bar:
    """One operation in the picture: its row, and its first and last step."""

    operation: Operation
    row: int
    start: int
    end: int


def svg(key: Hashable, piece: Sequence[Operation], model_name: str) -> str:
    """Return the picture of operations that no order explains."""
    shown = sorted(piece, key=lambda each: each.call_ns)[-MOST_OPERATIONS:]
    times = sorted(
        {each.call_ns for each in shown} | {_end_ns(each) for each in shown if _ends(each)}
    )
    rows: list[str] = []
    bars = _bars(shown, times, rows)
    margin = _SIDE + _LETTER * min(24, max((len(each) for each in rows), default=0)) + 16
    width = int(max(margin + _STEP * max(len(times), 1) + _SIDE, 820))
    height = _TOP + _ROW * len(rows) + 56
    last = max((bar for bar in bars if _ends(bar.operation)), key=_end_of, default=None)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'width="{width}" height="{height}" role="img">'
            ),
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *_heading(key, model_name, len(piece), len(shown)),
            *_ticks(times, margin, height),
            *(
                f'<text x="{_SIDE}" y="{_TOP + _ROW * row + 20}">{_fitting(name, 24)}</text>'
                for row, name in enumerate(rows)
            ),
            *(line for bar in bars for line in _drawn(bar, bar is last, margin)),
            (
                f'<text class="note" x="{_SIDE}" y="{height - 16}">Blue: returned. Dashed: outcome '
                "unknown, it may take effect at any time after its call, or never. "
                "Red: the last to return.</text>"
            ),
            "</svg>",
            "",
        ]
    )


def _ends(operation: Operation) -> bool:
    return bool(operation.ok) and operation.return_ns is not None


def _end_ns(operation: Operation) -> int:
    return operation.return_ns or 0


def _end_of(bar: _Bar) -> int:
    return _end_ns(bar.operation)


def _bars(shown: Sequence[Operation], times: list[int], rows: list[str]) -> list[_Bar]:
    """Give each operation a row of its client's; where it has gone on from an unknown, a new one.

    Fills `rows` with what stands at the left of each.
    """
    place = {time: number for number, time in enumerate(times)}
    until: dict[tuple[str, int], int] = {}
    lanes = []
    for each in shown:
        start = place[each.call_ns]
        end = max(place[_end_ns(each)], start + 1) if _ends(each) else len(times)
        lane = 0
        while until.get((each.client, lane), -1) > start:
            lane += 1
        until[each.client, lane] = end
        lanes.append((each, lane, start, end))
    order = sorted(until)
    rows += [client if lane == 0 else "" for client, lane in order]
    row_of = {name: row for row, name in enumerate(order)}
    return [_Bar(each, row_of[each.client, lane], start, end) for each, lane, start, end in lanes]


def _heading(key: Hashable, model_name: str, count: int, shown: int) -> list[str]:
    left = f", the last {shown} of them" if shown < count else ""
    return [
        (
            f'<text class="title" x="{_SIDE}" y="30">No order explains these {count} operations'
            f"{left}</text>"
        ),
        (
            f'<text class="note" x="{_SIDE}" y="50">{escape(model_name)}, key '
            f"{_fitting(repr(key), 80)}</text>"
        ),
    ]


def _ticks(times: list[int], margin: float, height: int) -> list[str]:
    lines = []
    for number, time in enumerate(times):
        x = margin + _STEP * number
        lines.append(
            f'<line class="line" x1="{x:.0f}" x2="{x:.0f}" y1="{_TOP - 8}" y2="{height - 40}"/>'
        )
        lines.append(
            f'<text class="tick" x="{x:.0f}" y="{_TOP - 14}">{since(times[0], time)}</text>'
        )
    return lines


def _drawn(bar: _Bar, is_last: bool, margin: float) -> list[str]:
    x, y = margin + _STEP * bar.start, _TOP + _ROW * bar.row
    width = _STEP * (bar.end - bar.start) - 4
    name = "unknown" if not _ends(bar.operation) else "last" if is_last else "done"
    text = label(bar.operation).removesuffix(" (outcome unknown)")
    letters = int((width - 12) / _LETTER)
    return [
        (
            f"<g><title>{escape(f'{bar.operation.client}: {label(bar.operation)}')}</title>"
            f'<rect class="{name}" x="{x:.0f}" y="{y}" width="{width}" height="{_BAR}" rx="5"/>'
        ),
        f'<text x="{x + 7:.0f}" y="{y + 20}">{_fitting(text, letters)}</text></g>',
    ]


def _fitting(text: str, letters: int) -> str:
    """Return a text that may stand in XML, cut off where it is too long."""
    clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return escape(clean if len(clean) <= letters else clean[: max(letters - 1, 0)] + "…")
