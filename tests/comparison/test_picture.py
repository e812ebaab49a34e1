import math
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ultraedit.comparison import picture as drawing
from ultraedit.comparison.labels import nearest, place
from ultraedit.comparison.picture import draw, limits, picture, points_of

BOUNDS = (0.0, 0.0, 500.0, 380.0)
SIZE, RADIUS = (95.0, 21.0), 4.5
CLUSTER = {
    "anchored": (0.985, 0.99), "ultraedit": (0.93, 0.97), "ft": (0.61, 0.93),
    "ft_at_once": (0.985, 0.985), "rome": (0.55, 0.3), "memit": (0.95, 0.96),
    "wise": (0.99, 0.9), "grace": (0.998, 0.98),
}  # fmt: skip


def apart(box, other):
    return not (
        min(box[2], other[2]) - max(box[0], other[0]) > 0.01
        and min(box[3], other[3]) - max(box[1], other[1]) > 0.01
    )


@pytest.mark.parametrize("spread", [500, 150, 50])
def test_labels_cover_no_other_and_no_mark_and_are_not_cut_off(spread):
    chance = random.Random(spread)
    points = [
        (250 + spread * (chance.random() - 0.5) * 0.8, 190 + spread * (chance.random() - 0.5) * 0.7)
        for _ in range(9)
    ]
    boxes = place(points, [SIZE] * 9, BOUNDS, RADIUS)
    for number, box in enumerate(boxes):
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(SIZE)
        assert box[0] >= BOUNDS[0]
        assert box[1] >= BOUNDS[1]
        assert box[2] <= BOUNDS[2]
        assert box[3] <= BOUNDS[3]
        assert all(apart(box, other) for other in boxes[:number])
        assert all(apart(box, (x, y, x, y)) for x, y in points)
        assert math.dist(points[number], nearest(points[number], box)) < 30 * RADIUS
    assert boxes == place(points, [SIZE] * 9, BOUNDS, RADIUS)


def test_a_lonely_label_stands_beside_its_mark_and_at_the_border_inside():
    (box,) = place([(100.0, 100.0)], [SIZE], BOUNDS, RADIUS)
    assert box[0] == pytest.approx(100 + 2 * RADIUS)
    (box,) = place([(495.0, 375.0)], [SIZE], BOUNDS, RADIUS)
    assert box[2] <= 495
    assert box[3] <= 380


def test_axes_show_everything_and_no_more_than_helps():
    assert limits([0.0, 1.0]) == pytest.approx((-0.03, 1.1))
    assert limits([0.3, 0.95]) == pytest.approx((-0.03, 1.1))
    low, high = limits([0.9, 0.95])
    assert 0.75 < low < 0.9 < 0.95 < high < 1.1
    low, high = limits([1.0])
    assert low < 0.95
    assert high > 1.0


def test_the_picture_is_the_same_again_and_is_drawn_without_a_trace(made_up):
    import matplotlib

    before = dict(matplotlib.rcParams)
    comparison = made_up(**CLUSTER)
    drawn = picture(comparison)
    assert drawn == picture(comparison)
    assert dict(matplotlib.rcParams) == before
    assert "<dc:date>" not in drawn
    ElementTree.fromstring(drawn)


@pytest.fixture
def figure_of():
    """`figure_of(comparison)`: its figure, as the picture has it."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(drawing.STYLE):

        def make(comparison):
            size = (drawing.WIDTH, drawing.HEIGHT)
            figure = Figure(figsize=size, dpi=drawing.DPI, layout="constrained")
            unedited = drawing.Point(1.0, 0.125, "unedited", drawing.GREY)
            draw(figure, [*points_of(comparison), unedited], comparison)
            return figure

        yield make


def test_every_run_has_a_mark_and_a_label_that_can_be_read(made_up, figure_of):
    figure = figure_of(made_up(**CLUSTER))
    (axes,) = figure.axes
    labels = [text for text in axes.texts if "/edit," in text.get_text()]
    assert len(labels) == len(CLUSTER)
    assert "ft, all at once\n50.0 ms/edit, 2.00 MB" in [text.get_text() for text in labels]
    boxes = [text.get_window_extent() for text in labels]
    inside = axes.get_window_extent()
    for number, box in enumerate(boxes):
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1 + 0.01
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1 + 0.01
        assert all(apart(box.extents, other.extents) for other in boxes[:number])
    faces = {line.get_markerfacecolor() for line in axes.lines}
    assert "white" in faces, "all at once is hollow"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "turn by turn", "all edits in one turn",
    ]  # fmt: skip
    assert "does not begin at 0" in axes.get_xlabel()
    assert "does not begin at 0" not in axes.get_ylabel()


def test_runs_of_one_method_share_a_colour_and_others_do_not(made_up):
    points = points_of(made_up(**CLUSTER))
    assert points[2].colour == points[3].colour
    assert len({point.colour for point in points}) == len(CLUSTER) - 1
    assert [point.hollow for point in points].count(True) == 1


def test_without_all_at_once_there_is_no_legend(made_up, figure_of):
    assert figure_of(made_up(ft=(0.5, 0.5))).legends == []


def test_names_are_no_formulas(made_up):
    assert picture(made_up(**{"$x_1$": (0.5, 0.5)})) is not None
    assert picture(made_up(**{"$": (0.5, 0.5)})) is not None


def test_without_locality_there_is_no_picture(made_up):
    comparison = made_up(ft=(0.5, 0.5))
    report = comparison.results["ft"].report
    bare = {kind: found for kind, found in report.after.items() if kind != "locality"}
    result = replace(comparison.results["ft"], report=replace(report, after=bare, before=bare))
    assert picture(replace(comparison, results={"ft": result})) is None
    assert picture(made_up(failures={"ft": "no"})) is None
