"""Bring an index up to date with its folder of images.

Imports no torch.

Shapes: N images of the index, Q queries, D embedding.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from degla.artifacts import provenance
from degla.data.image_files import BadImage
from degla.errors import ConfigError, DataError
from degla.image_index.blocks import ROWS, Block, compact, delete_blocks, read_blocks, select, write_block
from degla.image_index.encoders import ImageTextEncoder
from degla.image_index.files import list_images
from degla.image_index.graph import (
    DamagedGraph,
    delete_graphs,
    new_graph,
    open_graph,
    save_graph,
    set_expansion,
    tune,
    update_graph,
)
from degla.image_index.lock import lock_store
from degla.image_index.manifest import (
    NAME,
    BrokenFile,
    DamagedManifest,
    ImageFile,
    Manifest,
    Recall,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from usearch.index import Index

log = logging.getLogger(__name__)

_SECONDS = 60.0  # a kill loses at most what was embedded in this time
_QUERIES = 100  # of each kind, to measure the recall
_MAX_WARNINGS = 5  # broken files that the console names; the manifest names all


class Progress(NamedTuple):
    """What a program did to bring an index up to date."""

    manifest: Manifest
    embedded: int  # images that were encoded
    removed: int  # images that left the index
    seconds: float


class Settings(NamedTuple):
    """How images are embedded."""

    batch_size: int = 64
    num_workers: int = 2  # threads that decode
    rebuild: bool = False  # start again without what is there
    check: bool = False  # measure the recall even if nothing has changed


def update_index(folder: Path, store: Path, encoder: ImageTextEncoder, settings: Settings) -> Progress:
    """Embed new and changed images, drop removed ones, and write graph and manifest.

    What was embedded before a kill is kept. Searches see the old index until the new one is complete.

    Args:
        folder: of the images.
        store: folder of the index.
        encoder: the model.
        settings: how images are embedded.

    Raises:
        ConfigError: the folder is missing, the index belongs to another model, or another program writes it.
        DataError: no file can be read as an image.
    """
    start = time.monotonic()
    images = _list(folder)
    with lock_store(store):
        if settings.rebuild:
            _delete_all(store)
        manifest = _manifest_of_model(store, encoder)
        blocks = _blocks_of_model(store, encoder)
        present = {file for block in blocks for file in block.files}
        known_broken = {entry.file: entry for entry in manifest.broken} if manifest else {}
        todo = [file for file in images if file not in present and file not in known_broken]
        embedded, broken = _embed(folder, store, encoder, settings, todo)
        listed = set(images)
        broken = sorted([*broken, *(entry for file, entry in known_broken.items() if file in listed)])
        _name_broken(broken)
        wanted = listed & (present | {file for block in embedded for file in block.files})
        if not wanted:
            raise DataError(f"index={folder}: none of {len(images)} images can be read; {broken[0].reason}")
        is_current = manifest is not None and wanted == set(manifest.images) and broken == manifest.broken
        graph = None if manifest is None else _open_or_name(store, manifest)
        if not (is_current and graph is not None and manifest is not None) or settings.check:
            parts = compact(store, [*blocks, *embedded], wanted)
            manifest = _write(store, encoder, select(parts, wanted), broken, graph)
            delete_blocks(store, keep={block.path for block in parts})
            delete_graphs(store, keep=manifest.graph.file)
    return Progress(
        manifest,
        embedded=sum(len(block.files) for block in embedded),
        removed=len(present - wanted),
        seconds=time.monotonic() - start,
    )


def restore_graph(store: Path, manifest: Manifest, reason: str) -> "Index":
    """Build a damaged graph again from the features, and write it.

    Args:
        store: folder of the index.
        manifest: of the index.
        reason: what is wrong with the graph.

    Raises:
        DataError: features are missing or damaged as well.
    """
    with lock_store(store):
        log.warning(f"{store / manifest.graph.file} is damaged ({reason}): it is built again from the features")
        rows = select(read_blocks(store), set(manifest.images))
        if len(rows.files) != len(manifest.images):
            raise DataError(
                f"store: the index in {store} is damaged, and so are features of {len(manifest.images)} images: "
                "run degla-search without query=, which embeds what is missing"
            )
        graph = update_graph(new_graph(manifest.model.embed_dim), _keys(rows.files), rows.features)
        set_expansion(graph, manifest.graph.expansion)
        record = save_graph(graph, store, manifest.graph.expansion)
        write_manifest(store, manifest.model_copy(update={"graph": record}))
        delete_graphs(store, keep=record.file)
    return graph


def _delete_all(store: Path) -> None:
    (store / NAME).unlink(missing_ok=True)
    delete_graphs(store)
    delete_blocks(store)


def _list(folder: Path) -> list[ImageFile]:
    if not folder.is_dir():
        raise ConfigError(f"index={folder} is not a folder: set it to a folder of images")
    listing = list_images(folder)
    for problem in listing.problems:
        log.warning(f"left out: {problem}")
    if not listing.images:
        raise DataError(f"index={folder} holds no images: no .jpg, .png, .webp, .gif, .bmp or .tif file in any folder")
    return listing.images


def _manifest_of_model(store: Path, encoder: ImageTextEncoder) -> Manifest | None:
    try:
        manifest = read_manifest(store)
    except DamagedManifest as error:
        log.warning(f"the manifest of {store} is damaged ({error}): it is written again")
        return None
    if manifest is not None and manifest.model.fingerprint != encoder.record.fingerprint:
        raise ConfigError(
            f"store: {store} is the index of another model ({manifest.model.label}, not {encoder.record.label}): set "
            "store to another folder, or rebuild=true"
        )
    return manifest


def _blocks_of_model(store: Path, encoder: ImageTextEncoder) -> list[Block]:
    blocks = read_blocks(store)
    if any(block.fingerprint != encoder.record.fingerprint for block in blocks):
        raise ConfigError(
            f"store: {store} holds features of another model than {encoder.record.label}: set store to another "
            "folder, or rebuild=true"
        )
    return blocks


def _embed(
    folder: Path, store: Path, encoder: ImageTextEncoder, settings: Settings, todo: Sequence[ImageFile]
) -> tuple[list[Block], list[BrokenFile]]:
    """Encode images and write their features; return the new blocks, and the files that cannot be read."""
    blocks: list[Block] = []
    broken: list[BrokenFile] = []
    files: list[ImageFile] = []
    parts: list[np.ndarray] = []
    last = time.monotonic()
    with tqdm(total=len(todo), desc="Embedding images", unit="image", disable=None if todo else True) as bar:
        for batch in _decoded_batches(folder, encoder, settings, todo):
            broken += [BrokenFile(file, reason) for file, reason in batch if isinstance(reason, str)]
            good = [(file, pixels) for file, pixels in batch if not isinstance(pixels, str)]
            if good:
                files += [file for file, _ in good]
                parts.append(encoder.encode_images(np.stack([pixels for _, pixels in good])))
            if files and (len(files) >= ROWS or time.monotonic() - last > _SECONDS):
                blocks += _write_full(store, encoder, files, parts)
                last = time.monotonic()
            bar.update(len(batch))
    if files:
        blocks += _write_full(store, encoder, files, parts)
    return blocks, broken


def _write_full(
    store: Path, encoder: ImageTextEncoder, files: list[ImageFile], parts: list[np.ndarray]
) -> Iterator[Block]:
    """Write what was collected in blocks of at most ``ROWS`` rows, and empty both lists."""
    features = np.concatenate(parts)
    for start in range(0, len(files), ROWS):
        rows = slice(start, start + ROWS)
        yield write_block(store, encoder.record.fingerprint, files[rows], features[rows])
    files.clear()
    parts.clear()


def _decoded_batches(
    folder: Path, encoder: ImageTextEncoder, settings: Settings, todo: Iterable[ImageFile]
) -> Iterator[list[tuple[ImageFile, np.ndarray | str]]]:
    """Yield batches of images with their pixels, or with the reason why they cannot be read.

    Threads decode the batches to come while the model computes.
    """

    def prepare(file: ImageFile) -> tuple[ImageFile, np.ndarray | str]:
        path = str(folder / file.path)
        try:
            return file, encoder.prepare(path)
        except BadImage as error:
            return file, str(error).removesuffix(f": {path}")

    rest = iter(todo)
    with ThreadPoolExecutor(settings.num_workers, initializer=encoder.start_thread) as pool:
        waiting: list[list[Future[tuple[ImageFile, np.ndarray | str]]]] = []
        while True:
            while len(waiting) < 3 and (batch := list(islice(rest, settings.batch_size))):
                waiting.append([pool.submit(prepare, file) for file in batch])
            if not waiting:
                return
            yield [future.result() for future in waiting.pop(0)]


def _name_broken(broken: Sequence[BrokenFile]) -> None:
    for entry in broken[:_MAX_WARNINGS]:
        log.warning(f"left out: {entry.file.path} ({entry.reason})")
    if len(broken) > _MAX_WARNINGS:
        log.warning(f"left out: {len(broken) - _MAX_WARNINGS} more, all in the manifest of the index")


def _open_or_name(store: Path, manifest: Manifest) -> "Index | None":
    try:
        return open_graph(store, manifest.graph, manifest.model.embed_dim, len(manifest.images), in_memory=True)
    except DamagedGraph as error:
        log.warning(f"{store / manifest.graph.file} is damaged ({error}): it is built again from the features")
        return None


def _write(
    store: Path, encoder: ImageTextEncoder, rows: Block, broken: list[BrokenFile], graph: "Index | None"
) -> Manifest:
    """Write the graph of all rows, then the manifest."""
    dim = encoder.record.embed_dim
    graph = update_graph(new_graph(dim) if graph is None else graph, _keys(rows.files), rows.features)
    queries = min(_QUERIES, len(rows.files))
    chosen = np.random.default_rng(0).choice(len(rows.files), queries, replace=False)
    texts, images = tune(graph, rows.features, [encoder.encode_texts(sample_captions()), rows.features[chosen]])
    versions = {name: value for name, value in provenance().items() if name in ("degla", "commit", "python")}
    manifest = Manifest(
        model=encoder.record,
        images=sorted(rows.files),
        broken=broken,
        graph=save_graph(graph, store, graph.expansion_search),
        recall=Recall(texts=texts, images=images, queries=queries),
        made_with=versions,
    )
    write_manifest(store, manifest)
    return manifest


def sample_captions() -> list[str]:
    """Return a hundred captions, one per thing of the rules' lexicon, as queries that resemble those of users."""
    from degla.hard_negatives.language.lexicon import lexicon

    nouns = sorted(lexicon().nouns)
    return [f"a photo of a {noun}" for noun in nouns[:: max(1, len(nouns) // _QUERIES)][:_QUERIES]]


def _keys(files: Sequence[ImageFile]) -> np.ndarray:
    return np.array([file.key for file in files], dtype=np.uint64)
