"""FLDetector as a Flower strategy, on a quadratic whose Hessian is known."""

import numpy as np
import pytest
import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.integrations import FLDetector
from tests.integrations.conftest import ask, failure, play, replies, reply, vector_of

NODES = range(1, 9)
SPREAD = 0.01


def honest(model, server_round, node):
    """One full-batch step on a quadratic, with a little noise of the client's own."""
    curvature = torch.tensor([1.0, 2.0, 3.0, 4.0])
    noise = torch.randn(4, generator=torch.Generator().manual_seed(1000 * server_round + node))
    return model - 0.1 * curvature * (model - 1) + SPREAD * noise


def lie(model, server_round, node):
    return model + torch.randn(4, generator=torch.Generator().manual_seed(1000 * server_round + node))


def run(strategy, liars, num_rounds=8, liar=lie, nodes=NODES):
    """Play rounds with clients of which some lie; return all models and metrics."""
    models, metrics = [torch.zeros(4)], []
    for server_round in range(1, num_rounds + 1):
        asked = ask(strategy, models[-1], nodes, server_round)
        answers = [reply(node, (liar if node in liars else honest)(models[-1], server_round, node)) for node in asked]
        arrays, numbers = strategy.aggregate_train(server_round, answers)
        models.append(vector_of(arrays))
        metrics.append(numbers)
    return models, metrics


@pytest.mark.parametrize("liars", [{1}, {8}, {1, 2}, {3, 8}], ids=str)
def test_clients_that_jump_about_are_removed_wherever_they_stand(liars):
    strategy = FLDetector()

    models, metrics = run(strategy, liars)

    assert strategy.removed == liars
    assert metrics[-1]["flower-dfl-removed"] == len(liars)
    assert metrics[-1]["flower-dfl-kept"] == 8 - len(liars)
    assert float((models[-1] - 1).norm()) < 1


def test_a_second_run_of_the_same_object_begins_anew():
    strategy = FLDetector(restart=True)
    run(strategy, {1})

    models, metrics = run(strategy, {8})

    fresh, _ = run(FLDetector(restart=True), {8})
    assert strategy.removed == {8}
    assert metrics[0]["flower-dfl-removed"] == 0
    assert all(torch.equal(one, other) for one, other in zip(models, fresh, strict=True))


def test_nobody_is_removed_where_nobody_lies():
    strategy = FLDetector()

    run(strategy, set())

    assert strategy.removed == frozenset()


def test_the_first_two_rounds_are_the_plain_mean():
    strategy = FLDetector()

    models, metrics = run(strategy, {1, 2}, num_rounds=2)

    for t in (1, 2):
        rows = [(lie if node < 3 else honest)(models[t - 1], t, node) for node in NODES]
        torch.testing.assert_close(models[t], torch.stack(rows).mean(dim=0))
    assert [m["flower-dfl-removed"] for m in metrics] == [0, 0]


def test_the_decision_does_not_depend_on_who_has_the_lowest_id():
    forward, backward = FLDetector(), FLDetector()

    first, _ = run(forward, {1})
    # The same clients under mirrored ids: the liar is last.
    second, _ = run(
        backward,
        {8},
        liar=lambda model, t, node: lie(model, t, 1),
        nodes=NODES,
    )

    assert forward.removed == {1}
    assert backward.removed == {8}
    assert float((first[-1] - second[-1]).norm()) < 20 * SPREAD


def test_removed_clients_are_asked_no_more_and_ignored_if_they_answer():
    strategy = FLDetector()
    models, _ = run(strategy, {1})

    assert ask(strategy, models[-1], NODES, server_round=9) == [2, 3, 4, 5, 6, 7, 8]
    arrays, metrics = strategy.aggregate_train(9, replies([[1e6] * 4, *([[1.0] * 4] * 7)]))

    assert vector_of(arrays).tolist() == [1.0] * 4
    assert metrics["flower-dfl-kept"] == 7


def test_where_only_removed_clients_answer_the_model_stays():
    strategy = FLDetector()
    models, _ = run(strategy, {1})

    arrays, metrics = play(strategy, models[-1], [reply(1, [0.0] * 4)], server_round=9)

    assert arrays is None
    assert metrics["flower-dfl-kept"] == 0


def test_training_starts_over_from_the_first_model_on_request():
    models, metrics = run(FLDetector(restart=True), {1})

    caught = next(t for t, numbers in enumerate(metrics, 1) if numbers["flower-dfl-removed"])
    assert torch.equal(models[caught], models[0])
    assert not torch.equal(models[caught + 1], models[0])
    assert metrics[-1]["flower-dfl-removed"] == 1


def test_malformed_and_absent_clients_do_no_harm():
    strategy = FLDetector()
    model = torch.zeros(4)

    for server_round in range(1, 7):
        answers = [reply(node, honest(model, server_round, node)) for node in NODES if (node + server_round) % 4]
        broken = [reply(20, [np.nan] * 4), reply(21, [0.0]), failure(22)]
        arrays, metrics = play(strategy, model, [*broken, *answers], server_round)
        model = vector_of(arrays)
        assert metrics["flower-dfl-rejected"] == 3

    assert strategy.removed == frozenset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"start": 2}, "start must be at least 3"),
        ({"margin": 0.5}, "margin must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        FLDetector(**settings)


def test_it_needs_the_global_model():
    with pytest.raises(ConfigurationError, match="call start or configure_train first"):
        FLDetector().aggregate_train(1, replies([[1.0] * 4]))


def test_rounds_that_share_no_client_begin_the_history_anew():
    strategy, model = FLDetector(), torch.zeros(4)

    for server_round, nodes in enumerate([(1, 2, 3), (4, 5, 6), (4, 5, 6), (4, 5, 6)], 1):
        asked = ask(strategy, model, nodes, server_round)
        arrays, _ = strategy.aggregate_train(
            server_round, [reply(node, honest(model, server_round, node)) for node in asked]
        )
        model = vector_of(arrays)

    state = strategy._state
    assert [number for number, _ in state["points"]] == [2, 3, 4]
    assert len(state["changes"]) == 2
    assert set(state["last"]) == {4, 5, 6}
