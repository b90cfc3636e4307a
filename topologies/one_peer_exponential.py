"""One-peer exponential: every node talks to those at one distance, which doubles from round to round."""

import networkx as nx

__all__ = ["one_peer_exponential"]


def one_peer_exponential(graph: "nx.Graph[int]", round: int, seed: int = 0) -> "nx.Graph[int]":
    r"""Return the edges ``i, i + s (mod n)`` with the distance of the round.

    .. math:: s_t = 2^{(t - 1) \bmod \tau}, \qquad \tau = \lceil \log_2 n \rceil

    The union over any ``tau`` rounds in a row holds a ring, so is connected. Only the number of nodes of the topology's
    graph matters.

    In the literature the edges are directed: node i sends to ``i + s`` and receives from ``i - s``, one model each way,
    and with weights 1/2 the average of ``n = 2^tau`` nodes is exact after ``tau`` rounds. Here edges are undirected, so
    a node exchanges models with both (they are one and the same where ``s = n / 2``): twice as much is sent, and the
    average is not exact. The schedule ``one-peer-hypercube`` is undirected and keeps both properties.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Accepted for the common signature; nothing is drawn.

    References:
        Assran, Loizou, Ballas, Rabbat, *Stochastic Gradient Push for Distributed Deep Learning*, 2019.
        https://arxiv.org/abs/1811.10792

        Ying, Yuan, Chen, Hu, Pan, Yin, *Exponential Graph is Provably Efficient for Decentralized Deep Training*, 2021.
        https://arxiv.org/abs/2110.13363
    """
    del seed
    period = (len(graph) - 1).bit_length()  # ceil(log2 n)
    return nx.circulant_graph(len(graph), [2 ** ((round - 1) % period)] if period else [])
