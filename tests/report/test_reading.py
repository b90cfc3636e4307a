"""Reading run folders, complete or not."""

import json

import numpy as np
import pytest

from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.report.decisions import MISSING
from flower_dfl.report.reading import read_run

from .conftest import edge_line, four_nodes, node_line


def test_a_folder_without_configuration_is_no_run(tmp_path):
    with pytest.raises(ConfigurationError, match=r"expected the folder of a run, with a config.toml"):
        read_run(tmp_path)


def test_a_run_that_was_killed_before_its_first_round_can_be_read(make_run):
    run = read_run(make_run())

    assert (run.rounds, run.frames, run.nodes, run.summary) == ({}, {}, (), {})


def test_a_last_line_that_was_cut_off_is_left_out(make_run):
    nodes, edges = four_nodes()
    folder = make_run(nodes, edges)
    for name in ("rounds.jsonl", "edges.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"round": 4, "node": 0, "rec')

    run = read_run(folder)

    assert (list(run.rounds), list(run.frames)) == ([1, 2, 3], [1, 2, 3])


def test_a_line_in_the_middle_that_is_not_json_is_named(make_run):
    nodes, _ = four_nodes(1)
    folder = make_run(nodes)
    path = folder / "rounds.jsonl"
    path.write_text("not json\n" + path.read_text())

    with pytest.raises(DflError, match=r"rounds\.jsonl line 1 is not JSON"):
        read_run(folder)


def test_a_record_that_lacks_something_is_an_error_of_ours(make_run):
    with pytest.raises(DflError, match="lacks something"):
        read_run(make_run([{"round": 1, "node": 0, "byzantine": False}]))


def test_a_node_that_does_not_exist_is_named(make_run):
    nodes, _ = four_nodes(1)

    with pytest.raises(DflError, match=r"expected a node in 0\.\.3, got 9 in round 1"):
        read_run(make_run(nodes, [edge_line(1, 0, 9, 0.5)]))


def test_values_of_every_node_and_round_are_kept(make_run):
    run = read_run(make_run(*four_nodes()))

    np.testing.assert_allclose(
        [entry.accuracy[:2] for entry in run.rounds.values()], [[0.1, 0.2], [0.2, 0.4], [0.3, 0.6]]
    )
    assert np.isnan([entry.accuracy[2:] for entry in run.rounds.values()]).all()
    assert run.rounds[3].summary.accuracy_mean == pytest.approx(0.45)
    assert run.rounds[1].bytes_received == 400
    assert run.byzantine == {2, 3}


def test_a_graph_that_varies_by_round_is_kept_as_it_was(make_run):
    nodes, _ = four_nodes(2)
    folder = make_run(nodes, [edge_line(1, 0, 1, 0.5), edge_line(2, 0, 2, 0.0), edge_line(2, 1, 3, 0.5)])

    frames = read_run(folder).frames

    assert frames[1].edges[:, :2].tolist() == [[0, 1]]
    assert frames[2].edges[:, :2].tolist() == [[0, 2], [1, 3]]


def test_missing_messages_and_absent_nodes_are_found(make_run):
    nodes = [
        node_line(1, 0, missing={"dropped": 2, "late": 1}),
        node_line(1, 1, None, flags=["absent"], missing={"absent": 1}),
        node_line(1, 2, missing={"dropped": 5}),
        node_line(1, 3),
    ]

    run = read_run(make_run(nodes, [edge_line(1, 0, 1, None, missing="dropped")]))

    assert run.rounds[1].missing == {"dropped": 2, "late": 1, "absent": 1}  # of honest receivers
    assert run.rounds[1].down == {1: "absent"}
    assert run.frames[1].edges[0, 2] == MISSING


def test_scores_and_exact_weights_are_kept_for_every_edge(make_run):
    run = read_run(make_run(*four_nodes()))

    assert run.frames[1].edges[:3, :2].tolist() == [[0, 1], [0, 2], [0, 3]]
    assert run.scores[1][:3] == [{"weight": 0.5, "trust": 0.9}, {"weight": 0.0, "trust": 0.2}, {"weight": 0.25}]


def test_a_large_graph_is_put_into_groups_of_one_side(make_run):
    n = 200
    nodes = [node_line(1, node, byzantine=node >= 150) for node in range(n)]
    edges = [edge_line(1, i, j, 0.2 if j < 150 else 0.0) for i in range(n) for j in ((i + 1) % n, (i - 1) % n)]

    run = read_run(make_run(nodes, edges, num_nodes=n, num_byzantine=50))

    frame, groups = run.frames[1], run.groups
    assert frame.edges is None
    assert run.scores is None
    for group in range(groups.max() + 1):
        assert len({node in run.byzantine for node in np.flatnonzero(groups == group)}) == 1
    shares = (
        frame.groups[groups[10], groups[9]],
        frame.groups[groups[10], groups[199]],
        frame.groups[groups[170], groups[171]],
    )
    assert shares == (255, 0, 1)  # all trusted; no messages; none trusted


def test_records_are_read_line_by_line(make_run):
    """Reading one round must not need the lines after it."""
    from flower_dfl.report.reading import read_rounds

    nodes, _ = four_nodes(1)
    folder = make_run([*nodes, node_line(2, 0)])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write("broken\n")

    assert next(read_rounds(folder, 4)).summary.round == 1


def test_nodes_must_be_numbered_without_gaps(make_run):
    folder = make_run(nodes=[{"node": 0, "byzantine": False}, {"node": 2, "byzantine": False}])

    with pytest.raises(DflError, match=r"expected the nodes 0\.\.1, got \[0, 2\]"):
        read_run(folder)


def test_a_summary_that_is_no_json_is_named(make_run):
    folder = make_run()
    (folder / "summary.json").write_text("[1")

    with pytest.raises(DflError, match=r"summary\.json is not a JSON object"):
        read_run(folder)


def test_settings_that_this_version_does_not_know_are_kept(make_run):
    from flower_dfl.report.reading import read_settings

    folder = make_run()
    (folder / "config.toml").write_text('future = 1\n[network]\nquantum = "yes"\n')

    assert read_settings(folder) == {"future": 1, "network.quantum": "yes"}
    assert json.dumps(read_settings(folder))
