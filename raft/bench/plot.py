"""The figures as a picture: SVG, complete in itself and without scripts.

Lines of one series that stand at several places of one axis are a curve; all others are bars.
Left is the rate, right the 99th percentile; both begin at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from raft.bench.plan import Row

PANELS: Final = (("ops_per_second", "operations a second"), ("p99_ms", "p99, ms"))
COLOURS: Final = ("#2f6db3", "#b3261e", "#2e7d4f", "#8a5cb8", "#b7791f", "#1c2330", "#5b6472")
STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1c2330; }
.title { font-weight: bold; }
.axis { stroke: #8a8f99; }
"""
_WIDTH, _HEIGHT, _SIDE, _TOP, _BELOW = 520, 320, 70, 40, 70

Series = dict[str, list[Row]]


def svg(rows: Sequence[Row]) -> str:
    """Return the picture of `rows`: a line of two panels for each axis, and one of bars."""
    axes: dict[str, Series] = {}
    for row in rows:
        axes.setdefault(row["axis"], {}).setdefault(row["series"], []).append(row)
    lines: list[tuple[str, Series]] = []
    bars: list[Row] = []
    for axis, all_series in axes.items():
        curves = {name: _placed(each) for name, each in all_series.items()}
        curves = {name: each for name, each in curves.items() if len(each) > 1}
        drawn = {id(row) for each in curves.values() for row in each}
        bars += [row for each in all_series.values() for row in each if id(row) not in drawn]
        if curves:
            lines.append((axis, curves))
    bands = [_curves(axis, curves) for axis, curves in lines] + ([_bars(bars)] if bars else [])
    width, height = 2 * _WIDTH, _HEIGHT * max(1, len(bands))
    placed = (
        f'<g transform="translate({_WIDTH * column},{_HEIGHT * number})">{panel}</g>'
        for number, band in enumerate(bands)
        for column, panel in enumerate(band)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", ground, *placed, "</svg>", ""])


def _placed(rows: Sequence[Row]) -> list[Row]:
    return sorted((row for row in rows if row["at"]), key=lambda row: float(row["at"]))


def _frame(title: str, most: float, below: str) -> list[str]:
    bottom, right = _HEIGHT - _BELOW, _WIDTH - 20
    return [
        f'<text class="title" x="{_SIDE}" y="24">{escape(title)}</text>',
        f'<line class="axis" x1="{_SIDE}" x2="{right}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{_SIDE}" x2="{_SIDE}" y1="{_TOP}" y2="{bottom}"/>',
        f'<text x="{_SIDE - 6}" y="{_TOP + 4}" text-anchor="end">{most:,.4g}</text>',
        f'<text x="{_SIDE - 6}" y="{bottom}" text-anchor="end">0</text>',
        (
            f'<text x="{(_SIDE + right) // 2}" y="{_HEIGHT - 36}" text-anchor="middle">'
            f"{escape(below)}</text>"
        ),
    ]


def _curves(axis: str, curves: Series) -> list[str]:
    """Return the panels of one axis, whose places stand at their logarithms."""
    places = sorted({float(row["at"]) for each in curves.values() for row in each})
    first, last = math.log(places[0]), math.log(places[-1])
    spread = (_WIDTH - _SIDE - 60) / (last - first or 1.0)
    x_of = {place: _SIDE + 20 + spread * (math.log(place) - first) for place in places}
    panels = []
    for key, title in PANELS:
        found = [row[key] for each in curves.values() for row in each if row[key]]
        most = max(found, default=1.0)
        parts = _frame(title, most, axis)
        for place, x in x_of.items():
            y = _HEIGHT - _BELOW + 16
            parts.append(f'<text x="{x:.0f}" y="{y}" text-anchor="middle">{place:,.7g}</text>')
        for number, (name, each) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            points = [
                f"{x_of[float(row['at'])]:.1f},{_y(row[key], most):.1f}" for row in each if row[key]
            ]
            parts.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="2" '
                f'points="{" ".join(points)}"/>'
            )
            parts.append(
                f'<text x="{_SIDE + 90 * (number % 5)}" y="{_HEIGHT - 18 + 14 * (number // 5)}" '
                f'style="fill: {colour}">{escape(name)}</text>'
            )
        panels.append("".join(parts))
    return panels


def _bars(rows: Sequence[Row]) -> list[str]:
    """Return the panels of what was measured at one place only."""
    step = (_WIDTH - _SIDE - 40) / len(rows)
    panels = []
    for key, title in PANELS:
        most = max((row[key] for row in rows if row[key]), default=1.0)
        parts = _frame(title, most, "")
        for number, row in enumerate(rows):
            x, y = _SIDE + 10 + step * number, _y(row[key] or 0.0, most)
            tall = _HEIGHT - _BELOW - y
            shown = "not measured" if row[key] is None else f"{row[key]:,.4g}"
            parts.append(
                f"<g><title>{escape(row['text'])}: {shown}</title>"
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{0.7 * step:.1f}" height="{tall:.1f}" '
                f'fill="{COLOURS[0]}"/></g>'
                f'<text x="{x:.1f}" y="{_HEIGHT - _BELOW + 16}">{escape(row["workload"])}</text>'
            )
        panels.append("".join(parts))
    return panels


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BELOW - (_HEIGHT - _BELOW - _TOP) * value / most
