import os
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from flower_dfl.errors import ConfigurationError, DflError

pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from flower_dfl.figures.lines import draw_lines, explain_band
from flower_dfl.figures.network import draw_network
from flower_dfl.figures.series import ROUND, Line, Panel, Point
from flower_dfl.figures.split import draw_split
from flower_dfl.figures.style import SUFFIXES, house_style, line_style, save

ROOT = Path(__file__).parents[2]


def panel(*labels, seeds=2, title="", band="min-max"):
    points = [Point.of(x, [0.1 * x + 0.01 * seed for seed in range(seeds)], band) for x in (1.0, 2.0, 3.0)]
    lines = [Line(name, tuple(points)) for name in labels]
    return Panel(title, tuple(lines))


def test_no_two_of_many_lines_look_alike_without_colour_and_shape():
    styles = [line_style(index) for index in range(280)]

    assert len({str(style) for style in styles}) == 280
    assert len({str((style["marker"], style["linestyle"])) for style in styles[:40]}) == 40


def test_the_curve_is_the_mean_and_the_band_what_was_asked_for():
    figure = draw_lines([panel("a")], ROUND, "accuracy", "strategy.name", "min-max")

    (axes,) = figure.axes
    assert axes.lines[0].get_ydata() == pytest.approx([0.105, 0.205, 0.305])
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).ymin == pytest.approx(0.1)
    assert band.get_datalim(axes.transData).ymax == pytest.approx(0.31)


def test_a_label_has_one_style_in_all_panels_and_one_entry_in_the_legend():
    figure = draw_lines([panel("a", "b", title="x"), panel("b", title="y")], ROUND, "accuracy", "rule", "min-max")

    first, second = figure.axes
    assert first.lines[1].get_color() == second.lines[0].get_color()
    assert first.lines[0].get_color() != first.lines[1].get_color()
    assert first.lines[0].get_marker() != first.lines[1].get_marker()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("seeds", "band", "text"),
    [
        ((1,), "min-max", "one seed"),
        ((3,), "min-max", "mean of 3 seeds, band: smallest to largest"),
        ((2, 3), "deviation", "mean of 2 to 3 seeds, band: ± one standard deviation"),
    ],
)
def test_the_legend_says_what_mean_and_band_are(seeds, band, text):
    panels = [panel("a", seeds=number) for number in seeds]

    assert explain_band(panels, band) == text
    figure = draw_lines(panels, ROUND, "accuracy", "strategy.name", band)
    assert figure.legends[0].get_title().get_text() == f"strategy.name\n{text}"


def test_panels_that_fill_no_row_leave_no_empty_axes():
    figure = draw_lines([panel("a", title=str(i)) for i in range(4)], "x", "accuracy", "rule", "min-max")

    assert [axes.get_title() for axes in figure.axes] == ["0", "1", "2", "3"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "x", "x", "x"]


def save_all(folder):
    """Save a figure of each kind in each format."""
    figures = {
        "lines": draw_lines([panel("a", "b")], ROUND, "accuracy", "rule", "min-max"),
        "network": draw_network(nx.cycle_graph(8), {1}, "ring"),
        "split": draw_split(np.array([[3, 1], [0, 5]]), {1}, "skew"),
    }
    return [save(figure, folder / f"{name}{suffix}") for name, figure in figures.items() for suffix in SUFFIXES]


def test_the_same_data_give_the_same_bytes_in_another_process(tmp_path):
    here = save_all(tmp_path / "here")

    script = "import pathlib, sys; from tests.figures.test_drawing import save_all; save_all(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    there = tmp_path / "there"
    subprocess.run([sys.executable, "-c", script, str(there)], check=True, cwd=ROOT, env=environment)

    assert len(here) == 3 * len(SUFFIXES)
    for path in here:
        assert path.read_bytes() == (there / path.name).read_bytes(), path.name


def test_the_users_own_style_changes_nothing(tmp_path):
    plain = save(draw_lines([panel("a")], ROUND, "y", "r", "min-max"), tmp_path / "plain.svg")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "yellow", "savefig.dpi": 30}):
        styled = save(draw_lines([panel("a")], ROUND, "y", "r", "min-max"), tmp_path / "styled.svg")

    assert plain.read_bytes() == styled.read_bytes()


def test_a_format_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a picture ends in .pdf, .svg, .png, got 'x.jpeg'"):
        save(Figure(), tmp_path / "x.jpeg")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DflError, match="cannot write"):
        save(Figure(), tmp_path / "file" / "x.png")


def test_byzantine_nodes_are_told_by_shape_and_their_edges_by_dashes():
    figure = draw_network(nx.path_graph(4), {3}, "path")

    (axes,) = figure.axes
    honest_edges, dashed, circles, squares = axes.collections
    assert (len(honest_edges.get_segments()), len(dashed.get_segments())) == (2, 1)
    assert (len(circles.get_offsets()), len(squares.get_offsets())) == (3, 1)
    assert circles.get_paths()[0].codes is not None  # curved
    assert len(squares.get_paths()[0].vertices) == 5  # a square, closed
    assert dashed.get_linestyle()[0][1] is not None
    assert axes.get_title() == "path: 4 nodes, 3 edges"
    assert [text.get_text() for text in figure.legends[0].get_texts()][2:] == ["3 honest", "1 Byzantine"]


@pytest.mark.parametrize(("n", "labelled"), [(1, 1), (60, 60), (61, 0)])
def test_up_to_sixty_nodes_carry_their_label(n, labelled):
    figure = draw_network(nx.complete_graph(n), set(), "complete")

    assert len(figure.axes[0].texts) == labelled


@pytest.mark.parametrize(
    "graph",
    [
        nx.cycle_graph(10),
        nx.complete_graph(12),
        nx.connected_watts_strogatz_graph(150, 4, 0.1, seed=0),
        nx.complete_graph(130),
        nx.cycle_graph(2100),
    ],
)
def test_nodes_keep_clear_of_one_another_in_every_layout(graph):
    figure = draw_network(graph, {0}, "graph")

    places = np.concatenate([each.get_offsets() for each in figure.axes[0].collections[2:]])
    nearest = np.sort(np.linalg.norm(places[:, None] - places[None], axis=2), axis=1)[:, 1]
    assert len(places) == len(graph)
    assert nearest.min() > 1e-3 * np.ptp(places)


def test_the_order_in_which_a_graph_was_built_does_not_move_its_nodes():
    graph = nx.connected_watts_strogatz_graph(20, 4, 0.3, seed=0)
    shuffled = nx.Graph([(j, i) for i, j in sorted(graph.edges, reverse=True)])

    one, other = (draw_network(each, {0}, "g").axes[0].collections[2].get_offsets() for each in (graph, shuffled))

    assert np.array_equal(one, other)


def test_a_split_shows_samples_sides_and_shares():
    counts = np.array([[3, 1], [0, 5], [2, 2]])

    figure = draw_split(counts, {1}, "skew")

    samples, shares, _ = figure.axes
    honest, byzantine = samples.containers
    assert [bar.get_height() for bar in honest] == [4, 4]
    assert [bar.get_height() for bar in byzantine] == [5]
    assert byzantine[0].get_hatch()
    assert shares.images[0].get_array().tolist() == [[0.75, 0.0, 0.5], [0.25, 1.0, 0.5]]
    assert [text.get_text() for text in shares.texts] == ["75", "25", "100", "50", "50"]


def test_a_split_of_many_nodes_is_drawn_without_numbers(tmp_path):
    figure = draw_split(np.ones((1000, 10), dtype=np.int64), set(range(900, 1000)), "even")

    path = save(figure, tmp_path / "split.png")

    assert not figure.axes[1].texts
    with Image.open(path) as picture:
        assert picture.size[0] == 3200


def test_the_house_style_is_left_behind():
    before = dict(mpl.rcParams)

    with house_style():
        pass

    assert dict(mpl.rcParams) == before
