"""The memory plan of a run: a batch like those of its data, its device, and the settings that make it fit."""

import copy
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from PIL import Image

from degla.data.batch import Batch
from degla.data.collate import Draw
from degla.data.datamodule import DataModule
from degla.data.schema import Sample, StoredImage, TokenizedText
from degla.data.sources import SampleTable
from degla.models import ClipModel
from degla.report.memory import MemoryRecord, gigabytes, write_memory
from degla.training.memory import MemoryPlan, plan_step
from degla.training.module import DeGLAModule

log = logging.getLogger(__name__)

_MAX_SAMPLES = 256  # samples of the batch that is planned with; what a larger one needs grows in proportion
_MAX_STREAMED = 64  # samples read from a stream, whose images are read as well
_SMALLEST_CHUNK = 4  # below it, a step is too slow to be a remedy


class StepSettings(NamedTuple):
    """What the memory of a step depends on besides model and data."""

    samples: int  # of one process
    chunk_size: int | None
    precision: str
    keeps_gradients: bool
    on_gpu: bool
    shards: int  # processes among which weights and optimizer are divided


def record_plan(module: DeGLAModule, datamodule: DataModule, trainer: L.Trainer, run_dir: Path) -> MemoryRecord | None:
    """Plan the memory of a run's step, write ``memory.json``, and warn if the step does not fit on the device.

    Args:
        module: of the run, before the first step.
        datamodule: of the run.
        trainer: of the run; is not changed.
        run_dir: folder of the run.

    Returns:
        What was written; None for a model whose step cannot be planned.
    """
    device = trainer.strategy.root_device
    settings = run_settings(datamodule, trainer, device)
    available = free_memory(device)
    try:
        plan = plan_run(module, datamodule, settings)
        fits = available is None or plan.total <= available
        remedies = {} if fits or available is None else _remedies(module, datamodule, settings, plan, available)
    except Exception as error:  # a model that torch cannot run without data must still train
        log.debug(f"the memory of a step is not planned: {error}", exc_info=True)
        return None
    record = MemoryRecord(
        **plan._asdict(),
        precision=settings.precision,
        samples=settings.samples,
        encoded_at_once=min(settings.chunk_size or settings.samples, settings.samples),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        available=available,
        remedies=remedies,
    )
    write_memory(run_dir, record)
    if not record.fits:
        log.warning(shortage(record))
    return record


def shortage(record: MemoryRecord) -> str:
    """Return one sentence that says what is missing, and which settings make the step fit."""
    assert record.available is not None
    enough = [f"{name} ({gigabytes(need)} GB)" for name, need in record.remedies.items() if need <= record.available]
    less = [f"{name} ({gigabytes(need)} GB)" for name, need in record.remedies.items() if need > record.available]
    advice = f"set {' or '.join(enough)}" if enough else f"combine {' and '.join(less)}"
    return (
        f"a step needs about {gigabytes(record.total)} GB and {gigabytes(record.available)} GB are free: {advice} "
        "(docs/memory.md)"
    )


def run_settings(datamodule: DataModule, trainer: L.Trainer, device: torch.device) -> StepSettings:
    """Return the settings of a run that the memory of its step depends on.

    Args:
        datamodule: of the run.
        trainer: of the run.
        device: of this process.
    """
    world_size = trainer.world_size
    samples = -(-datamodule.global_batch_size // world_size) * (2 if datamodule.hard_images else 1)
    return StepSettings(
        samples=samples,
        chunk_size=datamodule.collate.chunk_size,
        precision=str(trainer.precision).removesuffix("-true"),
        keeps_gradients=world_size > 1 or trainer.accumulate_grad_batches > 1,
        on_gpu=device.type == "cuda",
        shards=world_size if isinstance(trainer.strategy, ModelParallelStrategy) else 1,
    )


def plan_run(
    module: DeGLAModule,
    datamodule: DataModule,
    settings: StepSettings,
    adjust: Callable[[ClipModel], None] | None = None,
) -> MemoryPlan:
    """Plan a step with samples like those of the run.

    Args:
        module: of the run.
        datamodule: of the run.
        settings: what else the memory depends on.
        adjust: changes the student before the step.
    """
    at_once = min(settings.chunk_size or settings.samples, settings.samples)
    planned = min(at_once, _MAX_SAMPLES if isinstance(datamodule.source, SampleTable) else _MAX_STREAMED)
    is_chunked = at_once < settings.samples
    batch = sample_batch(datamodule, planned * (2 if is_chunked else 1), planned if is_chunked else None)
    plan = plan_step(module, batch, settings.precision, settings.keeps_gradients, settings.on_gpu, adjust)
    activations = plan.activations * (at_once / planned)
    if is_chunked:
        activations += (settings.samples - 2 * at_once) * _bytes_outside_chunks(module, batch)
    return MemoryPlan(
        weights=plan.weights // settings.shards,
        teacher=plan.teacher // settings.shards,
        gradients=plan.gradients // settings.shards,
        optimizer=plan.optimizer // settings.shards,
        activations=max(0, round(activations)),
    )


def _bytes_outside_chunks(module: DeGLAModule, batch: Batch) -> int:
    """Return the bytes of a sample that is not being encoded: its pixels and features, with gradient and teacher's."""
    pixels = batch.images[0].numel() * (1 if batch.negative_images is None else 2)
    texts = 1 + batch.negatives.shape[1] + sum(texts.mask.shape[1] for texts in batch.extra_texts.values())
    dim = int(module.student.config["embed_dim"])
    return pixels + 3 * 4 * dim * (1 + texts)


def _remedies(
    module: DeGLAModule, datamodule: DataModule, settings: StepSettings, plan: MemoryPlan, available: int
) -> dict[str, int]:
    """Return settings that need less memory, and the bytes of a step with each."""
    found: dict[str, int] = {}
    size = min(settings.chunk_size or settings.samples, settings.samples) // 2
    if settings.shards == 1 and size >= _SMALLEST_CHUNK:
        chunk = 1 << (size.bit_length() - 1)
        chunked = plan_run(module, datamodule, settings._replace(chunk_size=chunk))
        while chunk > _SMALLEST_CHUNK and chunked.total > available:
            chunk //= 2
            chunked = plan_run(module, datamodule, settings._replace(chunk_size=chunk))
        found[f"loader.chunk_size={chunk}"] = chunked.total
    found["model.grad_checkpointing=true"] = plan_run(module, datamodule, settings, _checkpoint_blocks).total
    if settings.precision == "32":
        found["precision=bf16-mixed"] = plan_run(module, datamodule, settings._replace(precision="bf16-mixed")).total
    if module.student.lora is None:  # gradients, moments and an averaged teacher are those of a few small matrices
        found["adapter=lora"] = plan.weights + plan.activations
        found["model.unlocked_image_groups=0"] = plan_run(module, datamodule, settings, _freeze_image_tower).total
    return {name: size for name, size in found.items() if size < plan.total}


def _checkpoint_blocks(model: ClipModel) -> None:
    model.clip.set_grad_checkpointing(True)


def _freeze_image_tower(model: ClipModel) -> None:
    model.clip.visual.requires_grad_(False)


def sample_batch(datamodule: DataModule, samples: int, chunk_size: int | None) -> Batch:
    """Return a batch with texts of the run's data, evenly spaced, and with blank images.

    Args:
        datamodule: of the run.
        samples: number of samples; they repeat where the data have fewer.
        chunk_size: samples encoded together; None is the whole batch.
    """
    collate = copy.copy(datamodule.collate)
    collate.chunk_size = chunk_size
    collate.teacher_texts = None
    chosen = _spaced(datamodule, samples)
    blank = _blank_image()
    return collate(
        (
            sample._replace(
                image_bytes=blank,
                problem="",
                caption=sample.caption or "a photo",
                negative_images=[StoredImage(blank, None)],
                other_caption=TokenizedText(sample.caption or "a photo", None),
            ),
            Draw(number, f"memory-{number}"),
        )
        for number, sample in enumerate(chosen)
    )


def _spaced(datamodule: DataModule, count: int) -> list[Sample]:
    source, rows = datamodule.source, datamodule.train_indices
    if isinstance(source, SampleTable):
        return source.texts(rows[np.linspace(0, len(rows) - 1, count).astype(int)].tolist())
    read = [sample for sample, _ in zip(source.samples(0, 0), range(min(count, _MAX_STREAMED)), strict=False)]
    return (read * -(-count // max(1, len(read))))[:count]


def _blank_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    return file.getvalue()


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device; None where they are not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.is_file():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None
