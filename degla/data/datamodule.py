"""The LightningDataModule: which samples train, which validate, and where a resumed run continues."""

import logging
import multiprocessing
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from degla.bounds import SEED, Bound, bounded, is_number, number, one_of, share, whole
from degla.compat.lightning import batches_done, batches_processed
from degla.data.batch import Batch
from degla.data.collate import Collate
from degla.data.computed_order import STORED_ROWS, RowsExcept
from degla.data.image_rows import RowsOfImages, table_image_ids
from degla.data.images import ImageLimits
from degla.data.loading import StreamBatches, StreamSampler, TableBatches, identity_collate
from degla.data.problems import ProblemLog
from degla.data.sampler import RunSampler, ShardSampler
from degla.data.sources.table import SampleStream, SampleTable
from degla.data.split import held_out_rows, image_folds
from degla.data.stream_position import position_to_save, saved_position
from degla.data.tokenizer import Tokenizer
from degla.data.tokens import TokenTable
from degla.data.transforms import EvalTransform, TrainTransform
from degla.errors import ConfigError

log = logging.getLogger(__name__)


def _is_crop_scale(value: Any) -> bool:
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))
    return is_pair and 0 < value[0] <= value[1] <= 1


_CROP_SCALE = Bound(_is_crop_scale, "two shares of the area, more than 0 and at most 1, the smaller one first")
_BATCHES_PER_WORKER = 2  # that a loader takes in advance, by torch's default
_BATCHES_OF_LIGHTNING = 2  # that the trainer holds before and while it trains on one
_PIXELS = whole(1, 178_956_970)  # Pillow refuses larger images
MAX_VALIDATION_NEGATIVES = 8  # negatives per sample that `caption_choice` compares


class DataModule(L.LightningDataModule):
    """Batches for training and validation.

    The training loader spans all passes over the data: one Lightning epoch is the whole run. So a position in it is
    one number, and resuming is exact.

    Args:
        source: samples to train on.
        tokenizer: of the model.
        image_size: height and width that the model reads.
        preprocess: the model's open_clip ``preprocess_cfg``.
        val_source: samples to validate on; None takes ``val_fraction`` or a fold of ``source``.
        global_batch_size: samples of a batch over all processes.
        epochs: passes over the data (a stream runs until ``trainer.max_steps``).
        num_negatives: K, negatives per sample and step.
        negatives: ``first``, ``random``, ``one_per_type`` or ``in_place``.
        num_units: units per sample and step, for objectives that read them.
        hard_images: add one similar image to each sample (data with ``hard_image_rows``, such as NegCLIP's).
        crop_scale: bounds of the random crop's share of the area.
        fast_decode: decode large JPEG files at reduced size in training; pixels differ a little.
        unique_images: keep the rows of an image in different batches where that is possible.
        drop_last: leave out the last, smaller batch of a pass.
        val_fraction: share of images that is held out for validation, with all their captions.
        num_folds: for cross-validation, number of parts that the images are divided into, with all their captions.
        fold: the part that is validated on, from 0; the others train. Without ``num_folds`` it is not used.
        max_val_rows: limit on the samples that are validated on.
        val_batch_size: samples of a validation batch on each process.
        max_image_pixels: images with more pixels are unusable.
        max_image_aspect: images whose longer side is more than this many times the shorter one are unusable.
        max_bad_fraction: share of samples that may be unusable before the run stops.
        chunk_size: samples encoded at a time; None is the whole batch. Loss and gradient are those of the whole
            batch (GradCache, Gao et al. 2021). It needs the memory of one chunk and a third more work.
        num_workers: processes that read and decode, for each training process.
        timeout_seconds: time that the workers may take for a batch before the run stops; 0 waits for ever.
        seed: of order, crops, choice of negatives and the validation split.
        report_path: CSV file that lists unusable samples.
        needs: what training batches carry besides images and captions, as ``Collate`` takes it. Columns that are not
            needed are neither read nor tokenized.

    Raises:
        ConfigError: a setting is out of range, or the settings leave no sample to train on, or contradict each other.
    """

    @bounded("loader")
    def __init__(
        self,
        source: SampleTable | SampleStream,
        tokenizer: Tokenizer,
        image_size: tuple[int, int],
        preprocess: dict[str, Any],
        val_source: SampleTable | None = None,
        global_batch_size: Annotated[int, whole(1)] = 256,
        epochs: Annotated[int, whole(1)] = 5,
        num_negatives: Annotated[int, whole(0)] = 4,
        negatives: Annotated[str, one_of(("first", "random", "one_per_type", "in_place"))] = "first",
        num_units: Annotated[int, whole(1)] = 4,
        hard_images: bool = False,
        unique_images: bool = False,
        crop_scale: Annotated[tuple[float, float] | list[float], _CROP_SCALE] = (0.9, 1.0),
        fast_decode: bool = False,
        drop_last: bool = True,
        val_fraction: Annotated[float, share(below_one=True)] = 0.0,
        num_folds: Annotated[int, whole(2)] | None = None,
        fold: Annotated[int, whole(0)] = 0,
        max_val_rows: Annotated[int, whole(1)] = 5000,
        val_batch_size: Annotated[int, whole(1)] = 64,
        max_image_pixels: Annotated[int, _PIXELS] = ImageLimits().max_pixels,
        max_image_aspect: Annotated[float, number(1)] = ImageLimits().max_aspect,
        max_bad_fraction: Annotated[float, share()] = 0.01,
        chunk_size: Annotated[int, whole(1)] | None = None,
        num_workers: Annotated[int, whole(0)] = 4,
        timeout_seconds: Annotated[float, number(0)] = 1800.0,
        seed: Annotated[int, SEED] = 42,
        report_path: str | None = None,
        needs: Collection[str] = ("negatives",),
    ):
        super().__init__()
        self.source = source
        self.val_source = val_source
        self.global_batch_size = global_batch_size
        self.epochs = epochs
        self.hard_images = hard_images
        self.drop_last = drop_last
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.timeout_seconds = timeout_seconds
        self.seed = seed
        interpolation = preprocess["interpolation"]
        train_transform = TrainTransform(image_size, crop_scale, interpolation, fast_decode)
        eval_transform = EvalTransform(image_size, interpolation, preprocess["resize_mode"])
        limits = ImageLimits(max_image_pixels, max_image_aspect)
        self.collate = Collate(
            train_transform,
            tokenizer,
            num_negatives,
            negatives,
            chunk_size,
            captions=source.captions,
            image_limits=limits,
            needs=needs,
            num_units=num_units,
        )
        self.val_collate = Collate(
            eval_transform, tokenizer, MAX_VALIDATION_NEGATIVES, "first", captions="all", image_limits=limits
        )
        _refuse_contradictions(source, val_source, hard_images, val_fraction, unique_images)
        _refuse_fold(source, val_source, hard_images, val_fraction, num_folds, fold)
        self.train_indices, self.val_indices = self._split(val_fraction, num_folds, fold, max_val_rows)
        num_rows = None if isinstance(source, SampleStream) else len(source)
        self.problems = ProblemLog(Path(report_path) if report_path else None, num_rows, max_bad_fraction)
        self.train_source = source.reading(needs)
        self._rows_of_images: RowsOfImages | None = None
        self._image_ids: np.ndarray | None = None  # (N,) of the training rows
        if isinstance(source, SampleTable) and "second_captions" in needs:
            self._rows_of_images = RowsOfImages(table_image_ids(source), np.asarray(self.train_indices))
        if isinstance(source, SampleTable) and unique_images:
            self._image_ids = table_image_ids(source)[np.asarray(self.train_indices)]
        sampler = self._sampler()  # raises for too few samples now, not when the first process builds its loader
        if sampler is not None:
            _report_repeats(sampler)
        self._stream_sampler: StreamSampler | None = None
        self._saved_position: dict[str, Any] | None = None  # of the stream, in the checkpoint that is resumed
        self.tokens: TokenTable | None = None
        if isinstance(self.train_source, SampleTable) and tokenizer.causal and tokenizer.key():
            self.tokens = TokenTable(self.train_source, tokenizer)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training batches, from where a resumed run stopped."""
        start = batches_done(self.trainer) if self.trainer else 0
        source = self.train_source
        if isinstance(source, SampleStream):
            self.problems.rows_read = start * self.global_batch_size // self._world_size
            bookmark = None
            if start:
                source, bookmark = saved_position(source, self.seed, self._saved_position)
            self._stream_sampler = StreamSampler(
                source,
                self.global_batch_size,
                self.seed,
                self._rank,
                self._world_size,
                start,
                bookmark,
                self._read_ahead,
            )
            return self._loader(StreamBatches(source, self.collate, self.seed), batch_sampler=self._stream_sampler)
        batches = TableBatches(
            source, self.collate, self.hard_images, self.tokens, self.train_indices, self._rows_of_images
        )
        return self._loader(batches, batch_sampler=self._sampler(start))

    def val_dataloader(self) -> DataLoader[Batch] | list[Batch]:
        """Return the validation batches, each sample once over all processes; an empty list if there are none."""
        if not len(self.val_indices):
            return []
        table = self.val_source or self.source
        assert isinstance(table, SampleTable)  # a stream is refused, and cannot be split
        sampler = ShardSampler(self.val_indices, self.val_batch_size, self._rank, self._world_size)
        return self._loader(TableBatches(table, self.val_collate, pool=self.val_indices), batch_sampler=sampler)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Record the problems of a batch's samples.

        Args:
            batch: as the loader gave it.
            dataloader_idx: not used.

        Raises:
            DataError: more than ``max_bad_fraction`` of the samples are bad.
        """
        self.problems.add(batch.problems, len(batch.samples))
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors of a batch; copies from pinned memory run beside the computation."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def state_dict(self) -> dict[str, Any]:
        """Return the position in a stream; nothing for a table, whose position is the number of batches."""
        sampler = self._stream_sampler
        if sampler is None or self.trainer is None:
            return {}
        # Micro-batches of an unfinished accumulation are read again.
        batch = max(0, batches_processed(self.trainer) - self.trainer.accumulate_grad_batches)
        return position_to_save(sampler.stream, self.seed, sampler.bookmark_before(batch))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position in a stream from a checkpoint.

        Args:
            state_dict: what ``state_dict`` returned.
        """
        self._saved_position = state_dict

    def setup(self, stage: str) -> None:
        """Give each process its own record of bad samples, because several cannot write one file at once."""
        if self._rank and self.problems.path and f".rank{self._rank}" not in self.problems.path.suffixes:
            path = self.problems.path.with_suffix(f".rank{self._rank}.csv")
            self.problems = ProblemLog(path, self.problems.num_rows, self.problems.max_bad_fraction)

    def num_batches(self, world_size: int) -> int | None:
        """Return the number of batches of the whole run on each of ``world_size`` processes; None for a stream."""
        sampler = self._sampler(world_size=world_size)
        return None if sampler is None else len(sampler)

    def _sampler(self, start: int = 0, world_size: int | None = None) -> RunSampler | None:
        if isinstance(self.source, SampleStream):
            return None
        return RunSampler(
            self.train_indices,
            self.global_batch_size,
            self.epochs,
            self.seed,
            self.drop_last,
            self._rank,
            world_size or self._world_size,
            start,
            self._image_ids,
        )

    def _split(
        self, val_fraction: float, num_folds: int | None, fold: int, max_val_rows: int
    ) -> tuple[np.ndarray | RowsExcept, np.ndarray]:
        """Return the rows to train on and to validate on; all rows of an image fall on the same side."""
        if isinstance(self.source, SampleStream):
            held_out = np.zeros(0, dtype=bool)
        elif num_folds is not None:
            held_out = image_folds(self.source, num_folds, self.seed) == fold
            if not held_out.any():
                raise ConfigError(f"loader.fold={fold} holds no image of this data: lower loader.num_folds={num_folds}")
        elif val_fraction and self.val_source is None:
            held_out = held_out_rows(self.source, val_fraction, self.seed)
        else:
            held_out = np.zeros(len(self.source), dtype=bool)
        val = np.arange(len(self.val_source)) if self.val_source is not None else np.flatnonzero(held_out)
        if len(held_out) - np.count_nonzero(held_out) > STORED_ROWS:
            return RowsExcept(len(held_out), np.flatnonzero(held_out)), val[:max_val_rows]
        return np.flatnonzero(~held_out), val[:max_val_rows]

    def _loader(self, dataset: TableBatches | StreamBatches, **arguments: Any) -> DataLoader[Batch]:
        # Inside a job of hydra/launcher=joblib the default start method is joblib's own, which cannot start workers.
        inside_joblib = multiprocessing.get_start_method() == "loky"
        return DataLoader(
            dataset,
            collate_fn=identity_collate,
            num_workers=self.num_workers,
            timeout=self.timeout_seconds if self.num_workers else 0,
            worker_init_fn=_ignore_preemption_signals,
            multiprocessing_context="fork" if self.num_workers and inside_joblib else None,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )

    @property
    def _read_ahead(self) -> int:
        """Batches between the newest one that a loader took and the first one that a resumed run reads again."""
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        return self.num_workers * _BATCHES_PER_WORKER + accumulate + _BATCHES_OF_LIGHTNING

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def _refuse_contradictions(
    source: SampleTable | SampleStream,
    val_source: object,
    hard_images: bool,
    val_fraction: float,
    unique_images: bool,
) -> None:
    if isinstance(val_source, SampleStream):
        raise ConfigError(
            "a stream cannot be validated on, because its samples have no row numbers: set data@val_data=huggingface"
        )
    if isinstance(source, SampleStream) and hard_images:
        raise ConfigError("loader.hard_images needs samples by row number, which a stream lacks: set it to false")
    if isinstance(source, SampleStream) and unique_images:
        raise ConfigError("loader.unique_images needs samples by row number, which a stream lacks: set it to false")
    if isinstance(source, SampleStream) and val_fraction:
        raise ConfigError("loader.val_fraction cannot split a stream: name held-out rows with data@val_data=...")
    if hard_images and val_fraction:
        raise ConfigError(
            "loader.hard_images would bring held-out images into training: name other rows with data@val_data=..., "
            "or set loader.val_fraction=0"
        )


def _refuse_fold(
    source: SampleTable | SampleStream,
    val_source: object,
    hard_images: bool,
    val_fraction: float,
    num_folds: int | None,
    fold: int,
) -> None:
    if num_folds is None:
        if fold:
            raise ConfigError(f"loader.fold={fold} is one of no folds: set loader.num_folds=5, or loader.fold=0")
        return
    if fold >= num_folds:
        raise ConfigError(f"loader.fold={fold} must be from 0 to {num_folds - 1}, because loader.num_folds={num_folds}")
    if isinstance(source, SampleStream):
        raise ConfigError("loader.num_folds cannot split a stream: name held-out rows with data@val_data=...")
    if val_source is not None or val_fraction:
        raise ConfigError(
            "loader.num_folds holds out a fold: set loader.val_fraction=0 and data@val_data=none, or set "
            "loader.num_folds=null"
        )
    if hard_images:
        raise ConfigError(
            "loader.hard_images would bring held-out images into training: name other rows with data@val_data=..., "
            "or set loader.num_folds=null"
        )


def _report_repeats(sampler: RunSampler) -> None:
    """Say once where ``unique_images`` cannot hold."""
    repeats = sampler.count_repeats()
    if repeats:
        log.warning(
            f"loader.unique_images: {repeats} of {len(sampler.sizes)} batches of a pass hold an image more than once, "
            "because some image has more rows than a pass has batches, or a batch has more rows than there are images: "
            "lower loader.global_batch_size"
        )


def _ignore_preemption_signals(worker: int) -> None:
    """Ignore preemption signals in workers, so that the current batch can finish.

    Schedulers send the signal to every process of a job; only the training process has to react.
    """
    for signal_number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signal_number, signal.SIG_IGN)
