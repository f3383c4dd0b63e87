"""Refuse settings and data that cannot work, before anything large is loaded."""

import itertools
import logging
import os

import numpy as np
import torch
from omegaconf import DictConfig

from degla.data.sources import SampleStream, SampleTable
from degla.errors import ConfigError, DataError
from degla.losses import Objective

log = logging.getLogger(__name__)

_PRECISIONS = ("32", "bf16-mixed", "16-mixed")
_MATMULS = ("highest", "high", "medium")  # arguments of torch.set_float32_matmul_precision
_MAX_CHECKED_ROWS = 4000  # rows of a table whose negatives are counted, evenly spaced; takes a tenth of a second
_MAX_CHECKED_STREAM = 200  # samples of a stream whose negatives are counted; their images are read, too


def refuse_precision(cfg: DictConfig) -> None:
    """Refuse a precision that is unknown, or that does not work with the device or another setting.

    Raises:
        ConfigError: what to set instead.
    """
    if str(cfg.precision) not in _PRECISIONS:
        raise ConfigError(f"precision={cfg.precision} must be one of {', '.join(_PRECISIONS)}")
    on_cpu = cfg.trainer.accelerator == "cpu" or (cfg.trainer.accelerator == "auto" and not torch.cuda.is_available())
    if cfg.precision == "16-mixed" and is_fsdp2(cfg):
        raise ConfigError("precision=16-mixed does not work with strategy=fsdp2: set precision=bf16-mixed")
    if cfg.precision == "16-mixed" and on_cpu:
        raise ConfigError("precision=16-mixed needs a GPU: set precision=bf16-mixed or precision=32")
    if cfg.precision == "16-mixed" and cfg.trainer.gradient_clip_val and cfg.optimizer.get("fused"):
        raise ConfigError(
            "trainer.gradient_clip_val and precision=16-mixed do not work with a fused optimizer, which unscales by "
            "itself: set optimizer.fused=false, or precision=bf16-mixed"
        )
    if cfg.non_finite not in ("stop", "skip"):
        raise ConfigError(f"non_finite={cfg.non_finite} must be stop or skip")
    if cfg.float32_matmul not in _MATMULS:
        raise ConfigError(f"float32_matmul={cfg.float32_matmul} must be one of {', '.join(_MATMULS)}")


def refuse_fsdp2(cfg: DictConfig) -> None:
    """Refuse settings that do not work with ``strategy=fsdp2``.

    Raises:
        ConfigError: what to set instead.
    """
    if not is_fsdp2(cfg):
        return
    if cfg.loader.chunk_size is not None:
        raise ConfigError(
            "loader.chunk_size does not work with strategy=fsdp2, whose ranks must all call the model equally often: "
            "set it to null and model.grad_checkpointing=true"
        )
    if cfg.teacher is not None and cfg.teacher.text_cache:
        raise ConfigError("teacher.text_cache does not work with strategy=fsdp2: set it to null")
    if num_devices(cfg) < 2:
        raise ConfigError("strategy=fsdp2 needs at least 2 processes: set trainer.devices=2 or more, or strategy=auto")


def refuse_objective(cfg: DictConfig, objective: Objective) -> None:
    """Refuse an objective without terms, or whose terms lack a teacher or negatives.

    Args:
        cfg: config of the run.
        objective: made from it.

    Raises:
        ConfigError: what to set instead.
    """
    if not objective.weights:
        raise ConfigError("every weight of the objective is 0: set at least one, such as objective.contrastive=1")
    if objective.uses_teacher and cfg.teacher is None:
        names = [name for name, term in objective.active.items() if "teacher" in term.needs]
        off = " ".join(f"objective.{name}=0" for name in names)
        raise ConfigError(f"{' and '.join(names)} need a teacher: set teacher=ema or teacher=frozen, or {off}")
    needs_negatives = (term.zero_without & {"negatives", "unfiltered_negatives"} for term in objective.active.values())
    if cfg.loader.num_negatives == 0 and all(needs_negatives):
        raise ConfigError(
            f"{' and '.join(sorted(objective.weights))} alone learn nothing without negatives: set "
            "loader.num_negatives to 1 or more, or objective.contrastive=1"
        )


def refuse_missing_negatives(source: SampleTable | SampleStream) -> None:
    """Refuse data without hard negatives for an objective that reads them; warn where most samples have none.

    A large table is checked at evenly spaced rows, a stream at its beginning.

    Raises:
        DataError: no sample that was checked has a negative.
    """
    num_checked, num_with_negatives = count_negatives(source)
    if not num_checked:
        return  # empty data has its own message
    if not num_with_negatives:
        raise DataError(
            f"none of the {num_checked} samples that were checked has a hard negative, which this objective reads: "
            "write some with degla-negatives input=<file of captions>, or set objective=clip to train without them"
        )
    if 2 * num_with_negatives < num_checked:
        log.warning(
            f"only {num_with_negatives} of {num_checked} samples that were checked have hard negatives; the others "
            "train the global contrast only (degla-negatives writes negatives)"
        )


def count_negatives(source: SampleTable | SampleStream) -> tuple[int, int]:
    """Return how many samples were checked, and how many of them have a hard negative.

    Args:
        source: data of the run; at most 4000 rows of a table, or 200 samples of a stream, are checked.
    """
    if isinstance(source, SampleTable):
        rows = np.unique(np.linspace(0, max(len(source), 1) - 1, _MAX_CHECKED_ROWS).astype(int))[: len(source)]
        samples = source.texts(rows.tolist())
    else:
        unshuffled = SampleStream(source.dataset, source.to_sample, shuffle_buffer=1)
        samples = list(itertools.islice(unshuffled.samples(seed=0, epoch=0), _MAX_CHECKED_STREAM))
    return len(samples), sum(bool(sample.negatives) for sample in samples)


def is_fsdp2(cfg: DictConfig) -> bool:
    """Return whether the config asks for FSDP2; no model exists yet that could be asked."""
    return cfg.strategy._target_.endswith("ModelParallelStrategy")


def num_devices(cfg: DictConfig) -> int:
    """Return the number of processes of the run, from the environment of a launcher or else from the config."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    devices = cfg.trainer.devices
    if devices in ("auto", -1, "-1"):
        use_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        devices = torch.cuda.device_count() if use_gpu else 1
    if isinstance(devices, str):
        devices = devices.split(",") if "," in devices else int(devices)
    count = devices if isinstance(devices, int) else len(devices)
    return count * cfg.trainer.num_nodes
