"""What the tables and figures of the study consist of: cells, each one run, called by what they are.

A cell is a data set, a model, a rule, an attack and a seed. Cells that occur in several tables are run once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from flower_dfl import registry
from flower_dfl.config import parse
from flower_dfl.sweeps.cells import settings_of
from flower_dfl.sweeps.definition import PlannedCell

__all__ = [
    "ATTACKS",
    "BASE",
    "LIGHTER",
    "MODELS",
    "PROFILES",
    "RULES",
    "STUDIES",
    "UNTOUCHED",
    "Profile",
    "Settings",
    "Study",
    "StudyCell",
    "cells_of",
    "planned",
    "seeds_of",
]

Settings = Mapping[str, Any]

BALANCED = {"train.sampling": "class-balanced"}
"""Local training that draws every label equally often."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How large everything is.

    Attributes:
        settings: What all cells share.
        tasks: Pairs of data set and model that a study may use.
        seeds: Seeds that are reported.
    """

    settings: Settings
    tasks: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]


_GREY = tuple(product(("mnist", "fashion-mnist"), ("lr", "fc", "cnn")))
_CIFAR = ("cifar10", "resnet18")

PROFILES: Mapping[str, Profile] = {
    "smoke": Profile(
        {"num-rounds": 3, "data.num-train": 800, "data.num-test": 200, "eval.every": 3},
        (("fashion-mnist-mini", "lr"), ("fashion-mnist-mini", "fc"), ("fashion-mnist-mini", "cnn")),
        (0,),
    ),
    "standard": Profile(
        {"num-rounds": 15, "data.num-train": 20_000, "data.num-test": 2_000, "eval.every": 3}, _GREY, (0, 1, 2, 3, 4)
    ),
    "paper": Profile({"num-rounds": 20}, (*_GREY, _CIFAR), (0, 1, 2, 3, 4)),
}

MODELS: Mapping[str, Settings] = {
    "lr": {"train.lr": 0.02},
    "fc": {"train.lr": 0.05},
    "cnn": {"model.params": {"channels1": 8, "channels2": 16, "hidden": 64}, "train.lr": 0.1},
    "resnet18": {"train.lr": 0.05, "train.momentum": 0.9, "train.batch-size": 64},
}
"""Learning rates and widths. ``choose.py`` compares rates on seeds that are not reported; table in ``README.md``."""

_NAMED_ABOVE = (
    *("average", "dfl-dual", "dfl-detector", "dfl-trust", "trust-anchored", "local-only", "oracle"),
    *("bucketing", "clip-first", "nnm"),
)

RULES: Mapping[str, Settings] = {
    "dfl": {"strategy.name": "average"},
    "dfl-trust": {"strategy.name": "dfl-trust"},
    "dfl-detector": {"strategy.name": "dfl-detector"},
    "multi-krum": {"strategy.name": "multi-krum"},
    "bridge-m": {"strategy.name": "bridge-m"},
    "ios": {"strategy.name": "ios"},
    "dfl-dual": {"strategy.name": "dfl-dual"},
    "dfl-dual, without ED": {"strategy.name": "dfl-dual", "strategy.params": {"variant": "without-ed"}},
    "dfl-dual, without WD": {"strategy.name": "dfl-dual", "strategy.params": {"variant": "without-wd"}},
    "dfl-dual, without TB": {"strategy.name": "dfl-dual", "strategy.params": {"variant": "without-tb"}},
    "dfl-dual, trust by length": {"strategy.name": "dfl-dual", "strategy.params": {"trust_length": True}},
    "oracle": {"strategy.name": "oracle"},
    "local-only, balanced": {"strategy.name": "local-only", **BALANCED},
    "local-only": {"strategy.name": "local-only"},
    "trust-anchored": {"strategy.name": "trust-anchored"},
    "trust-anchored, swept": {"strategy.name": "trust-anchored", "strategy.params": {"search": "sweep"}},
    **{name: {"strategy.name": name} for name in registry.names("strategy") if name not in _NAMED_ABOVE},
    **{
        f"{name}, then median": {"strategy.name": name, "strategy.params": {"rule": "median"}}
        for name in ("bucketing", "clip-first", "nnm")
    },
}
"""Rules by the names that the tables give them."""


def _attack(name: str, **params: float | str) -> Settings:
    return {"attack.name": name, "attack.params": params}


ATTACKS: Mapping[str, Settings] = {
    "none": _attack("none"),
    "label-flip": _attack("label-flip"),
    "krum": _attack("krum-attack", knowledge_level="full"),
    "back-gradient": _attack("back-gradient", steps=5, outer_steps=3, gamma=10.0),
    "scaling": _attack("scaling"),
    "dba": _attack("dba", gamma=10.0),
    "backdoor": _attack("backdoor"),
    "backdoor elsewhere": _attack("backdoor", size=3, corner="top-left", value=0.8, target=4),
    "backdoor, poison 0.15": _attack("backdoor", poison_share=0.15),
    "backdoor, poison 0.05": _attack("backdoor", poison_share=0.05),
    **{f"drip {drip}": _attack("backdoor", drip=drip) for drip in (0.2, 0.4, 0.6)},
    **{f"alie, z = {z:g}": _attack("alie-backdoor", z=float(z)) for z in (1, 1.5, 2, 3, 4, 5, 8)},
    **{
        f"balanced alie, z = {z:g}": _attack("alie-backdoor", z=float(z), sampling="class-balanced")
        for z in (1, 1.5, 2, 3)
    },
    **{
        f"adaptive {inner}, beta = {beta:g}": _attack("adaptive", attack=inner, beta=float(beta))
        for inner, beta in product(("scaling", "alie-backdoor", "dba"), (0, 0.5, 1))
    },
    "rule-in-the-loop": {"attack.name": "rule-in-the-loop"},
    **{f"echo x {gamma:g}": _attack("echo", gamma=float(gamma)) for gamma in (2, 10, 100)},
    "alie, untargeted": _attack("alie", z=1.5),
    **{
        name: _attack(name)
        for name in (
            *("ipm", "min-max", "min-sum", "trim-attack", "sign-flip", "gaussian", "same-value", "mimic"),
            *("dissensus", "isolation", "spectral"),
        )
    },
}
"""Attacks by the names that the tables give them."""

LIGHTER: Mapping[tuple[str, str], Settings] = {
    (model, "back-gradient"): _attack("back-gradient", steps=2, outer_steps=1, gamma=10.0)
    for model in ("cnn", "resnet18")
}
"""Instead of the above by model and attack: looking five steps ahead takes twenty times a CNN's training."""

BASE: Settings = {
    "num-nodes": 10,
    "num-byzantine": 6,
    "topology.name": "dominated",
    "data.partition": "label-skew",
    "data.params": {"p": 0.8},
    "checkpoint.every": 1000,
}


@dataclass(frozen=True, slots=True)
class Study:
    """A table or a figure: every rule meets every attack on every task, under every variation.

    Attributes:
        rules: Names in :data:`RULES`.
        attacks: Names in :data:`ATTACKS`.
        tasks: Data sets and models: the paper's, and fully connected networks on Fashion-MNIST, which are cheap.
        variations: Settings that are varied, by name.
        common: Settings of all cells.
        title: What these are called in the cells' names.
        seeds: Instead of the profile's, if any.
        everybody: Whether also the rules that no attacker can influence meet every attack, not one of each trigger.
    """

    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    tasks: tuple[tuple[str, str], ...]
    variations: Mapping[str, Settings] = field(default_factory=lambda: {"": {}})
    common: Settings = field(default_factory=dict)
    title: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    everybody: bool = False


BASELINES = ("dfl-trust", "dfl-detector", "multi-krum", "dfl", "bridge-m", "ios")
_REFERENCES = ("oracle", "local-only, balanced")
_VARIANTS = ("dfl-dual", "dfl-dual, without ED", "dfl-dual, without WD", "dfl-dual, without TB")
_FASHION_FC = ("fashion-mnist", "fc")
_CNN = (("mnist", "cnn"), ("fashion-mnist", "cnn"))

OF_ANCHORED = (
    "none", "label-flip", "krum", "scaling", "dba", "back-gradient", "backdoor", "backdoor, poison 0.15",
    "backdoor, poison 0.05", "drip 0.2", "drip 0.4", "drip 0.6",
    *(name for name in ATTACKS if name.startswith("alie, z")), "adaptive scaling, beta = 0.5", "rule-in-the-loop",
)  # fmt: skip
"""What the rule anchored in own data is judged by."""

OF_UNTARGETED = (
    "label-flip", "alie, untargeted", "ipm", "min-max", "min-sum", "trim-attack", "sign-flip", "gaussian", "same-value",
    "mimic", "dissensus", "isolation", "spectral", "echo x 2", "echo x 10", "echo x 100",
)  # fmt: skip
"""Attacks without a trigger that the paper does not have, and label flipping."""

_ALL_RULES = tuple(
    name for name in RULES if name not in (*_VARIANTS[1:], "dfl-dual, trust by length", "local-only, balanced")
)
"""Every rule of the library, as it is by default."""

STUDIES: Mapping[str, Study] = {
    "figure2": Study(("dfl", "dfl-dual", "local-only, balanced"), ("none",), (*_GREY, _CIFAR)),
    "table1": Study(
        (*BASELINES, "dfl-dual", *_REFERENCES),
        ("label-flip", "krum", "back-gradient"),
        (("mnist", "lr"), _FASHION_FC, *_CNN, _CIFAR),
    ),
    "table2": Study(
        (*BASELINES, "dfl-dual", *_REFERENCES), ("scaling", "dba", "alie, z = 4"), (_FASHION_FC, *_CNN, _CIFAR)
    ),
    "beside": Study(
        ("dfl", "dfl-dual", "oracle"),
        ("backdoor", *(name for name in ATTACKS if name.startswith("alie, z"))),
        (_FASHION_FC,),
    ),
    "table3": Study(_VARIANTS, ("scaling", "alie, z = 4", "dba"), (_FASHION_FC, *_CNN, _CIFAR)),
    "figure4": Study(
        (*BASELINES, "dfl-dual"),
        ("scaling",),
        (_FASHION_FC, *_CNN),
        {f"{10 * count} % Byzantine": {"num-byzantine": count} for count in (2, 4, 6, 8)},
    ),
    "figure5": Study(
        (*BASELINES, "dfl-dual"),
        ("scaling",),
        (_FASHION_FC, *_CNN),
        {f"p = {p}": {"data.params": {"p": p}} for p in (0.1, 0.2, 0.4, 0.6, 0.8)},
    ),
    "figure6": Study(
        ("dfl", "dfl-dual"), tuple(name for name in ATTACKS if name.startswith("adaptive")), (_FASHION_FC, _CIFAR)
    ),
    "anchored": Study(
        ("dfl", "dfl-dual", "trust-anchored", "trust-anchored, swept", "oracle", "local-only"),
        OF_ANCHORED,
        (_FASHION_FC, ("fashion-mnist", "lr"), ("mnist", "lr"), ("mnist", "fc"), *_CNN),
        common=BALANCED,
        title=("balanced",),
    ),
    "anchored80": Study(
        ("dfl", "dfl-dual", "trust-anchored", "trust-anchored, swept", "oracle", "local-only"),
        OF_ANCHORED,
        (_FASHION_FC, ("fashion-mnist", "lr"), ("mnist", "lr"), ("mnist", "fc"), *_CNN),
        {"80 % Byzantine": {"num-byzantine": 8}},
        common=BALANCED,
        title=("balanced",),
    ),
    "untargeted": Study(
        ("dfl", "dfl-dual", "trust-anchored", "oracle", "local-only"),
        OF_UNTARGETED,
        (_FASHION_FC,),
        common=BALANCED,
        title=("balanced",),
    ),
    "balanced-alie": Study(
        ("dfl", "dfl-dual", "trust-anchored"),
        tuple(name for name in ATTACKS if name.startswith("balanced alie")),
        (_FASHION_FC,),
        common=BALANCED,
        title=("balanced",),
    ),
    "echo": Study(
        (*BASELINES, "dfl-dual", "dfl-dual, trust by length", *_REFERENCES),
        ("label-flip", "scaling", "echo x 2", "echo x 10", "echo x 100"),
        (_FASHION_FC, ("mnist", "lr"), *_CNN),
        {"60 % Byzantine": {}, "10 % Byzantine": {"num-byzantine": 1}},
    ),
    "held-out": Study(
        ("dfl", "dfl-dual", "trust-anchored", "oracle", "local-only"),
        ("none", "label-flip", "backdoor", "backdoor elsewhere", "backdoor, poison 0.05", "drip 0.4"),
        (_FASHION_FC,),
        {
            "random regular graph": {
                "topology.name": "random-regular",
                "topology.params": {"degree": 6},
                "placement.name": "random",
            },
            "complete graph, 7 of 12": {"topology.name": "complete", "num-nodes": 12, "num-byzantine": 7},
        },
        common=BALANCED,
        title=("balanced",),
        seeds=(20, 21),
    ),
    "frontier": Study(
        _ALL_RULES,
        ("none", "label-flip", "backdoor", "backdoor, poison 0.05", "drip 0.4"),
        (_FASHION_FC,),
        common=BALANCED,
        title=("balanced",),
        everybody=True,
    ),
    "matrix": Study(
        tuple(name for name in _ALL_RULES if name != "trust-anchored, swept"),
        tuple(dict.fromkeys((*OF_ANCHORED, *OF_UNTARGETED))),
        (_FASHION_FC,),
        common=BALANCED,
        title=("balanced",),
    ),
}
"""The paper's tables and figures that consist of runs; figure 3 is ``dummies.py``. The rest the paper does not have.

``beside``: backdoors that are harder to see. ``anchored``, ``anchored80`` and ``frontier``: the rule of our own, with
class-balanced local training for everybody; ``untargeted``: that rule against the library's other attacks;
``balanced-alie``: it against an ALIE that trains its backdoor as the nodes train; ``echo``: a lie that DFL-Dual prefers
to the truth; ``held-out``: seeds, graphs, placements and a trigger not used elsewhere.
"""


UNTOUCHED = frozenset({"oracle", "local-only", "local-only, balanced"})
"""Rules that no attacker can influence: one attack of each trigger is enough."""

_SEEN_BY_UNTOUCHED = ("none", "label-flip", "scaling", "backdoor", "backdoor elsewhere", "dba")


@dataclass(frozen=True, slots=True)
class StudyCell:
    """One run of a study, and its place in a table.

    Attributes:
        data: Data set.
        model: Model.
        variation: What was varied, empty if nothing.
        attack: Name in :data:`ATTACKS`.
        rule: Name in :data:`RULES`.
        seed: Seed.
        plan: The run. Equal runs have equal names in all studies.
    """

    data: str
    model: str
    variation: str
    attack: str
    rule: str
    seed: int
    plan: PlannedCell


def seeds_of(study: Study, profile: str) -> tuple[int, ...]:
    """Return the seeds that a study reports."""
    return study.seeds or PROFILES[profile].seeds


def cells_of(
    study: Study,
    profile: str,
    *,
    models: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    attacks: tuple[str, ...] = (),
    rules: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
) -> Iterator[StudyCell]:
    """Return the cells of a study at a profile, seed by seed.

    Args:
        study: What to run.
        profile: How large.
        models: Only these; none are all.
        data: Only these data sets; none are all.
        attacks: Only these; none are all.
        rules: Only these; none are all.
        seeds: These instead of those that it reports.
    """
    scale = PROFILES[profile]
    tasks = [
        (name, model)
        for name, model in scale.tasks
        if (profile == "smoke" or (name, model) in study.tasks)
        and (not models or model in models)
        and (not data or name in data)
    ]
    for seed, (name, model), (variation, changes), attack, rule in product(
        seeds or seeds_of(study, profile), tasks, study.variations.items(), study.attacks, study.rules
    ):
        spared = rule in UNTOUCHED and attack not in _SEEN_BY_UNTOUCHED and not study.everybody
        if spared or (attacks and attack not in attacks) or (rules and rule not in rules):
            continue
        asked: dict[str, Any] = {**study.common, **changes, **RULES[rule]}
        if attack == "rule-in-the-loop":  # it has the receiver's own rule
            name_of_rule, params = asked["strategy.name"], asked.get("strategy.params")
            own_rule = {"name": name_of_rule, "params": params} if params else name_of_rule
            asked["attack.params"] = {"rule": own_rule, "steps": 4}
        varied = [variation] if any(BASE.get(key) != value for key, value in changes.items()) else []
        title = ", ".join([name, model, *varied, *study.title, attack, rule, f"seed {seed}"])
        plan = planned(title, profile, name, model, attack, seed, asked)
        yield StudyCell(name, model, variation, attack, rule, seed, plan)


def planned(  # noqa: PLR0917 - what a run is called by
    title: str, profile: str, data: str, model: str, attack: str, seed: int, changes: Settings
) -> PlannedCell:
    """Return a run at a profile; ``changes`` come last."""
    settings = {
        **BASE,
        **PROFILES[profile].settings,
        "data.name": data,
        "model.name": model,
        **MODELS[model],
        **LIGHTER.get((model, attack), ATTACKS[attack]),
        "seed": seed,
        **changes,
    }
    return PlannedCell(title, settings_of(parse(settings)))
