import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError, TopologyError
from flower_dfl.testing import check_topology
from flower_dfl.topologies.file import from_file


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_file(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write_file


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_nodes=st.integers(2, 30), seed=st.integers(0, 2**32))
@pytest.mark.parametrize(
    ("suffix", "store"), [(".edgelist", nx.write_edgelist), (".txt", nx.write_edgelist), (".graphml", nx.write_graphml)]
)
def test_what_networkx_writes_comes_back(tmp_path, suffix, store, num_nodes, seed):
    graph = nx.random_labeled_tree(num_nodes, seed=seed)
    path = tmp_path / f"graph{suffix}"
    store(graph, path)

    assert nx.utils.graphs_equal(from_file(num_nodes, path=str(path)), graph)


def test_an_edge_list_may_have_comments_empty_lines_and_further_columns(write):
    path = write("graph.edges", "# from, to, distance\n\n0 1 2.5\n2\t1 {'km': 3}\n 0  2 # closes the triangle\n1 0\n")

    assert nx.utils.graphs_equal(from_file(3, path=path), nx.cycle_graph(3))


def test_attributes_are_left_out(tmp_path):
    weighted = nx.path_graph(3)
    nx.set_edge_attributes(weighted, 0.5, "weight")
    nx.set_node_attributes(weighted, "red", "colour")
    nx.write_graphml(weighted, tmp_path / "graph.graphml")

    assert nx.utils.graphs_equal(from_file(3, path=str(tmp_path / "graph.graphml")), nx.path_graph(3))


def test_a_relative_path_starts_at_the_current_directory(write):
    path = write("here.txt", "0 1\n1 2\n")

    check_topology(registry.build("topology", "file", {"path": path}), num_nodes=3)


def test_a_path_is_needed():
    with pytest.raises(ConfigurationError, match=r"^topology 'file' needs the parameters path, got \[\]$"):
        registry.build("topology", "file")


def test_a_missing_file_is_refused_with_its_absolute_path(write, tmp_path):
    with pytest.raises(TopologyError) as caught:
        from_file(3, path="none.txt")

    assert str(caught.value) == f"cannot read the graph file {tmp_path / 'none.txt'}: No such file or directory"


def test_a_folder_is_no_graph(tmp_path):
    (tmp_path / "graph.txt").mkdir()

    with pytest.raises(TopologyError, match=r"^cannot read the graph file .*graph\.txt: Is a directory$"):
        from_file(3, path=str(tmp_path / "graph.txt"))


@pytest.mark.parametrize("name", ["graph.pickle", "graph.gpickle", "graph.json", "graph"])
def test_any_other_suffix_is_refused_before_the_file_is_opened(name):
    with pytest.raises(
        TopologyError, match=rf"{name}: the suffix must be \.graphml, \.edgelist, \.edges, \.txt, got '"
    ):
        from_file(3, path=name)


@pytest.mark.parametrize("line", ["0", "0,1", "0 b", "0 1.5", "a b"])
def test_a_line_without_two_integers_is_refused_with_its_number(write, line):
    path = write("graph.txt", f"0 1\n\n{line}\n1 2\n")

    with pytest.raises(TopologyError, match=rf"graph\.txt: line 3 must begin with two integer labels, got '{line}'$"):
        from_file(3, path=path)


def test_a_label_out_of_range_is_refused(write):
    path = write("graph.txt", "0 1\n1 3\n")

    with pytest.raises(TopologyError, match=r"graph\.txt: the labels must be .* 0\.\.2: missing 2, not allowed 3$"):
        from_file(3, path=path)


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_another_number_of_nodes_is_refused(write, num_nodes):
    path = write("graph.txt", "0 1\n1 2\n")

    with pytest.raises(TopologyError, match=rf"graph\.txt: expected num_nodes = {num_nodes} nodes, got 3$"):
        from_file(num_nodes, path=path)


def test_a_self_loop_is_refused(write):
    path = write("graph.txt", "0 1\n1 1\n")

    with pytest.raises(
        TopologyError, match=r"graph\.txt: no node may be its own neighbour, got self-loops at nodes 1$"
    ):
        from_file(2, path=path)


def test_a_graph_in_parts_is_refused(write):
    path = write("graph.txt", "0 1\n2 3\n")

    with pytest.raises(TopologyError, match=r"graph\.txt: the graph must be connected, got 2 components"):
        from_file(4, path=path)


def test_text_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "graph.txt").write_bytes(b"\x80\x04\x95")

    with pytest.raises(TopologyError, match=r"graph\.txt: 'utf-8' codec can't decode"):
        from_file(2, path=str(tmp_path / "graph.txt"))


@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiGraph])
def test_a_directed_or_multiple_graph_is_refused(tmp_path, kind):
    nx.write_graphml(kind([(0, 1), (0, 1), (1, 0)]), tmp_path / "graph.graphml")

    with pytest.raises(TopologyError, match=rf"graph\.graphml: the graph must be undirected .* got a {kind.__name__}$"):
        from_file(2, path=str(tmp_path / "graph.graphml"))


def test_graphml_with_names_for_labels_is_refused(tmp_path):
    nx.write_graphml(nx.path_graph(["a", "b"]), tmp_path / "graph.graphml")

    with pytest.raises(TopologyError, match=r"graph\.graphml: it must be GraphML with integers for labels: .*'a'$"):
        from_file(2, path=str(tmp_path / "graph.graphml"))


@pytest.mark.parametrize("text", ["0 1\n", "<html></html>", "<graphml>", ""])
def test_what_is_no_graphml_is_refused(write, text):
    path = write("graph.graphml", text)

    with pytest.raises(TopologyError, match=r"graph\.graphml: it must be GraphML with integers for labels: "):
        from_file(2, path=path)
