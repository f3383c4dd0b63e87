"""The LightningDataModule: which rows train, which validate, and from where a resumed run goes on."""

import hashlib
import multiprocessing
import signal
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from degla.data.collate import Collate
from degla.data.loading import StreamBatches, TableBatches, as_is
from degla.data.problems import ProblemLog
from degla.data.sampler import RunSampler, ShardSampler
from degla.data.schema import Batch, image_key
from degla.data.sources.table import SampleStream, SampleTable
from degla.data.tokens import TokenTable
from degla.data.transforms import EvalTransform, TrainTransform
from degla.errors import ConfigError

_MAX_VALIDATION_NEGATIVES = 8


class DataModule(L.LightningDataModule):
    """Batches for training and validation.

    The training loader spans all passes over the rows: one Lightning epoch is the whole run, so that a
    position in it is one number and resuming is exact.

    Args:
        source: rows to train on.
        tokenizer: of the model.
        image_size: height and width the model reads.
        preprocess: the model's open_clip ``preprocess_cfg``.
        val_source: rows to validate on; None takes ``val_fraction`` of ``source``.
        global_batch_size: rows of a batch over all processes.
        epochs: passes over the rows (a stream runs until ``trainer.max_steps``).
        num_negatives: K, negatives a row and step.
        negatives: ``first``, ``random`` or ``one_per_type``.
        hard_images: add one similar image to each row (data with ``hard_image_rows``, as NegCLIP's).
        crop_scale: bounds of the random crop's share of the area.
        drop_last: leave out the last, smaller batch of a pass.
        val_fraction: share of images, with all their captions, held out for validation.
        max_val_rows: at most so many rows are validated on.
        val_batch_size: rows of a validation batch on each process.
        max_bad_fraction: share of rows that may be unusable before the run stops.
        chunk_size: rows encoded at a time; None is the whole batch. The loss and its gradient are those of the
            whole batch all the same (GradCache, Gao et al. 2021), for the memory of one chunk and a third more work.
        num_workers: processes that read and decode, for each training process.
        seed: of order, crops, choice of negatives and the validation split.
        report_path: CSV that lists unusable rows.

    Raises:
        ConfigError: the settings leave no row to train on, or contradict each other.
    """

    def __init__(
        self,
        source: SampleTable | SampleStream,
        tokenizer,
        image_size: tuple[int, int],
        preprocess: dict,
        val_source: SampleTable | None = None,
        global_batch_size: int = 256,
        epochs: int = 5,
        num_negatives: int = 4,
        negatives: str = "first",
        hard_images: bool = False,
        crop_scale: tuple[float, float] | list[float] = (0.9, 1.0),
        drop_last: bool = True,
        val_fraction: float = 0.0,
        max_val_rows: int = 5000,
        val_batch_size: int = 64,
        max_bad_fraction: float = 0.01,
        chunk_size: int | None = None,
        num_workers: int = 4,
        seed: int = 42,
        report_path: str | None = None,
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
        self.seed = seed
        interpolation = preprocess["interpolation"]
        try:
            self.collate = Collate(
                TrainTransform(image_size, crop_scale, interpolation),
                tokenizer,
                num_negatives,
                negatives,
                chunk_size,
            )
            evaluation = EvalTransform(image_size, interpolation, preprocess["resize_mode"])
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"loader.chunk_size={chunk_size} must be 1 or more, or null for the whole batch")
        if isinstance(val_source, SampleStream):
            raise ConfigError(
                "a stream cannot be validated on, since its rows have no numbers: take data@val_data=huggingface"
            )
        if isinstance(source, SampleStream) and hard_images:
            raise ConfigError("loader.hard_images needs rows by number, which a stream has not: set it to false")
        if hard_images and val_fraction:
            raise ConfigError(
                "loader.hard_images would bring held-out images into training: name other rows with data@val_data=..., "
                "or set loader.val_fraction=0"
            )
        self.val_collate = Collate(evaluation, tokenizer, _MAX_VALIDATION_NEGATIVES, "first")
        self.train_indices, self.val_indices = self._split(val_fraction, max_val_rows)
        num_rows = None if isinstance(source, SampleStream) else len(source)
        self.problems = ProblemLog(Path(report_path) if report_path else None, num_rows, max_bad_fraction)
        self._sampler()  # too few rows are refused here, not when the first process asks for its loader
        mapped = isinstance(source, SampleTable) and tokenizer.causal and tokenizer.key()
        self.tokens = TokenTable(source, tokenizer) if mapped else None

    def train_dataloader(self) -> DataLoader:
        """Batches from where a resumed run stopped."""
        start = self._batches_done()
        if isinstance(self.source, SampleStream):
            if self.global_batch_size % self._world_size:
                raise ConfigError(
                    f"loader.global_batch_size={self.global_batch_size} of a stream must be a multiple of the "
                    f"{self._world_size} processes"
                )
            batch_size = self.global_batch_size // self._world_size
            self.problems.rows_read = start * batch_size
            stream = StreamBatches(
                self.source, self.collate, batch_size, self.seed, self._rank, self._world_size, start
            )
            return self._loader(stream, batch_size=None)
        batches = TableBatches(self.source, self.collate, self.hard_images, self.tokens, self.train_indices)
        return self._loader(batches, batch_sampler=self._sampler(start))

    def val_dataloader(self) -> DataLoader | list:
        """Every validation row once over all processes; nothing where there are none."""
        if not len(self.val_indices):
            return []
        table = self.val_source or self.source
        try:
            sampler = ShardSampler(self.val_indices, self.val_batch_size, self._rank, self._world_size)
        except ValueError as error:
            raise ConfigError(
                f"{error}: raise loader.val_fraction, or name other rows with data@val_data=..."
            ) from error
        return self._loader(TableBatches(table, self.val_collate, pool=self.val_indices), batch_sampler=sampler)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Record what was wrong with the batch's rows."""
        self.problems.add(batch.problems, len(batch.samples))
        return batch

    def setup(self, stage: str) -> None:
        """Each process keeps its own record of bad rows: one file would be written to by all at once."""
        if self._rank and self.problems.path and f".rank{self._rank}" not in self.problems.path.suffixes:
            path = self.problems.path.with_suffix(f".rank{self._rank}.csv")
            self.problems = ProblemLog(path, self.problems.num_rows, self.problems.max_bad_fraction)

    def num_batches(self, world_size: int) -> int | None:
        """Batches of the whole run on each of ``world_size`` processes, None for a stream."""
        sampler = self._sampler(world_size=world_size)
        return None if sampler is None else len(sampler)

    def _sampler(self, start: int = 0, world_size: int | None = None) -> RunSampler | None:
        if isinstance(self.source, SampleStream):
            return None
        try:
            return RunSampler(
                self.train_indices,
                self.global_batch_size,
                self.epochs,
                self.seed,
                self.drop_last,
                self._rank,
                world_size or self._world_size,
                start,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _split(self, val_fraction: float, max_val_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train and to validate on; all rows of an image fall on the same side."""
        if isinstance(self.source, SampleStream):
            if val_fraction:
                raise ConfigError(
                    "loader.val_fraction cannot split a stream; name held-out rows with data@val_data=..."
                )
            held_out = np.zeros(0, dtype=bool)
        else:
            held_out = np.zeros(len(self.source), dtype=bool)
            if val_fraction and self.val_source is None:
                for start in range(0, len(held_out), 1000):
                    indices = list(range(start, min(start + 1000, len(held_out))))
                    shares = [_share(_tail(image_key(row)), self.seed) for row in self.source.samples(indices)]
                    held_out[indices] = np.array(shares) < val_fraction
        val = np.arange(len(self.val_source)) if self.val_source is not None else np.flatnonzero(held_out)
        return np.flatnonzero(~held_out), val[:max_val_rows]

    def _batches_done(self) -> int:
        """Batches that the run had trained on when its checkpoint was written."""
        if self.trainer is None or not self.trainer.fit_loop.restarting:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed

    def _loader(self, dataset, **arguments) -> DataLoader:
        # Inside a job of hydra/launcher=joblib the default is joblib's own way, which cannot start these workers.
        inside_joblib = multiprocessing.get_start_method() == "loky"
        return DataLoader(
            dataset,
            collate_fn=as_is,
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_the_run,
            multiprocessing_context="fork" if self.num_workers and inside_joblib else None,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def _leave_signals_to_the_run(worker: int) -> None:
    """A notice to every process of a job must not end its workers: the batch under way waits for them."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _tail(key: str) -> str:
    """File and folder of a path: the split stays what it is when the data move."""
    return "/".join(Path(key).parts[-2:])


def _share(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the image and the seed alone."""
    return int(hashlib.sha1(f"{seed}:{key}".encode(), usedforsecurity=False).hexdigest()[:12], 16) / 16**12
