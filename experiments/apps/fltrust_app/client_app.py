"""The client: trains on its share; an attacker sends its update turned round."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import flipped, is_byzantine, share_of, train

app = ClientApp()


@app.train()
def train_step(message: Message, context: Context) -> Message:
    """Train from the global model and reply with the result."""
    config, node = context.run_config, int(context.node_config["partition-id"])
    samples = share_of(node, int(config["num-clients"]))
    before = message.content.array_records["arrays"]
    server_round = int(message.content.config_records["config"]["server-round"])
    after = train(before, samples, config, seed=1000 * server_round + node)
    if is_byzantine(node, config):
        after = flipped(before, after, float(config["attack-scale"]))
    metrics = MetricRecord({"num-examples": len(samples)})
    return Message(RecordDict({"arrays": after, "metrics": metrics}), reply_to=message)
