"""Features of images and texts, each encoded once over all benchmarks, ranks and runs."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from degla.data.images import BadImage
from degla.data.schema import Problem
from degla.evaluation.encoder import Encoder
from degla.evaluation.feature_table import Block, FeatureTable
from degla.evaluation.items import ImageRef

_TIMEOUT_SECONDS = 1800.0  # time that the workers may take for a batch of images

T = TypeVar("T")
Encoded = tuple[Block | None, list[tuple[str, Problem]]]  # good items with features, bad items by key


class FeatureStore:
    """Features by image and by text, encoded on demand.

    Args:
        encoder: computes the features.
        cache_dir: folder in which features are kept between runs, below the fingerprint of the model; None keeps
            them in memory only. A killed evaluation continues from it.
        num_workers: processes that decode images; 0 decodes in this process.
        rank: rank of this process among those that share the work. All hold the same tasks.
        world_size: number of these processes. Each encodes its share, without repeats, and receives the others'.
        progress: show a progress bar on rank 0.

    Attributes:
        num_encoded: number of images and texts that this process has encoded, those from the cache not counted.
        problems: key of an image that cannot be decoded -> what is wrong with it.
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
        self._images = FeatureTable(folder, "images")
        self._texts = FeatureTable(folder, "texts")

    def add(self, images: Iterable[ImageRef], texts: Iterable[str]) -> None:
        """Encode the images and texts that are not in the store yet.

        Args:
            images: with several ranks, the same on each.
            texts: with several ranks, the same on each.
        """
        images = list(dict.fromkeys(images))
        self._keys |= zip(images, self._keys_of_rank_0([image.key() for image in images]), strict=True)
        missing_images = self._missing(self._images, {self._keys[image]: image for image in images})
        self._encode("images", self._images, missing_images, self._image_batches)
        missing_texts = self._missing(self._texts, {_text_key(text): text for text in dict.fromkeys(texts)})
        # Texts of similar length share a batch, because a batch is as wide as its longest text.
        by_length = dict(sorted(missing_texts.items(), key=lambda item: (len(item[1].split()), len(item[1]), item[1])))
        self._encode("texts", self._texts, by_length, self._text_batches)

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """Return the ``(N, D)`` features of images that were added before, float32, unit norm."""
        return self._images[[self._keys[image] for image in images]]

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return the ``(N, D)`` features of texts that were added before, float32, unit norm."""
        return self._texts[[_text_key(text) for text in texts]]

    def is_readable(self, image: ImageRef) -> bool:
        """Return whether the image could be decoded."""
        return self.key(image) not in self.problems

    def key(self, image: ImageRef) -> str:
        """Return the key of an image, which is the same on every rank."""
        return self._keys.get(image) or image.key()

    def _keys_of_rank_0(self, keys: list[str]) -> list[str]:
        # Paths and modification times can differ between machines, and with them the keys.
        if self.world_size > 1:
            shared = [keys]
            dist.broadcast_object_list(shared, src=0)
            (keys,) = shared
        return keys

    def _missing(self, table: FeatureTable, items: dict[str, T]) -> dict[str, T]:
        """Return the items that at least one rank does not have."""
        missing = {key: item for key, item in items.items() if key not in table}
        if self.world_size > 1:
            # The ranks divide one list, but a rank that starts late may read files that an early one has just written.
            shares: list[list[str]] = [[] for _ in range(self.world_size)]
            dist.all_gather_object(shares, list(missing))
            missing_anywhere = set().union(*shares)
            missing = {key: item for key, item in items.items() if key in missing_anywhere}
        return missing

    def _encode(
        self,
        kind: Literal["images", "texts"],
        table: FeatureTable,
        missing: dict[str, T],
        batches: Callable[[list[tuple[str, T]]], Iterator[Encoded]],
    ) -> None:
        own = list(missing.items())[self.rank :: self.world_size]
        problems: list[tuple[str, Problem]] = []
        with tqdm(total=len(own), desc=f"Encoding {kind}", disable=not self.progress or not own) as bar:
            for block, bad in batches(own):
                if block is not None:
                    table.append(*block)
                    self.num_encoded[kind] += len(block[0])
                    bar.update(len(block[0]))
                problems += bad
                bar.update(len(bad))
        blocks = table.flush()
        self.problems |= dict(self._exchange(table, blocks, problems))

    def _exchange(
        self, table: FeatureTable, blocks: list[Block], problems: list[tuple[str, Problem]]
    ) -> list[tuple[str, Problem]]:
        """Give every rank the rows of the others; return the problems of all ranks."""
        if self.world_size == 1:
            return problems
        shares: list[tuple[list[Block], list[tuple[str, Problem]]]] = [([], []) for _ in range(self.world_size)]
        dist.all_gather_object(shares, (blocks, problems))
        for rank, (rank_blocks, _) in enumerate(shares):
            for keys, features in rank_blocks if rank != self.rank else ():
                table.hold(keys, features)
        return [problem for _, rank_problems in shares for problem in rank_problems]

    def _image_batches(self, items: list[tuple[str, ImageRef]]) -> Iterator[Encoded]:
        loader: DataLoader[Tensor | str] = DataLoader(
            _DecodedImages([image for _, image in items], self.encoder.transform),
            batch_size=self.encoder.batch_size,
            num_workers=min(self.num_workers, len(items)),
            timeout=_TIMEOUT_SECONDS if self.num_workers and items else 0,
            collate_fn=list,
            multiprocessing_context="fork" if self.num_workers and items else None,
        )
        start = 0
        for batch in loader:
            keys, pixels, bad = [], [], []
            for (key, image), decoded in zip(items[start : start + len(batch)], batch, strict=True):
                if isinstance(decoded, Tensor):
                    keys.append(key)
                    pixels.append(decoded)
                else:
                    bad.append((key, Problem(image.name, decoded.removesuffix(f": {image.name}"), True)))
            start += len(batch)
            yield (keys, self.encoder.encode_images(torch.stack(pixels))) if keys else None, bad

    def _text_batches(self, items: list[tuple[str, str]]) -> Iterator[Encoded]:
        for start in range(0, len(items), self.encoder.batch_size):
            batch = items[start : start + self.encoder.batch_size]
            yield ([key for key, _ in batch], self.encoder.encode_texts([text for _, text in batch])), []


class NoImageFeatures:
    """The features of a store with every image replaced by one grey image, for the no-image baseline.

    Args:
        features: the store that holds the texts.
    """

    def __init__(self, features: FeatureStore):
        self._features = features
        height, width = features.encoder.model.image_size
        grey = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
        self._grey = features.encoder.encode_images(grey)

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """Return ``(N, D)`` features: N times those of the grey image."""
        return self._grey.expand(len(images), -1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return the ``(N, D)`` features of texts, float32, unit norm."""
        return self._features.text_features(texts)

    def is_readable(self, image: ImageRef) -> bool:
        """Return whether the image could be decoded, so that the baseline answers the same items."""
        return self._features.is_readable(image)


class _DecodedImages(Dataset[Tensor | str]):
    """A map-style data set of decoded images; a bad image is replaced by the message that says why."""

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


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
