"""The client: trains on its share. The mod turns the chosen ones into attackers."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import ATTACK, ATTACKERS, samples_of, train

from flower_dfl.integrations import attack_mod

app = ClientApp(mods=[attack_mod(ATTACK, nodes=ATTACKERS)])


@app.train()
def train_step(message: Message, context: Context) -> Message:
    """Train from the global model and reply with the result."""
    config, node = context.run_config, int(context.node_config["partition-id"])
    server_round = int(message.content.config_records["config"]["server-round"])
    samples = samples_of(node, int(config["num-clients"]), server_round)
    after = train(message.content.array_records["arrays"], samples, config, seed=1000 * server_round + node)
    metrics = MetricRecord({"num-examples": len(samples)})
    return Message(RecordDict({"arrays": after, "metrics": metrics}), reply_to=message)
