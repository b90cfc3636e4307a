"""What a communication graph means for robust gossip: domination, connection among the honest, speed of mixing."""

from collections.abc import Collection
from dataclasses import dataclass

import networkx as nx
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.mixing import metropolis
from flower_dfl.topologies.placement import placement_warnings

__all__ = ["Diagnostics", "diagnose"]

_DENSE_LIMIT = 1500  # rows; above it Lanczos beats a full decomposition by far


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Properties of a graph with an adversary on it.

    Attributes:
        num_nodes: Number of nodes.
        num_edges: Number of undirected edges.
        degree_min: Smallest degree, over all nodes.
        degree_mean: Mean degree.
        degree_max: Largest degree.
        honest_connected: Whether the honest nodes reach each other without passing a Byzantine one.
        honest_components: Number of connected components of the honest subgraph.
        largest_byzantine_share: Largest share of Byzantine nodes among an honest node's neighbours, in [0, 1]; 0 where
            a node has no neighbours.
        dominated_nodes: Number of honest nodes with more Byzantine than honest neighbours.
        spectral_gap: One minus the second largest modulus of the eigenvalues of the Metropolis-Hastings matrix, in
            [0, 1]: 1 for the complete graph and for a single node, 0 for a graph that is not connected.
        honest_spectral_gap: The same for the honest nodes alone, with the weight of Byzantine neighbours moved to the
            diagonal. It governs robust gossip.
        warnings: What will keep honest nodes from learning from one another, in words.
    """

    num_nodes: int
    num_edges: int
    degree_min: int
    degree_mean: float
    degree_max: int
    honest_connected: bool
    honest_components: int
    largest_byzantine_share: float
    dominated_nodes: int
    spectral_gap: float
    honest_spectral_gap: float
    warnings: tuple[str, ...]


def diagnose(graph: "nx.Graph[int]", byzantine: int | Collection[int]) -> Diagnostics:
    r"""Describe a graph.

    The honest spectral gap is that of

    .. math:: \tilde W_{ij} = W_{ij}, \qquad \tilde W_{ii} = W_{ii} + \sum_{b \in B} W_{ib}

    on the honest nodes, with W the Metropolis-Hastings matrix of the whole graph. Up to 1500 nodes it comes from a full
    decomposition, above that from Lanczos iterations with a fixed start: the same graph gives the same numbers.

    Args:
        graph: An undirected graph without self-loops on the labels ``0..n-1``. It need not be connected.
        byzantine: The Byzantine nodes, or how many, in ``0..n-1``: then they have the highest labels.

    Raises:
        TopologyError: The graph is empty, or no node is honest.

    References:
        He, Karimireddy, Jaggi, *Byzantine-Robust Decentralized Learning via Self-Centered Clipping*, 2022.
        https://arxiv.org/abs/2202.01545
    """
    n = len(graph)
    check_counts(n, byzantine if isinstance(byzantine, int) else len(byzantine))
    placed = set(range(n - byzantine, n)) if isinstance(byzantine, int) else set(byzantine)
    honest = [node for node in range(n) if node not in placed]
    degrees = [len(graph[node]) for node in range(n)]
    byzantine_degrees = [sum(other in placed for other in graph[node]) for node in honest]
    neighbourhoods = [(b, degrees[node] - b) for node, b in zip(honest, byzantine_degrees, strict=True)]
    components = nx.number_connected_components(graph.subgraph(honest))
    links = _links(graph)
    return Diagnostics(
        num_nodes=len(graph),
        num_edges=graph.number_of_edges(),
        degree_min=min(degrees),
        degree_mean=sum(degrees) / len(degrees),
        degree_max=max(degrees),
        honest_connected=components == 1,
        honest_components=components,
        largest_byzantine_share=max(b / (b + d) if b else 0.0 for b, d in neighbourhoods),
        dominated_nodes=sum(b > d for b, d in neighbourhoods),
        spectral_gap=_spectral_gap(links) if nx.is_connected(graph) else 0.0,
        honest_spectral_gap=_spectral_gap(links[honest][:, honest]) if components == 1 else 0.0,
        warnings=_warnings(graph, placed),
    )


def _warnings(graph: "nx.Graph[int]", byzantine: set[int]) -> tuple[str, ...]:
    isolated = [node for node in sorted(graph) if not graph[node]]
    if len(graph) == 1:
        return ()  # training alone is a legitimate baseline
    found = placement_warnings(graph, byzantine)
    return (*found, f"nodes without any neighbour: {', '.join(map(str, isolated))}") if isolated else found


def _links(graph: "nx.Graph[int]") -> csr_array:
    """Return the Metropolis-Hastings weights of all edges, shape ``(n, n)``, with nothing on the diagonal."""
    entries = [(node, other, weight) for node in graph for other, weight in metropolis(graph, node).items()]
    rows, columns, weights = zip(*entries, strict=True) if entries else ((), (), ())
    return csr_array((np.array(weights, dtype=np.float64), (rows, columns)), shape=(len(graph), len(graph)))


def _spectral_gap(links: csr_array) -> float:
    """Return the gap of ``links`` plus the diagonal that makes every row sum to one; the graph is connected."""
    size = links.shape[0]
    if size == 1:
        return 1.0
    diagonal = 1.0 - links.sum(axis=1)  # (n,)
    if size <= _DENSE_LIMIT:
        moduli = np.sort(np.abs(np.linalg.eigvalsh(links.toarray() + np.diag(diagonal))))
        return float(1.0 - moduli[-2])
    # The eigenvalue 1 belongs to the constant vector. Taking that out leaves the second largest modulus in front.
    deflated = LinearOperator((size, size), matvec=lambda x: links @ x + diagonal * x - x.mean(), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)  # ARPACK's own start would differ from call to call
    (leading,) = eigsh(deflated, k=1, ncv=60, tol=1e-9, v0=start, return_eigenvectors=False)
    return float(1.0 - abs(leading))
