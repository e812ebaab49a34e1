from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ultraedit.comparison import picture as drawing
from ultraedit.comparison.picture import draw, limits, picture, points_of

CLUSTER = {
    "anchored": (0.985, 0.99), "ultraedit": (0.93, 0.97), "ft": (0.61, 0.93),
    "ft_at_once": (0.985, 0.985), "rome": (0.55, 0.3), "memit": (0.95, 0.96),
    "wise": (0.99, 0.9), "grace": (0.998, 0.98),
}  # fmt: skip


def test_axes_show_everything_and_no_more_than_helps():
    assert limits([0.0, 1.0]) == pytest.approx((-0.03, 1.03))
    assert limits([0.3, 0.95]) == pytest.approx((-0.03, 1.03))
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
            figure = Figure(figsize=size, layout="constrained")
            unedited = drawing.Point(1.0, 0.125, "unedited", drawing.GREY, "X")
            draw(figure, [*points_of(comparison), unedited], comparison)
            return figure

        yield make


def test_every_run_has_a_mark_and_is_in_the_legend(made_up, figure_of):
    figure = figure_of(made_up(**CLUSTER))
    (axes,) = figure.axes
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(axes.lines) == len(CLUSTER) + 1
    assert "ft (all at once)\n50.0 ms/edit, 2.00 MB" in labels
    assert labels[-1] == "unedited"
    faces = {line.get_markerfacecolor() for line in axes.lines}
    assert "white" in faces, "all at once is hollow"
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    assert legend.get_window_extent().x0 >= inside.x1, "the legend covers no mark"
    for line in axes.lines:
        x, y = axes.transData.transform(line.get_xydata()[0])
        assert inside.contains(x, y)
    assert "does not begin at 0" in axes.get_xlabel()
    assert "does not begin at 0" not in axes.get_ylabel()


def test_runs_of_one_method_share_a_style_and_others_do_not(made_up):
    points = points_of(made_up(**CLUSTER))
    styles = [(point.colour, point.marker) for point in points]
    assert styles[2] == styles[3]
    assert len(set(styles)) == len(CLUSTER) - 1
    assert [point.hollow for point in points].count(True) == 1


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
