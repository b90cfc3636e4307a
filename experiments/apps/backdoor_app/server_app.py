"""The server: Flower's own FedAvg, and nothing that knows of attacks."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from task import evaluate, new_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train and print accuracy and attack success rate after every round."""
    clients, rounds = int(context.run_config["num-clients"]), int(context.run_config["num-rounds"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    result = strategy.start(
        grid, ArrayRecord(new_model().state_dict()), num_rounds=rounds, timeout=120, evaluate_fn=_metrics
    )
    print("round    accuracy    backdoor")
    for server_round, metrics in result.evaluate_metrics_serverapp.items():
        print(f"{server_round:5}  {metrics['accuracy']:10.3f}  {metrics['backdoor']:10.3f}")
    last = result.evaluate_metrics_serverapp[rounds]
    print(f"backdoor_app finished: backdoor {last['backdoor']:.3f}, accuracy {last['accuracy']:.3f} with FedAvg")


def _metrics(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    del server_round
    accuracy, backdoor = evaluate(arrays)
    return MetricRecord({"accuracy": accuracy, "backdoor": backdoor})
