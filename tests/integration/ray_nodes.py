"""A Ray cluster on this machine, as a program: several nodes, each with an object store of its own.

The argument is a JSON list of resources, one entry a node. The program prints the cluster's address; each line that it
reads is the number of a node to kill; it ends the cluster when its standard input ends.
"""

import json
import sys

from ray.cluster_utils import Cluster

_STORE = {"object_store_memory": 100_000_000}


def main(head: dict[str, int], *others: dict[str, int]) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=_STORE | {"include_dashboard": False} | head)
    nodes = [cluster.head_node, *(cluster.add_node(**_STORE, **node) for node in others)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
        print(f"killed {int(line)}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
