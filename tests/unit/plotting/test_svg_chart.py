"""The figure of a server's life: it says what was seen, nothing in it overlaps, and nothing from outside is markup."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_magic.plotting import svg_chart
from vllm_magic.plotting.plot import Plot
from vllm_magic.plotting.svg_chart import Mark
from vllm_magic.plotting.timeseries import Curve, Sample

GIB = 2**30
BEGAN = 1795579000.0
EVIL = "<script>alert(1)</script>\"'&\x1b[31m"
SVG = "{http://www.w3.org/2000/svg}"


def life(
    seconds: float,
    *,
    gpus: int = 1,
    told: bool = True,
    over: bool = True,
    name: str = "tiny",
    model: str = "m",
) -> Plot:
    """A server that was ready after a tenth of its life, held 4 GiB of each GPU, and answered in its middle."""
    curve = Curve()
    if gpus:
        curve.begin([GIB] * gpus, range(gpus))
    ready = seconds / 10
    for number in range(60):
        at = seconds * number / 50
        held = 4 * GIB if ready <= at <= seconds else 0
        busy = told and ready <= at < seconds
        curve.add(
            Sample(
                BEGAN + at,
                (GIB + held,) * gpus,
                (held,) * gpus,
                3 if busy else None,
                number % 2 if busy else None,
                10.5 if busy else None,
                200.0 * (number % 5) if busy else None,
            )
        )
    times = {"starting": BEGAN, "ready": BEGAN + ready}
    if over:
        times |= {"stopping": BEGAN + seconds, "released": BEGAN + seconds + 0.4}
    return Plot(name, model, curve, lambda: times)


def texts(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}text"))


def said(svg: str) -> list[str]:
    return [one.text or "" for one in texts(svg)]


def box(text: ET.Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a text, by the width that its characters have on average."""
    x, y, wide = float(text.get("x")), float(text.get("y")), len(text.text) * 5.8
    left = {"start": x, "middle": x - wide / 2, "end": x - wide}[text.get("text-anchor")]
    return left, y - 8, left + wide, y + 2


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("seconds", [0.4, 3, 59, 60, 125, 7200, 4 * 86400, 400 * 86400])
def test_no_text_overlaps_another_or_leaves_the_figure(seconds, gpus, over):
    svg = life(seconds, gpus=gpus, over=over).svg
    _, _, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    boxes = [(one.text, box(one)) for one in texts(svg)]
    for number, (text, place) in enumerate(boxes):
        assert place[0] >= -1, text
        assert place[2] <= width + 1, text
        assert place[3] <= height + 1, text
        for other, elsewhere in boxes[number + 1 :]:
            assert not overlap(place, elsewhere), (text, other)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
@example([0.49, 0.51])
@example([0.9, 0.93, 0.96])
@example([0.5] * 6)
@example([1.0] * 6)
@settings(deadline=None, max_examples=500)
def test_marks_do_not_cross_however_near_they_are(shares):
    marks = [Mark(share, f"mark {number}") for number, share in enumerate(shares)]
    placed = list(
        svg_chart._rows(
            marks, lambda at: svg_chart.LEFT + at * (svg_chart.WIDTH - svg_chart.LEFT - svg_chart.RIGHT)
        )
    )
    assert {mark.text for mark, *_ in placed} == {mark.text for mark in marks}
    ends = []
    for mark, x, anchor, row in placed:
        wide = svg_chart._width(mark.text)
        begin, end = (x + 1, x + wide) if anchor == "start" else (x - wide, x - 1)
        assert 0 <= begin < end <= svg_chart.WIDTH
        ends.append((x, begin, end, row))
    for number, (x, begin, end, row) in enumerate(ends):
        for other_x, other_begin, other_end, other_row in ends[number + 1 :]:
            if row == other_row:
                assert end <= other_begin or other_end <= begin
            elif row < other_row:
                assert not other_begin < x < other_end
            else:
                assert not begin < other_x < end


@pytest.mark.parametrize("seconds", [0.001, 1, 3, 7.5, 30, 90, 600, 5000, 7200, 86400, 10**6, 10**8])
def test_the_axis_has_a_few_round_times(seconds):
    svg = svg_chart.draw(svg_chart.Chart("t", "w", (svg_chart.Axes("p", (), 50),), (), seconds))
    ticks = [one for one in said(svg) if re.fullmatch(r"[\d.]+ (s|min|h|d)", one)]
    assert len(ticks) < 9
    if seconds >= 0.5:
        assert ticks
    found = [float(one.split()[0]) for one in ticks]
    assert found == sorted(found)
    assert len({round(later - one, 6) for one, later in pairwise([0.0, *found])}) <= 1


def test_what_it_says():
    plot = life(60, gpus=2)
    svg = plot.svg
    assert plot._repr_html_() == f'<div style="--vllm-magic-text:currentColor">{svg}</div>'
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == said(svg)[0]
    assert said(svg)[0].startswith("tiny · m · started 20")
    words = root.find(f"{SVG}desc").text
    for one in (
        "start at 0.0 s, ready at 6.0 s, stop at 1 min 0 s, released at 1 min 0 s",
        "VRAM in use: 2.00 to 10.00 GiB",
        "VRAM held by it: 0.00 to 8.00 GiB",
        "VRAM before the start: 2.00 GiB",
        "tokens/s in: 10.5",
        "tokens/s out: 0.0 to 800.0",
        "requests running: 3",
        "requests waiting: 0 to 1",
    ):
        assert one in words
        assert one.split(": ")[-1] in repr(plot)
    for one in ("VRAM on GPUs 0, 1, GiB", "tokens/s", "requests", "start", "ready", "stop", "released"):
        assert one in said(svg)
    assert "{" not in repr(plot)


def test_a_failure():
    plot = life(60, over=False)
    times = {**plot.times(), "failed": BEGAN + 60}
    svg = Plot("tiny", "m", plot.curve, lambda: times).svg
    (failed,) = [one for one in texts(svg) if one.text == "failed"]
    assert svg_chart.RED in failed.get("style")


def test_without_a_gpu():
    plot = life(60, gpus=0)
    assert "VRAM: no GPU was seen, or its driver did not answer." in said(plot.svg)
    assert not [one for one in said(plot.svg) if one.startswith("VRAM on")]
    assert "tokens/s" in said(plot.svg)
    assert "no GPU was seen" in repr(plot)


def test_one_that_told_nothing():
    plot = life(60, told=False)
    assert "Tokens and requests: the server has not reported any." in said(plot.svg)
    assert "tokens/s" not in said(plot.svg)


def test_before_anything_was_seen():
    plot = Plot("tiny", "m", Curve(), lambda: {"starting": BEGAN})
    assert "no GPU was seen" in plot.svg
    assert "start at 0.0 s" in repr(plot)


def test_the_end_is_shown_but_not_all_that_came_after_it():
    plot = life(3)
    for number in range(10):
        plot.curve.add(Sample(BEGAN + 3.5 + number, (GIB,), (0,)))
    assert "5 s" in said(plot.svg)
    assert "6 s" not in said(plot.svg)


def test_memory_that_the_driver_does_not_tell():
    curve = Curve()
    for number in range(5):
        curve.add(Sample(BEGAN + number, (None,), (None,)))
    assert "VRAM: no GPU" in Plot("tiny", "m", curve, lambda: {"starting": BEGAN}).svg


def test_the_gpus_are_not_known_where_no_process_is_named():
    curve = Curve()
    for number in range(5):
        curve.add(Sample(BEGAN + number, (GIB, 2 * GIB), (None, None)))
    plot = Plot("tiny", "m", curve, lambda: {"starting": BEGAN})
    assert "VRAM on GPUs 0, 1, GiB" in said(plot.svg)
    assert "held by it" not in plot.svg


def test_nothing_from_outside_is_markup():
    plot = life(60, name="tiny", model=EVIL)
    assert "<script" not in plot.svg
    assert "\x1b" not in plot.svg + repr(plot)
    assert {one.tag.removeprefix(SVG) for one in ET.fromstring(plot.svg).iter()} == {
        *("svg", "title", "desc", "text", "line", "polyline", "polygon", "rect"),
    }
    assert "hf_" + "a" * 34 not in life(60, model="hf_" + "a" * 34).svg
