"""Our rules beside Flower's own strategies, on the same stacks.

Where they differ: Flower's MultiKrum averages one model unless told otherwise, and weighs models by the examples that
their senders claim (here equal). Its trimmed mean takes a fraction and rounds down. Its distances are float32 Gram
matrices, so it is only asked about models that are well apart. Its Bulyan ranks once, ours iterates.
"""

from types import SimpleNamespace

import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan as FlowerBulyan
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy import Krum as FlowerKrum
from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum

from flower_dfl.strategies.bulyan import Bulyan
from flower_dfl.strategies.krum import Krum
from flower_dfl.strategies.median import Median
from flower_dfl.strategies.multi_krum import MultiKrum
from flower_dfl.strategies.trimmed_mean import TrimmedMean
from flower_dfl.testing import aggregate

SIZES = [(4, 0), (5, 1), (8, 2), (11, 2), (20, 4)]


def stack(n, seed=0):
    return torch.randn(n, 300, generator=torch.Generator().manual_seed(seed))


def by_flower(strategy, rows):
    """Return what a Flower strategy makes of the models, as replies to a training message.

    Flower only makes messages inside a run; its strategies read no more of them than this.
    """
    replies = []
    for row in rows:
        content = RecordDict({"arrays": ArrayRecord([row.numpy()]), "metrics": MetricRecord({"num-examples": 1})})
        replies.append(SimpleNamespace(content=content, has_error=lambda: False))
    arrays, _ = strategy.aggregate_train(1, replies)
    return torch.from_numpy(arrays.to_numpy_ndarrays()[0])


def ours(rule, rows, f):
    return aggregate(rule, rows[0], rows[1:], f=f).vector


@pytest.mark.parametrize(("n", "f"), SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_krum_picks_the_same_model(n, f, seed):
    rows = stack(n, seed) * torch.linspace(1, 2, n)[:, None]

    assert torch.equal(ours(Krum(), rows, f), by_flower(FlowerKrum(num_malicious_nodes=f), rows))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_multi_krum_averages_the_same_models(n, f):
    rows = stack(n) * torch.linspace(1, 2, n)[:, None]

    flower = by_flower(FlowerMultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f), rows)

    torch.testing.assert_close(ours(MultiKrum(), rows, f), flower)


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_the_median_is_the_same_to_the_last_bit(n, f):
    rows = stack(n)

    assert torch.equal(ours(Median(), rows, f), by_flower(FedMedian(), rows))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_the_trimmed_mean_is_the_same_where_the_fraction_is_a_count(n, f):
    rows = stack(n)

    torch.testing.assert_close(ours(TrimmedMean(), rows, f), by_flower(FedTrimmedAvg(beta=(f + 0.5) / n), rows))


def test_a_fraction_may_trim_one_value_too_few_where_a_count_cannot():
    n, f = next((n, f) for n in range(3, 101) for f in range(1, n // 2) if int(f / n * n) < f)
    rows = stack(n)

    flower = by_flower(FedTrimmedAvg(beta=f / n), rows)

    torch.testing.assert_close(flower, ours(TrimmedMean(), rows, f - 1))
    assert not torch.allclose(flower, ours(TrimmedMean(), rows, f))


# As worked in test_kernels, our selection is 2, 3, 5, 9, 10: nodes 1 to 5. Ranked once, the scores are 119, 63, 50, 54,
# 102, 139, ...: Flower selects nodes 0 to 4. The first coordinate keeps 2, 3, 5 of both. The second one, too small to
# count in the distances, is the node's number: of 1 to 5 it keeps 2, 3, 4, of 0 to 4 it keeps 1, 2, 3.
def test_bulyan_selects_otherwise_by_iterating():
    values = torch.tensor([0.0, 2.0, 3.0, 5.0, 9.0, 10.0, 100.0])
    rows = torch.stack([values, torch.arange(7) / 1000], dim=1)

    assert ours(Bulyan(), rows, 1).tolist() == pytest.approx([10 / 3, 0.003])
    assert by_flower(FlowerBulyan(num_malicious_nodes=1), rows).tolist() == pytest.approx([10 / 3, 0.002])
