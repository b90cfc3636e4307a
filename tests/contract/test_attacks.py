import networkx as nx
import pytest
import torch

from flower_dfl import registry
from flower_dfl.testing import check_attack, craft
from flower_dfl.types import AttackContext, AttackView, Knowledge, Update

ALIE = {"name": "alie", "params": {"z": 1.0}}
LOCAL = [
    ("gaussian", {"center": "own"}),
    ("gaussian", {"center": "zero"}),
    ("label-flip", {}),
    ("same-value", {"value": 0.0}),
    ("same-value", {"value": 3.0, "space": "update"}),
    ("sign-flip", {}),
    ("sign-flip", {"space": "model"}),
    ("equivocate", {"attack": "sign-flip", "truth": "base"}),
    ("scheduled", {"attack": "sign-flip", "share": 0.5}),
]
PARTIAL = [
    ("alie", {"z": 1.0}),
    ("ipm", {"knowledge-level": "partial"}),
    ("krum-attack", {"knowledge-level": "partial"}),
    ("min-max", {"knowledge-level": "partial"}),
    ("min-sum", {"knowledge-level": "partial"}),
    ("sign-flip", {"knowledge-level": "partial"}),
    ("trim-attack", {"knowledge-level": "partial"}),
    ("sybil", {"attack": "sign-flip"}),
    ("equivocate", {"attack": ALIE}),
    ("scheduled", {"attack": ALIE}),
]
FULL = [
    ("alie", {"z": 1.0, "knowledge-level": "full", "direction": "against-update"}),
    ("dissensus", {}),
    ("dissensus", {"epsilon": 2.0, "weights": "uniform"}),
    ("echo", {}),
    ("gaussian", {}),
    ("ipm", {}),
    ("isolation", {}),
    ("isolation", {"target": "base", "weights": "uniform"}),
    ("isolation", {"target": "zero"}),
    ("krum-attack", {}),
    ("mimic", {}),
    ("mimic", {"target": 0}),
    ("min-max", {"direction": "unit"}),
    ("min-max", {"direction": "std"}),
    ("min-max", {"direction": "sign"}),
    ("min-sum", {"direction": "unit"}),
    ("min-sum", {"direction": "std", "bound": "min"}),
    ("sign-flip", {"knowledge-level": "full"}),
    ("spectral", {}),
    ("spectral", {"weights": "uniform"}),
    ("trim-attack", {}),
    ("sybil", {"attack": "mimic", "sigma": 0.1}),
    ("equivocate", {"attack": "mimic", "mode": "scale"}),
    ("equivocate", {"attack": "mimic", "mode": "noise"}),
]
ALL = LOCAL + PARTIAL + FULL


def models(count, seed=0, size=8):
    return 1 + 0.1 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "params"), ALL)
def test_the_contract_holds(name, params):
    check_attack(registry.build("attack", name, params))


@pytest.mark.parametrize(
    ("attacks", "level"), [(LOCAL, Knowledge.LOCAL), (PARTIAL, Knowledge.COLLUDING), (FULL, Knowledge.OMNISCIENT)]
)
def test_every_attack_asks_for_the_knowledge_that_it_names(attacks, level):
    assert {registry.build("attack", name, params).knowledge for name, params in attacks} == {level}


@pytest.mark.parametrize(("name", "params"), LOCAL + PARTIAL)
def test_without_full_knowledge_honest_half_steps_change_nothing(name, params):
    attack = registry.build("attack", name, params)

    sent = [craft(attack, models(5, seed), models(3, 9), base=torch.ones(8)) for seed in (1, 2)]

    assert torch.equal(*sent)


@pytest.mark.parametrize(("name", "params"), LOCAL)
def test_with_local_knowledge_other_attackers_change_nothing(name, params):
    attack = registry.build("attack", name, params)
    own = models(1, 9)

    sent = [craft(attack, models(5), torch.cat([own, models(2, seed)])) for seed in (1, 2)]

    assert torch.equal(*sent)


@pytest.mark.parametrize(("name", "params"), FULL)
def test_full_knowledge_is_used(name, params):
    attack = registry.build("attack", name, params)

    sent = [craft(attack, models(5, seed), models(3, 9), base=torch.ones(8)) for seed in (1, 2)]

    assert not torch.equal(*sent) or params.get("target") == "zero"


@pytest.mark.parametrize(("name", "params"), ALL)
@pytest.mark.parametrize(("honest", "byzantine"), [(1, 1), (1, 4), (2, 1), (3, 5), (6, 2)])
def test_no_neighbourhood_is_too_small_for_a_finite_message(name, params, honest, byzantine):
    attack = registry.build("attack", name, params)

    for receiver in range(honest):
        sent = craft(attack, models(honest), models(byzantine, 1), receiver=receiver)

        assert torch.isfinite(sent).all()


@pytest.mark.parametrize(("name", "params"), ALL)
def test_models_that_agree_leave_a_finite_message(name, params):
    same = torch.ones(8)

    sent = craft(registry.build("attack", name, params), same.expand(5, -1), same.expand(3, -1), base=same)

    assert torch.isfinite(sent).all()


@pytest.mark.parametrize(("name", "params"), PARTIAL + FULL)
def test_a_diverged_model_does_not_spoil_the_message(name, params):
    honest, byzantine = models(6), models(4, 1)
    honest[3], byzantine[2] = torch.nan, torch.inf

    sent = craft(registry.build("attack", name, params), honest, byzantine)

    assert torch.isfinite(sent).all()


@pytest.mark.parametrize(("name", "params"), [case for case in FULL if case[0] not in ("sybil", "equivocate")])
def test_an_attacker_that_sees_nobody_sends_its_own_half_step(name, params):
    own = Update(3, 1, torch.arange(4.0), torch.zeros(4))
    everyone = {i: frozenset(range(4)) - {i} for i in range(4)}
    context = AttackContext(3, 1, 10, frozenset({3}), everyone, lr=0.1, seed=0)

    sent = registry.build("attack", name, params).craft(AttackView(own, (own,), (), ()), 0, context)

    assert torch.equal(sent, own.vector)


@pytest.mark.parametrize("name", ["alie", "dissensus", "isolation", "krum-attack", "spectral"])
def test_a_receiver_without_byzantine_neighbours_gets_the_half_step(name):
    graph = nx.Graph([(0, 1), (1, 2)])  # 2 is Byzantine and no neighbour of 0
    byzantine = models(1, 1)

    sent = craft(registry.build("attack", name), models(2), byzantine, receiver=0, neighbours=graph)

    assert torch.equal(sent, byzantine[0])


@pytest.mark.parametrize(("name", "params"), [("krum-attack", {}), ("trim-attack", {}), ("min-max", {}), ("ipm", {})])
def test_only_the_receivers_own_neighbourhood_counts(name, params):
    graph = nx.Graph([(0, 1), (1, 2), (0, 3), (1, 3), (2, 3)])  # honest 0 - 1 - 2, Byzantine 3; 2 is far from 0
    honest, far = models(3), models(3)
    far[2] += 5
    attack = registry.build("attack", name, params)

    sent = [craft(attack, rows, models(1, 1), receiver=0, neighbours=graph) for rows in (honest, far)]

    assert torch.equal(*sent)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("alie", {"knowledge-level": "some"}, "knowledge-level must be 'full' or 'partial', got 'some'"),
        ("sybil", {"attack": "alien"}, "unknown attack 'alien'. Did you mean 'alie'?"),
        ("sybil", {"attack": {"nam": "alie"}}, "unknown key of attack 'sybil': attack 'nam'"),
        ("sybil", {"attack": {"params": {}}}, 'attack must look like {name = "alie", params = {}}'),
        ("sybil", {"attack": {"name": "ipm", "params": {"epsilon": -1.0}}}, "epsilon must be positive"),
        ("scheduled", {"attack": 3}, "attack must be Attack, got 3"),
    ],
)
def test_wrong_parameters_of_attacks_and_inner_attacks_are_refused(name, params, message):
    with pytest.raises(registry.ConfigurationError) as refusal:
        registry.build("attack", name, params)

    assert message in str(refusal.value)
