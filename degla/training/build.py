"""Build a run from its config, and refuse combinations of settings that cannot work."""

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf

from degla.cli.instantiate import check_node, instantiate, instantiate_each, instantiate_partial
from degla.data.datamodule import DataModule
from degla.data.sources import SampleStream, SampleTable
from degla.data.text_features import TextFeatures
from degla.errors import ConfigError
from degla.evaluation import Encoder
from degla.losses import Objective
from degla.models import ClipModel, Teacher
from degla.training.module import DeGLAModule

log = logging.getLogger(__name__)

_PRECISIONS = ("32", "bf16-mixed", "16-mixed")
_MATMULS = ("highest", "high", "medium")  # arguments of torch.set_float32_matmul_precision


class Run(NamedTuple):
    """The objects of a training run."""

    module: DeGLAModule
    datamodule: DataModule
    trainer: L.Trainer


def build(cfg: DictConfig) -> Run:
    """Build everything that ``train.yaml`` describes.

    Args:
        cfg: the composed config.

    Raises:
        DeglaError: a setting is unknown, of the wrong type, or impossible together with another; data or weights
            are missing.
    """
    _check_nodes(cfg)
    _refuse_precision(cfg)
    _refuse_fsdp2(cfg)
    objective: Objective = instantiate(cfg.objective, "objective")
    _refuse_objective(cfg, objective)
    # The data come before the weights: a missing file is found sooner than a model is downloaded.
    source = instantiate(cfg.data, "data")
    val_source = instantiate(cfg.val_data, "val_data") if cfg.val_data._target_ else None
    if isinstance(source, SampleStream) and cfg.trainer.max_steps < 1:
        raise ConfigError("a streamed data set has no end: set trainer.max_steps to a number of steps")
    student: ClipModel = instantiate(cfg.model, "model")
    instantiate(cfg.optimizer, "optimizer", model=student)  # only to refuse bad values early; the run makes its own
    teacher = _build_teacher(cfg, objective, student)
    torch.set_float32_matmul_precision(cfg.float32_matmul)
    if cfg.compile:
        student.compile_blocks()
        if teacher is not None:
            teacher.model.compile_blocks()
    datamodule: DataModule = instantiate(
        cfg.loader,
        "loader",
        source=source,
        val_source=val_source,
        tokenizer=student.tokenizer,
        image_size=student.image_size,
        preprocess=student.preprocess,
        # An objective without negatives should not pay for reading them.
        **({} if objective.uses_negatives else {"num_negatives": 0}),
    )
    module = DeGLAModule(
        student=student,
        objective=objective,
        teacher=teacher,
        optimizer=instantiate_partial(cfg.optimizer, "optimizer"),
        # Lightning can estimate the number of steps, but it starts the training loader before a resume is restored.
        scheduler=instantiate_partial(cfg.scheduler, "scheduler", total_steps=_total_steps(cfg, datamodule)),
        teacher_texts=_build_teacher_texts(cfg, teacher, datamodule),
        non_finite=cfg.non_finite,
        negative_types=_validation_negative_types(datamodule),
        config=_plain(cfg),
    )
    return Run(module, datamodule, _build_trainer(cfg, datamodule, objective))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    return settings


def _check_nodes(cfg: DictConfig) -> None:
    """Check all keys first, so that a typing error is reported before data and weights are loaded."""
    for group in ("model", "data", "loader", "optimizer", "scheduler", "trainer"):
        check_node(cfg[group], group)
    for name, node in (cfg.benchmark or {}).items():
        check_node(node, f"benchmark.{name}")


def _build_teacher(cfg: DictConfig, objective: Objective, student: ClipModel) -> Teacher | None:
    if objective.uses_teacher:
        return instantiate(cfg.teacher, "teacher", student=student)
    if cfg.teacher is not None:
        log.info("no term of the objective reads the teacher: none is built")
    return None


def _build_teacher_texts(cfg: DictConfig, teacher: Teacher | None, datamodule: DataModule) -> TextFeatures | None:
    """Open the store of a frozen teacher's text features: one file per teacher, precision and table of texts."""
    if teacher is None or not teacher.text_cache:
        return None
    if datamodule.tokens is None:
        raise ConfigError("teacher.text_cache needs a table and a causal text tower: set it to null for this data")
    precision: Any = str(cfg.precision)  # YAML reads 32 as a number
    identity = [Encoder(teacher.model, precision=precision).fingerprint(), datamodule.tokens.key]
    path = Path(teacher.text_cache) / f"{hashlib.sha256(str(identity).encode()).hexdigest()[:16]}.f32"
    features = TextFeatures(path, datamodule.tokens.num_texts, teacher.model.config["embed_dim"])
    datamodule.collate.teacher_texts = features
    return features


def _validation_negative_types(datamodule: DataModule) -> list[str]:
    """Return the types of all negatives of the validation samples; at most ``loader.max_val_rows`` are read."""
    table = datamodule.val_source or datamodule.source
    if not isinstance(table, SampleTable):
        return []
    samples = table.texts(datamodule.val_indices.tolist())
    return sorted({negative.type for sample in samples for negative in sample.negatives})


def _build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """Build the callbacks of ``callbacks/``; ``evaluate`` only where a benchmark is set."""
    nodes = {name: node for name, node in cfg.callbacks.items() if node and (name != "evaluate" or cfg.benchmark)}
    arguments: dict[str, Mapping[str, Any]] = {}
    if "evaluate" in nodes:
        arguments["evaluate"] = {"benchmarks": instantiate_each(cfg.benchmark, "benchmark")}
    return [instantiate(node, f"callbacks.{name}", **arguments.get(name, {})) for name, node in nodes.items()]


def _refuse_precision(cfg: DictConfig) -> None:
    if str(cfg.precision) not in _PRECISIONS:
        raise ConfigError(f"precision={cfg.precision} is none of {', '.join(_PRECISIONS)}")
    on_cpu = cfg.trainer.accelerator == "cpu" or (cfg.trainer.accelerator == "auto" and not torch.cuda.is_available())
    if cfg.precision == "16-mixed" and _is_fsdp2(cfg):
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
        raise ConfigError(f"float32_matmul={cfg.float32_matmul} is none of {', '.join(_MATMULS)}")


def _refuse_fsdp2(cfg: DictConfig) -> None:
    if not _is_fsdp2(cfg):
        return
    if cfg.loader.chunk_size is not None:
        raise ConfigError(
            "loader.chunk_size does not work with strategy=fsdp2, whose ranks must all call the model equally often: "
            "set it to null and model.grad_checkpointing=true"
        )
    if cfg.teacher is not None and cfg.teacher.text_cache:
        raise ConfigError("teacher.text_cache does not work with strategy=fsdp2: set it to null")
    if _num_devices(cfg) < 2:
        raise ConfigError("strategy=fsdp2 needs at least 2 processes: set trainer.devices=2 or more, or strategy=auto")


def _refuse_objective(cfg: DictConfig, objective: Objective) -> None:
    terms = set(objective.weights)
    if not terms:
        raise ConfigError("every weight of the objective is 0: set at least one, such as objective.contrastive=1")
    if objective.uses_teacher and cfg.teacher is None:
        names = [name for name in ("tgc", "distill") if name in terms]
        off = " ".join(f"objective.{name}=0" for name in names)
        raise ConfigError(f"{' and '.join(names)} need a teacher: set teacher=ema or teacher=frozen, or {off}")
    if cfg.loader.num_negatives == 0 and terms <= {"igc", "tgc", "imc", "cmr"}:
        raise ConfigError(
            f"{' and '.join(sorted(terms))} alone learn nothing without negatives: set loader.num_negatives to 1 or "
            "more, or objective.contrastive=1"
        )


def _total_steps(cfg: DictConfig, datamodule: DataModule) -> int:
    """Return the number of optimizer steps of the whole run."""
    limits = [cfg.trainer.max_steps] if cfg.trainer.max_steps >= 0 else []
    batches = datamodule.num_batches(_num_devices(cfg))
    if batches is not None:
        limits.append(math.ceil(batches / cfg.trainer.accumulate_grad_batches))
    return min(limits)


def _build_trainer(cfg: DictConfig, datamodule: DataModule, objective: Objective) -> L.Trainer:
    accumulate = cfg.trainer.accumulate_grad_batches
    if accumulate > 1:
        size = cfg.loader.global_batch_size
        log.info(
            f"accumulating {accumulate} batches: the optimizer and the EMA teacher step once every {size * accumulate} "
            f"samples, but captions are contrasted within {size} samples only"
        )
    arguments = {}
    batches = datamodule.num_batches(_num_devices(cfg))
    if batches is not None:  # Lightning refuses a validation interval beyond the run
        arguments["val_check_interval"] = min(cfg.trainer.val_check_interval, batches)
    return instantiate(
        cfg.trainer,
        "trainer",
        max_epochs=1,
        strategy=_build_strategy(cfg, objective),
        precision=cfg.precision,
        callbacks=_build_callbacks(cfg),
        logger=[instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node],
        default_root_dir=cfg.run_dir,
        enable_progress_bar=bool(cfg.callbacks.get("progress_bar")),  # callbacks.progress_bar=null turns it off
        use_distributed_sampler=False,  # our samplers give each rank its share without repeating samples
        **arguments,
    )


def _build_strategy(cfg: DictConfig, objective: Objective) -> Strategy | str:
    if _is_fsdp2(cfg):
        return instantiate(cfg.strategy, "strategy", data_parallel_size=_num_devices(cfg))
    if _num_devices(cfg) > 1:
        # The global contrast reads every parameter. Without it some have no gradient, and DDP must look for them.
        unused = "contrastive" not in objective.weights
        return instantiate(cfg.strategy, "strategy", find_unused_parameters=unused)
    return "auto"


def _is_fsdp2(cfg: DictConfig) -> bool:
    return cfg.strategy._target_.endswith("ModelParallelStrategy")


def _num_devices(cfg: DictConfig) -> int:
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
