"""What a communication graph means for robust gossip: domination, connection among the honest, speed of mixing."""

from dataclasses import dataclass

import networkx as nx
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.mixing import metropolis

__all__ = ["Diagnostics", "diagnose"]

_DENSE_LIMIT = 1500  # rows; above it Lanczos beats a full decomposition by far


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Properties of a graph whose Byzantine nodes are the highest labels.

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


def diagnose(graph: "nx.Graph[int]", num_byzantine: int) -> Diagnostics:
    r"""Describe a graph.

    The honest spectral gap is that of

    .. math:: \tilde W_{ij} = W_{ij}, \qquad \tilde W_{ii} = W_{ii} + \sum_{b \in B} W_{ib}

    on the honest nodes, with W the Metropolis-Hastings matrix of the whole graph. Up to 1500 nodes it comes from a full
    decomposition, above that from Lanczos iterations with a fixed start: the same graph gives the same numbers.

    Args:
        graph: An undirected graph without self-loops on the labels ``0..n-1``. It need not be connected.
        num_byzantine: Number of Byzantine nodes, the highest labels, in ``0..n-1``.

    Raises:
        TopologyError: The graph is empty, or no node is honest.

    References:
        He, Karimireddy, Jaggi, *Byzantine-Robust Decentralized Learning via Self-Centered Clipping*, 2022.
        https://arxiv.org/abs/2202.01545
    """
    check_counts(len(graph), num_byzantine)
    num_honest = len(graph) - num_byzantine
    degrees = [len(graph[node]) for node in range(len(graph))]
    byzantine_degrees = [sum(other >= num_honest for other in graph[node]) for node in range(num_honest)]
    honest_degrees = [degrees[node] - byzantine_degrees[node] for node in range(num_honest)]
    neighbourhoods = list(zip(byzantine_degrees, honest_degrees, strict=True))
    components = nx.number_connected_components(graph.subgraph(range(num_honest)))
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
        honest_spectral_gap=_spectral_gap(links[:num_honest, :num_honest]) if components == 1 else 0.0,
        warnings=_warnings(components, degrees, honest_degrees),
    )


def _warnings(components: int, degrees: list[int], honest_degrees: list[int]) -> tuple[str, ...]:
    if len(degrees) == 1:
        return ()  # training alone is a legitimate baseline
    isolated = [node for node, degree in enumerate(degrees) if degree == 0]
    alone = [node for node, degree in enumerate(honest_degrees) if degree == 0]
    found = []
    if components > 1:
        found.append(f"the honest nodes are cut off from one another: they form {components} components")
    if alone:
        found.append(f"honest nodes without an honest neighbour: {', '.join(map(str, alone))}")
    if isolated:
        found.append(f"nodes without any neighbour: {', '.join(map(str, isolated))}")
    return tuple(found)


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
