"""Which Ray cluster this is; ``python -m flower_dfl.transport.cluster HOST:PORT`` joins one for a moment to say so."""

import sys

import ray

__all__ = ["describe_cluster"]


def describe_cluster() -> str:
    """Return the address and the resources of the cluster that this process is connected to."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(resources.get(kind, 0) for resources in nodes) for kind in ("CPU", "GPU"))
    return f"Ray cluster {ray.get_runtime_context().gcs_address}: nodes {len(nodes)}, CPUs {cpus:g}, GPUs {gpus:g}"


if __name__ == "__main__":
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
    print(describe_cluster())  # noqa: T201 - for the process that started this one
