"""One-peer hypercube: in every round a node talks to one other, along one dimension of a hypercube."""

import networkx as nx

from flower_dfl.errors import TopologyError

__all__ = ["one_peer_hypercube"]


def one_peer_hypercube(graph: "nx.Graph[int]", round: int, seed: int = 0) -> "nx.Graph[int]":
    r"""Return the pairs of nodes whose labels differ in the bit of the round.

    .. math:: i \sim i \oplus 2^{(t - 1) \bmod \tau}, \qquad n = 2^\tau

    Every node has one neighbour. With Metropolis-Hastings weights, which are 1/2 then, any ``tau`` rounds in a row make
    the exact average. Only the number of nodes of the topology's graph matters.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Accepted for the common signature; nothing is drawn.

    Raises:
        TopologyError: The number of nodes is not a power of two.

    References:
        Shi, Li, Johansson, Johansson, *Finite-Time Convergent Gossiping*, 2016.
        https://arxiv.org/abs/1206.0992
    """
    del seed
    period = len(graph).bit_length() - 1
    if len(graph) != 2**period:
        raise TopologyError(f"num_nodes must be a power of two, got {len(graph)}")
    pairs: nx.Graph[int] = nx.create_empty_copy(graph, with_data=False)
    if period:
        bit = 2 ** ((round - 1) % period)
        pairs.add_edges_from((node, node ^ bit) for node in range(len(graph)))
    return pairs
