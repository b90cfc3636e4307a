"""The server: plays every cell of the table that has no record yet, and writes one file for each."""

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from adaptive import ZerothOrder
from adversary import Adversary, Craft, against_fltrust, of_library
from cells import Cell, cells_of, path_of, record_of, settings_of
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from task import SCALING, Config, measured, new_model, root_of, trained

from flower_dfl.attacks.krum_attack import KrumAttack
from flower_dfl.attacks.trim_attack import TrimAttack
from flower_dfl.integrations import FLTrust, as_flower_strategy
from flower_dfl.integrations.screening import SERVER, FedAvgOptions, TrainRoot
from flower_dfl.protocols import Attack
from flower_dfl.types import NodeId
from flower_dfl.writing import write_text

app = ServerApp()

ATTACKS: Mapping[str, Attack] = {"krum": KrumAttack(), "trim": TrimAttack(), "scaling": SCALING}
ON_FLTRUST = {"adaptive": ZerothOrder(), "optimal": None}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the missing cells, one after the other."""
    config = context.run_config
    folder = Path(str(config["results-dir"]))
    for cell in cells_of(config):
        if record_of(cell, config, folder) is None:
            record = play(cell, config, grid)
            write_text(path_of(cell, folder), json.dumps(record, indent=1) + "\n")


def play(cell: Cell, config: Config, grid: Grid) -> dict[str, object]:
    """Train with a rule under an attack and return what is recorded."""
    begin = time.monotonic()
    clients, rounds, seed = int(config["num-clients"]), int(config["num-rounds"]), int(config["seed"])
    malicious = frozenset(range(clients - round(cell.share * clients), clients))
    root = root_of(config)

    def train_root(arrays: ArrayRecord, server_round: int) -> ArrayRecord:
        return trained(arrays, root, config, server_round, SERVER)

    craft = _craft(cell.attack, train_root, malicious, seed)
    strategy = Adversary(_strategy(cell.rule, train_root, len(malicious), clients), malicious, clients, craft)
    told = {"attack": cell.attack, "first-malicious": clients - len(malicious), "num-malicious": len(malicious)}
    initial = ArrayRecord(new_model(config).state_dict())
    result = strategy.start(grid, initial, num_rounds=rounds, timeout=120, train_config=ConfigRecord(told))
    outcome = measured(result.arrays, config)
    trust = strategy.malicious_trust
    return {
        "settings": settings_of(config),
        "error": 1 - outcome.accuracy,
        "attack_success_rate": outcome.attack_success_rate,
        "diverged": outcome.diverged,
        "malicious_trust": statistics.mean(trust) if trust else None,
        "seconds": time.monotonic() - begin,
    }


def _craft(attack: str, train_root: TrainRoot, malicious: frozenset[NodeId], seed: int) -> Craft | None:
    if attack in ATTACKS:
        return of_library(ATTACKS[attack], malicious, seed)
    return None if attack == "none" else against_fltrust(train_root, malicious, seed, ON_FLTRUST[attack])


def _strategy(rule: str, train_root: TrainRoot, num_malicious: int, num_clients: int) -> Strategy:
    sampling: FedAvgOptions = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": num_clients,
        "min_available_nodes": num_clients,
    }
    if rule == "fltrust":
        return FLTrust(train_root, **sampling)
    if rule == "fedavg":
        return FedAvg(**sampling)
    return as_flower_strategy(rule, budget=min(num_malicious, (num_clients - 3) // 2), **sampling)
