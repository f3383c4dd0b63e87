"""The usearch graph of an index: built, updated, searched, and compared with brute force.

Imports no torch.

Shapes: N images of the index, Q queries, D embedding.
"""

import hashlib
import logging
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from degla.artifacts import atomic_write
from degla.errors import MissingDependencyError
from degla.image_index.manifest import GraphRecord

if TYPE_CHECKING:
    from usearch.index import Index

log = logging.getLogger(__name__)

MIN_RECALL = 0.99  # below it, a search gets more candidates
NEAREST = 10  # hits that the recall is measured on
_CONNECTIVITY = 32  # neighbours of an image in the graph
_EXPANSION_ADD = 256  # candidates when an image is added
_EXPANSIONS = (128, 256, 512, 1024, 2048)  # candidates of a search that are tried, in order
_MAX_REMOVED = 0.1  # share of the images; a graph with more gaps is built again
_SAME_SCORE = 1e-6  # cosines that differ by less are equal: copies of an image are interchangeable
_PATTERN = "graph-*.usearch"


class DamagedGraph(Exception):
    """A graph that cannot be used; the message says why."""


class Match(NamedTuple):
    """An image that a search has found."""

    key: int
    score: float  # cosine with the query


def new_graph(embed_dim: int) -> "Index":
    """Return an empty graph for features of unit norm.

    Args:
        embed_dim: D.

    Raises:
        MissingDependencyError: usearch is not installed.
    """
    try:
        from usearch.index import Index, MetricKind, ScalarKind
    except ImportError as error:
        raise MissingDependencyError.for_extra("degla-search needs usearch", "search") from error
    return Index(
        ndim=embed_dim,
        metric=MetricKind.IP,
        dtype=ScalarKind.F32,
        connectivity=_CONNECTIVITY,
        expansion_add=_EXPANSION_ADD,
        expansion_search=_EXPANSIONS[0],
    )


def update_graph(graph: "Index", keys: np.ndarray, features: np.ndarray) -> "Index":
    """Return a graph that holds exactly these images.

    Args:
        graph: the graph so far, possibly empty; it may be changed.
        keys: ``(N,)`` uint64.
        features: ``(N, D)`` float32.
    """
    present = np.asarray(graph.keys, dtype=np.uint64) if len(graph) else np.zeros(0, np.uint64)
    removed = np.setdiff1d(present, keys)
    if len(removed) > _MAX_REMOVED * len(present):
        graph, present = new_graph(features.shape[1]), np.zeros(0, np.uint64)
    elif len(removed):
        graph.remove(removed)
    added = ~np.isin(keys, present)
    if added.any():
        graph.add(keys[added], features[added])
    return graph


def save_graph(graph: "Index", store: Path, expansion: int) -> GraphRecord:
    """Write a graph under a name of its own, so that searches can use the old one meanwhile.

    Args:
        graph: what to write.
        store: folder of the index.
        expansion: candidates of a search.
    """
    path = store / _PATTERN.replace("*", uuid.uuid4().hex)
    with atomic_write(path, flush_to_disk=True) as partial:
        graph.save(str(partial))
        checksum = _checksum(partial)
    return GraphRecord(file=path.name, checksum=checksum, expansion=expansion)


def open_graph(store: Path, record: GraphRecord, embed_dim: int, count: int, in_memory: bool = False) -> "Index":
    """Open the graph of an index.

    Args:
        store: folder of the index.
        record: what the manifest says about the graph.
        embed_dim: D.
        count: N.
        in_memory: read the file, so that the graph can be changed; False maps it into memory.

    Raises:
        DamagedGraph: the file is missing or is not what was written.
    """
    path = store / Path(record.file).name
    try:
        if _checksum(path) != record.checksum:
            raise DamagedGraph("it does not have the checksum that it was written with")
        graph = new_graph(embed_dim)
        (graph.load if in_memory else graph.view)(str(path))
    except FileNotFoundError as error:
        raise DamagedGraph("it is missing") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedGraph(str(error).partition("\n")[0]) from error
    if len(graph) != count or graph.ndim != embed_dim:
        raise DamagedGraph(f"it holds {len(graph)} images of {graph.ndim} numbers, not {count} of {embed_dim}")
    set_expansion(graph, record.expansion)
    return graph


def set_expansion(graph: "Index", expansion: int) -> None:
    """Set how many candidates a search keeps.

    Args:
        graph: the graph.
        expansion: more of them find more of the nearest images, and take longer.
    """
    graph.expansion_search = expansion  # type: ignore[misc]  # it has a setter, below other decorators


def delete_graphs(store: Path, keep: str = "") -> None:
    """Delete the graphs of an index.

    Args:
        store: folder of the index.
        keep: name of the file to keep.
    """
    for path in store.glob(_PATTERN):
        if path.name != keep:
            path.unlink(missing_ok=True)


def search_graph(graph: "Index", query: np.ndarray, count: int) -> list[Match]:
    """Return the nearest images of a query, approximately, the best first.

    Args:
        graph: the graph.
        query: ``(D,)`` float32 of unit norm.
        count: number of images; fewer are returned where the graph holds fewer.
    """
    found = graph.search(query, min(count, len(graph)))
    return [Match(int(key), 1 - float(distance)) for key, distance in zip(found.keys, found.distances, strict=True)]


def measure_recall(graph: "Index", features: np.ndarray, queries: np.ndarray) -> float:
    """Return the share of the ten nearest images that the graph finds.

    An image counts as found if it scores as high as the tenth of the exact result: among copies of one image, any will
    do.

    Args:
        graph: the graph.
        features: ``(N, D)`` float32, all of the graph.
        queries: ``(Q, D)`` float32.
    """
    count = min(NEAREST, len(features))
    shares = []
    for query in queries:  # one at a time: (Q, N) scores may not fit into memory
        exact = features @ query
        tenth = np.partition(exact, len(exact) - count)[len(exact) - count]
        found = [match for match in search_graph(graph, query, count) if match.score >= tenth - _SAME_SCORE]
        shares.append(len(found) / count)
    return float(np.mean(shares))


def tune(graph: "Index", features: np.ndarray, queries: Collection[np.ndarray]) -> list[float]:
    """Give searches as many candidates as a recall of 0.99 needs, up to 2048.

    Args:
        graph: its ``expansion_search`` is set.
        features: ``(N, D)`` float32, all of the graph.
        queries: sets of ``(Q, D)`` float32 queries.

    Returns:
        The recall of each set.
    """
    recalls: list[float] = []
    for expansion in _EXPANSIONS:
        set_expansion(graph, expansion)
        recalls = [measure_recall(graph, features, part) for part in queries]
        if min(recalls) >= MIN_RECALL:
            return recalls
    log.warning(
        f"the index finds {100 * min(recalls):.1f} % of the ten nearest images, less than {100 * MIN_RECALL:g} %; "
        "rebuild=true builds it again"
    )
    return recalls


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
