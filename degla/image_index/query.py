"""Search an index with a caption, and sort the first hits again by the margin over hard negatives.

Imports no torch.

Shapes: H hits, M negatives, D embedding.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from degla.errors import ConfigError, DataError
from degla.image_index.build import restore_graph
from degla.image_index.encoders import ImageTextEncoder
from degla.image_index.graph import DamagedGraph, open_graph, search_graph
from degla.image_index.manifest import DamagedManifest, Manifest, read_manifest

if TYPE_CHECKING:
    from usearch.index import Index

log = logging.getLogger(__name__)


class Hit(NamedTuple):
    """An image that answers a query."""

    path: str  # below the folder of images
    score: float  # cosine with the query
    rank: int  # by the score alone, from 1
    margin: float | None = None  # score less that of the best negative; None where there are no negatives
    rival: str = ""  # the best negative


def require_manifest(folder: Path, store: Path) -> Manifest:
    """Read the manifest of an index that must exist.

    Args:
        folder: of the images.
        store: folder of the index.

    Raises:
        ConfigError: there is no index.
        DataError: its manifest is damaged.
    """
    try:
        manifest = read_manifest(store)
    except DamagedManifest as error:
        raise DataError(
            f"store: the manifest of {store} is damaged ({error}): run degla-search index={folder} model=... again, "
            "which writes it from the features that are there"
        ) from error
    if manifest is None:
        raise ConfigError(f"index={folder} has no index yet: first run degla-search index={folder} model=...")
    return manifest


def require_same_model(manifest: Manifest, encoder: ImageTextEncoder, store: Path) -> None:
    """Check that a model is the one that made the index.

    Args:
        manifest: of the index.
        encoder: the model.
        store: folder of the index, for the message.

    Raises:
        ConfigError: it is another model.
    """
    if encoder.record.fingerprint != manifest.model.fingerprint:
        raise ConfigError(
            f"store: {store} is the index of another model ({manifest.model.label}, not {encoder.record.label}): "
            "leave model and onnx out, or embed the images again with rebuild=true"
        )


def find(store: Path, manifest: Manifest, query: np.ndarray, count: int) -> tuple[list[Hit], np.ndarray]:
    """Return the images nearest to a query, and their features.

    Args:
        store: folder of the index.
        manifest: of the index.
        query: ``(D,)`` float32 of unit norm.
        count: number of hits; an index may hold fewer images.

    Returns:
        H hits, best first, and their ``(H, D)`` features.
    """
    graph = _open(store, manifest)
    paths = {file.key: file.path for file in manifest.images}
    matches = search_graph(graph, query, count)
    hits = [Hit(paths[match.key], match.score, rank) for rank, match in enumerate(matches, start=1)]
    return hits, np.stack([np.asarray(graph.get(match.key)).reshape(-1) for match in matches])


def rerank(
    hits: Sequence[Hit], features: np.ndarray, negatives: Sequence[str], negative_features: np.ndarray
) -> list[Hit]:
    """Sort hits by how much better the query fits than its best negative.

    Args:
        hits: H hits.
        features: ``(H, D)`` float32, of the hits.
        negatives: M texts.
        negative_features: ``(M, D)`` float32, of the negatives.
    """
    scores = features @ negative_features.T
    best = scores.argmax(1)
    with_margin = [
        hit._replace(margin=hit.score - float(row[rival]), rival=negatives[rival])
        for hit, row, rival in zip(hits, scores, best, strict=True)
    ]
    return sorted(with_margin, key=lambda hit: -(hit.margin or 0.0))


def rule_negatives(query: str) -> list[str]:
    """Return hard negatives of a query by every rule that can change it.

    Args:
        query: a caption.

    Raises:
        MissingDependencyError: the extra ``negatives`` is not installed.
    """
    from degla.hard_negatives.kinds import KINDS
    from degla.hard_negatives.rules import NoNegative, Rules

    rules, negatives = Rules(), dict[str, None]()
    for kind in KINDS:
        try:
            negatives.update(dict.fromkeys(rules.write(query, kind, count=2)))
        except NoNegative:
            continue
    return list(negatives)


def _open(store: Path, manifest: Manifest) -> "Index":
    try:
        return open_graph(store, manifest.graph, manifest.model.embed_dim, len(manifest.images))
    except DamagedGraph as error:
        return restore_graph(store, manifest, str(error))
