"""``degla-search`` and ``python -m degla.search``: embed a folder of images, and search it with captions.

Imports no torch, and with ``onnx=`` or an index that was made with it nothing else does either.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from degla.cli.main import run_program
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.image_index.build import Progress
    from degla.image_index.encoders import ImageTextEncoder
    from degla.image_index.manifest import Manifest
    from degla.image_index.query import Hit

STORE = ".degla_search"  # folder of the index, inside the folder of images


def main() -> None:
    """Run the program with the command line's arguments."""
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    run_program("search", search)


def quoted(argument: str) -> str:
    """Return ``query=<caption>`` in the form in which Hydra reads any caption as one text.

    Hydra would take a comma for the start of another value, and an apostrophe for a quote.

    Args:
        argument: of the command line.
    """
    key, equals, text = argument.partition("=")
    if key != "query" or not text or text == "null" or (text[0] == text[-1] and text[0] in "'\"" and len(text) > 1):
        return argument
    return f"{key}{equals}'{_escaped(text)}'"


def _escaped(text: str) -> str:
    text = text.replace("\\", "/")  # Hydra reads a backslash as the start of an escape; no caption needs one
    return text.replace("'", "\\'").replace("${", "$ {")


def search(cfg: DictConfig) -> None:
    """Bring an index up to date, or search it.

    Args:
        cfg: the composed ``search.yaml``.

    Raises:
        DeglaError: a setting cannot work, or the index cannot be used.
    """
    if not cfg.index:
        raise ConfigError("index is not set: set it to a folder of images")
    folder = Path(str(cfg.index)).expanduser()
    store = Path(str(cfg.store)).expanduser() if cfg.store else folder / STORE
    if cfg.query is None:
        progress = update(cfg, folder, store)
        _print_progress(progress, folder)
    else:
        answer(cfg, folder, store)


def update(cfg: DictConfig, folder: Path, store: Path) -> "Progress":
    """Embed what is new in the folder.

    Args:
        cfg: the composed ``search.yaml``.
        folder: of the images.
        store: folder of the index.
    """
    from degla.image_index.build import Settings, update_index
    from degla.image_index.encoders import load_encoder
    from degla.image_index.manifest import DamagedManifest, read_manifest

    encoder = chosen_encoder(cfg)
    if encoder is None:
        try:
            manifest = read_manifest(store)
        except DamagedManifest as error:
            raise ConfigError(f"the manifest of {store} is damaged ({error}): set model=... or onnx=...") from error
        if manifest is None:
            raise ConfigError("no model is set: set model=vit_b_32 or another option, or onnx to an exported folder")
        encoder = load_encoder(manifest.model, cfg.device)
    settings = Settings(cfg.batch_size, cfg.num_workers, cfg.rebuild, cfg.check)
    return update_index(folder, store, encoder, settings)


def answer(cfg: DictConfig, folder: Path, store: Path) -> None:
    """Print the hits of a query, and write their page.

    Args:
        cfg: the composed ``search.yaml``.
        folder: of the images.
        store: folder of the index.
    """
    from degla.image_index.encoders import load_encoder
    from degla.image_index.page import write_page
    from degla.image_index.query import require_manifest, require_same_model

    query = str(cfg.query).strip()
    if not query:
        raise ConfigError("query is empty: set it to a caption, such as query='a dog on a beach'")
    manifest = require_manifest(folder, store)
    encoder = chosen_encoder(cfg) or load_encoder(manifest.model, cfg.device)
    require_same_model(manifest, encoder, store)
    start = time.monotonic()
    hits = _hits(cfg, query, store, manifest, encoder)
    seconds = time.monotonic() - start
    for number, hit in enumerate(hits, start=1):
        margin = "" if hit.margin is None else f"  margin {hit.margin:+.4f}"
        print(f"{number:3}  {hit.score:.4f}{margin}  {hit.path}")
    if cfg.page:
        about = {
            "model": manifest.model.label,
            "images": f"{len(manifest.images)} in {folder}",
            "order": "by margin over negatives" if any(hit.margin is not None for hit in hits) else "by score",
            "time": f"{1000 * seconds:.0f} ms",
            "recall@10 of the index": f"{100 * manifest.recall.texts:.1f} % for captions",
        }
        write_page(Path(str(cfg.page)), query, folder, hits, about)
        print(cfg.page)


def chosen_encoder(cfg: DictConfig) -> "ImageTextEncoder | None":
    """Return the model that the config names; None where it names none.

    Args:
        cfg: the composed ``search.yaml``.

    Raises:
        ConfigError: it names two, or the model cannot be loaded.
    """
    from degla.image_index.encoders import OnnxEncoder, TorchEncoder

    if cfg.onnx and cfg.model:
        raise ConfigError("model and onnx are both set: set one of them")
    if cfg.onnx:
        return OnnxEncoder(Path(str(cfg.onnx)).expanduser())
    if not cfg.model:
        return None
    from degla.cli.instantiate import check_node

    _, arguments = check_node(cfg.model, "model")
    return TorchEncoder(arguments, cfg.device)


def _hits(cfg: DictConfig, query: str, store: Path, manifest: "Manifest", encoder: "ImageTextEncoder") -> "list[Hit]":
    from degla.image_index.query import find, log, rerank, rule_negatives

    negatives = rule_negatives(query) if cfg.rerank else []
    if cfg.rerank and not negatives:
        log.warning("rerank=true changes nothing: no rule can make a negative of this query")
    encoded = encoder.encode_texts([query, *negatives])
    hits, features = find(store, manifest, encoded[0], max(cfg.hits, cfg.rerank_hits) if negatives else cfg.hits)
    if negatives:
        hits = rerank(hits, features, negatives, encoded[1:])
    return hits[: cfg.hits]


def _print_progress(progress: "Progress", folder: Path) -> None:
    manifest = progress.manifest
    recall = manifest.recall
    print(
        f"{folder}: {len(manifest.images)} images by {manifest.model.label}; {progress.embedded} embedded, "
        f"{progress.removed} removed, {len(manifest.broken)} left out as broken, in {progress.seconds:.1f} s"
    )
    print(
        f"recall@10 of the index against brute force: {100 * recall.texts:.1f} % for captions, "
        f"{100 * recall.images:.1f} % for images ({recall.queries} queries each)"
    )


if __name__ == "__main__":
    main()
