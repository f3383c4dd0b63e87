"""Every distinct image and every distinct text encoded once, over all benchmarks, ranks and runs."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import safetensors
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from degla.artifacts import atomic_write
from degla.data.schema import Problem
from degla.data.transforms import BadImage
from degla.evaluation.encoder import Encoder
from degla.evaluation.items import ImageRef

_SHARD = 2048  # rows that a kill may cost


class FeatureStore:
    """Features by image and by text.

    Args:
        encoder: makes them.
        cache_dir: where they are kept from run to run, below the fingerprint of the model; None keeps them in
            memory only. A killed evaluation goes on from there.
        num_workers: processes that decode images; 0 decodes in this one.
        rank: of this process among those that share the work and hold the same tasks.
        world_size: how many they are. Each encodes its share, without repeats, and gets the others'.
        progress: show a bar on rank 0.

    Attributes:
        num_encoded: images and texts that this process has encoded, not found.
        problems: of images that cannot be shown, by their keys.
    """

    def __init__(
        self,
        encoder: Encoder,
        cache_dir: Path | None = None,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = True,
    ):
        self.encoder = encoder
        self.num_workers = num_workers
        self.rank, self.world_size = rank, world_size
        self.progress = progress and rank == 0
        self.num_encoded = {"images": 0, "texts": 0}
        self.problems: dict[str, Problem] = {}
        self._keys: dict[ImageRef, str] = {}
        folder = cache_dir / encoder.fingerprint() if cache_dir else None
        self._images = _Table(folder, "images")
        self._texts = _Table(folder, "texts")

    def add(self, images: Iterable[ImageRef], texts: Iterable[str]) -> None:
        """Encode what is not here yet; with several ranks, all call this with the same arguments."""
        images = list(dict.fromkeys(images))
        self._keys |= zip(images, self._agreed([image.key() for image in images]), strict=True)
        missing = self._missing(self._images, {self._keys[image]: image for image in images})
        self._encode("images", self._images, missing, self._image_batches)
        missing = self._missing(self._texts, {_text_key(text): text for text in dict.fromkeys(texts)})
        # Texts of like length together: a batch is as wide as its longest.
        by_length = dict(sorted(missing.items(), key=lambda item: (len(item[1].split()), len(item[1]), item[1])))
        self._encode("texts", self._texts, by_length, self._text_batches)

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """``(N, D)`` float32, unit norm, of images added before."""
        return self._images[[self._keys[image] for image in images]]

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """``(N, D)`` float32, unit norm, of texts added before."""
        return self._texts[[_text_key(text) for text in texts]]

    def is_readable(self, image: ImageRef) -> bool:
        """Whether the image could be decoded."""
        return self.key(image) not in self.problems

    def key(self, image: ImageRef) -> str:
        """What the image is filed under, on every rank alike."""
        return self._keys.get(image) or image.key()

    def _agreed(self, keys: list[str]) -> list[str]:
        """Rank 0's: paths and times of a file may differ between machines."""
        if self.world_size > 1:
            shared = [keys]
            dist.broadcast_object_list(shared, src=0)
            (keys,) = shared
        return keys

    def _missing(self, table: "_Table", things: dict) -> dict:
        lacking = {key: thing for key, thing in things.items() if key not in table}
        if self.world_size > 1:
            # Ranks divide one list, and a rank that starts late may read what an early one has just written.
            shares: list = [None] * self.world_size
            dist.all_gather_object(shares, list(lacking))
            anywhere = set().union(*shares)
            lacking = {key: thing for key, thing in things.items() if key in anywhere}
        return lacking

    def _encode(self, what: str, table: "_Table", missing: dict, batches: Callable) -> None:
        mine = list(missing.items())[self.rank :: self.world_size]
        problems = []
        with tqdm(total=len(mine), desc=f"Encoding {what}", disable=not self.progress or not mine) as bar:
            for keys, features, bad in batches(mine):
                table.append(keys, features)
                problems += bad
                self.num_encoded[what] += len(keys)
                bar.update(len(keys) + len(bad))
        fresh = table.flush()
        if self.world_size > 1:
            shares = [None] * self.world_size
            dist.all_gather_object(shares, (fresh, problems))
            for rank, (rows, _) in enumerate(shares):
                for keys, features in rows if rank != self.rank else ():
                    table.hold(keys, features)
            problems = [problem for _, theirs in shares for problem in theirs]
        self.problems |= problems

    def _image_batches(self, items: list[tuple[str, ImageRef]]):
        loader = DataLoader(
            _DecodedImages([image for _, image in items], self.encoder.transform),
            batch_size=self.encoder.batch_size,
            num_workers=min(self.num_workers, len(items)),
            collate_fn=list,
            multiprocessing_context="fork" if self.num_workers and items else None,
        )
        start = 0
        for batch in loader:
            known = items[start : start + len(batch)]
            start += len(batch)
            good = [(key, pixels) for (key, _), pixels in zip(known, batch, strict=True) if isinstance(pixels, Tensor)]
            bad = [
                (key, Problem(image.name, str(pixels).removesuffix(f": {image.name}"), True))
                for (key, image), pixels in zip(known, batch, strict=True)
                if not isinstance(pixels, Tensor)
            ]
            keys = [key for key, _ in good]
            yield keys, self.encoder.encode_images(torch.stack([pixels for _, pixels in good])) if good else None, bad

    def _text_batches(self, items: list[tuple[str, str]]):
        for start in range(0, len(items), self.encoder.batch_size):
            batch = items[start : start + self.encoder.batch_size]
            yield [key for key, _ in batch], self.encoder.encode_texts([text for _, text in batch]), []


class Blind:
    """The same features with every image replaced by one grey one: what a benchmark asks without looking.

    Args:
        features: where the texts come from.
    """

    def __init__(self, features: FeatureStore):
        self._features = features
        height, width = features.encoder.model.image_size
        grey = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
        self._image = features.encoder.encode_images(grey)

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """``(N, D)``: N times the same."""
        return self._image.expand(len(images), -1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """``(N, D)`` float32, unit norm."""
        return self._features.text_features(texts)

    def is_readable(self, image: ImageRef) -> bool:
        """Whether the image could be decoded, so that both rest on the same items."""
        return self._features.is_readable(image)


class _DecodedImages:
    """Map-style data set of decoded images; a bad one is the message that says why."""

    def __init__(self, images: list[ImageRef], transform: Callable[[Tensor], Tensor]):
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.transform(self.images[index].load())
        except BadImage as error:
            return str(error)


class _Table:
    """Rows by key, in memory and, a file for some thousand rows, on disk."""

    def __init__(self, folder: Path | None, name: str):
        self.folder = folder
        self.name = name
        self.rows: dict[str, int] = {}
        self.chunks: list[Tensor] = []
        self.fresh: list[tuple[list[str], Tensor]] = []  # appended since the last flush
        self.num_unsaved = 0
        for path in sorted(folder.glob(f"{name}-*.safetensors")) if folder else ():
            with safetensors.safe_open(path, "pt") as file:
                self.hold(json.loads(file.metadata()["keys"]), file.get_tensor("features"))

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, keys: list[str]) -> Tensor:
        if len(self.chunks) > 1:
            self.chunks = [torch.cat(self.chunks)]
        return self.chunks[0][[self.rows[key] for key in keys]]

    def append(self, keys: list[str], features: Tensor | None) -> None:
        if not keys:
            return
        self.hold(keys, features)
        self.fresh.append((keys, features))
        self.num_unsaved += len(keys)
        if self.num_unsaved >= _SHARD:
            self._save()

    def flush(self) -> list[tuple[list[str], Tensor]]:
        """Write what is not on disk yet; returns what was appended since the last flush."""
        self._save()
        fresh, self.fresh = self.fresh, []
        return fresh

    def hold(self, keys: list[str], features: Tensor) -> None:
        """Take rows that someone else keeps on disk."""
        start = sum(map(len, self.chunks))
        self.chunks.append(features)
        self.rows.update((key, start + i) for i, key in enumerate(keys))

    def _save(self) -> None:
        rows, count = [], 0
        for keys, features in reversed(self.fresh):
            if count == self.num_unsaved:
                break
            rows.append((keys, features))
            count += len(keys)
        self.num_unsaved = 0
        if self.folder is None or not rows:
            return
        path = self.folder / f"{self.name}-{uuid.uuid4().hex}.safetensors"
        metadata = {"keys": json.dumps([key for keys, _ in rows for key in keys])}
        with atomic_write(path) as partial:
            save_file({"features": torch.cat([features for _, features in rows])}, partial, metadata=metadata)


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
