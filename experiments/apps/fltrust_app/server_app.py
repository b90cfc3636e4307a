"""The server: FLTrust, which trains on a hundred clean images of its own."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from task import accuracy, data, new_model, train

from flower_dfl.integrations import FLTrust

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with the defence, and without it if asked; print the accuracy after every round."""
    config = context.run_config
    clients = int(config["num-clients"])
    sampling = {"fraction_evaluate": 0.0, "min_train_nodes": clients, "min_available_nodes": clients}
    images, _ = data()
    root = images.subset(torch.arange(int(config["num-root"])))

    def train_root(arrays: ArrayRecord, server_round: int) -> ArrayRecord:
        return train(arrays, root, config, seed=server_round)

    strategies: dict[str, Strategy] = {"FLTrust": FLTrust(train_root, **sampling)}
    if config["compare"]:
        strategies["FedAvg"] = FedAvg(**sampling)
    initial = ArrayRecord(new_model().state_dict())
    curves = {
        name: strategy.start(
            grid, initial, num_rounds=int(config["num-rounds"]), timeout=120, evaluate_fn=evaluate
        ).evaluate_metrics_serverapp
        for name, strategy in strategies.items()
    }
    print("round  " + "  ".join(f"{name:>10}" for name in curves))
    for server_round in range(int(config["num-rounds"]) + 1):
        print(f"{server_round:5}  " + "  ".join(f"{c[server_round]['accuracy']:10.3f}" for c in curves.values()))
    last = int(config["num-rounds"])
    ends = ", ".join(f"{curve[last]['accuracy']:.3f} with {name}" for name, curve in curves.items())
    print(f"fltrust_app finished: accuracy {ends}")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the accuracy on the test images."""
    del server_round
    return MetricRecord({"accuracy": accuracy(arrays)})
