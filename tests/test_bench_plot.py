"""`raft bench --plot`: curves where there are several places, bars where there is one."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from raft.bench.plan import Row
from raft.bench.plot import svg
from raft.bench.rows import blank
from raft.bench.workloads import chosen
from raft.cli.main import run


def line(name: str, outstanding: int, rate: float, p99_ms: float | None) -> Row:
    (workload,) = chosen([name])
    row = blank(workload, outstanding, 64)
    return row | {"ops_per_second": rate, "p99_ms": p99_ms}


def drawn(rows: list[Row], tag: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(svg(rows))
    return root.findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def test_a_curve_has_a_point_for_each_place_in_both_panels() -> None:
    rows = [line("W1", count, 10.0 * count, 1.0) for count in (1000, 1, 16)]
    curves = drawn(rows, "polyline")
    assert [len(each.attrib["points"].split()) for each in curves] == [3, 3]
    # From left to right, whatever the order in which they were measured; up is more.
    places = [each.split(",") for each in curves[0].attrib["points"].split()]
    assert [float(x) for x, _ in places] == sorted(float(x) for x, _ in places)
    assert [float(y) for _, y in places] == sorted((float(y) for _, y in places), reverse=True)


def test_single_figures_are_bars_and_one_that_was_not_measured_has_no_height() -> None:
    rows = [line("W0", 2500, 100.0, 5.0), line("W7", 1, 50.0, None)]
    assert drawn(rows, "polyline") == []
    heights = [float(each.attrib["height"]) for each in drawn(rows, "rect")[1:]]
    assert heights[0] == 2 * heights[1] == heights[2] > 0
    assert heights[3] == 0


@pytest.mark.parametrize("name", ["figures.png", "none/figures.svg"])
def test_a_bad_name_is_refused_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    assert run(["bench", "W1", "--plot", str(tmp_path / name)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_nothing_is_one_all_the_same() -> None:
    assert svg([]).startswith("<svg")
