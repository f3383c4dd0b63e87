"""Build a run from its config, and refuse combinations of settings that cannot work."""

import difflib
import hashlib
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf

from degla.cli.instantiate import check_node, chosen_nodes, instantiate, instantiate_each, instantiate_partial
from degla.data.datamodule import DataModule
from degla.data.requirements import refuse_missing_columns
from degla.data.sources import SampleStream, SampleTable
from degla.data.text_features import TextFeatures
from degla.errors import ConfigError
from degla.evaluation import Encoder
from degla.losses import Objective
from degla.models import ClipModel, Teacher
from degla.objective_terms import TERMS, current_objective
from degla.training.callbacks import MetricsCsv
from degla.training.module import DeGLAModule
from degla.training.refusals import (
    is_fsdp2,
    num_devices,
    refuse_fsdp2,
    refuse_missing_negatives,
    refuse_objective,
    refuse_precision,
)
from degla.training.resume import identify_data
from degla.training.shared_memory import limit_workers

log = logging.getLogger(__name__)


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
    refuse_precision(cfg)
    refuse_fsdp2(cfg)
    objective = build_objective(cfg.objective)
    refuse_objective(cfg, objective)
    # Load the data before the weights, so that a missing file is reported before a model is downloaded.
    source = instantiate(cfg.data, "data")
    val_source = instantiate(cfg.val_data, "val_data") if cfg.val_data._target_ else None
    if isinstance(source, SampleStream) and cfg.trainer.max_steps < 1:
        raise ConfigError("a streamed data set has no end: set trainer.max_steps to a number of steps")
    if objective.uses_negatives and cfg.loader.num_negatives:
        refuse_missing_negatives(source)
    refuse_missing_columns(source, objective.needs)
    student: ClipModel = instantiate(cfg.model, "model")
    if cfg.adapter._target_:
        instantiate(cfg.adapter, "adapter").attach(student)
    _train_logit_bias(student, objective)
    instantiate(cfg.optimizer, "optimizer", model=student)  # only to refuse bad values early; the run makes its own
    teacher = _build_teacher(cfg, objective, student)
    if "tokens" in objective.needs:
        student.read_tokens_()  # the teacher, a copy from before, computes only what it is read for
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
        needs=objective.needs,  # an objective without negatives should not pay for reading them
    )
    batches = datamodule.num_batches(num_devices(cfg))
    if batches is not None:
        objective.set_batches_per_pass(batches // datamodule.epochs)
    limit_workers(
        datamodule,
        image_size=student.image_size,
        world_size=num_devices(cfg),
        processes_per_node=int(os.environ.get("LOCAL_WORLD_SIZE", num_devices(cfg) // cfg.trainer.num_nodes)),
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
        data_identity=identify_data(source),
        negative_types=_validation_negative_types(datamodule),
        config=_plain(cfg),
    )
    return Run(module, datamodule, _build_trainer(cfg, datamodule, objective))


def build_objective(node: DictConfig) -> Objective:
    """Build the objective of a config from its terms.

    Args:
        node: the group ``objective``.

    Raises:
        ConfigError: a term is unknown, or one of its keys.
    """
    settings = current_objective(_plain(node))
    terms = settings.pop("terms", None)
    if not isinstance(terms, dict):
        return instantiate(DictConfig(settings), "objective")  # a class of the user's
    for name, term in terms.items():
        if not term.get("_target_"):
            close = difflib.get_close_matches(name, TERMS, n=1)
            known = f"did you mean {close[0]}?" if close else f"there are {', '.join(TERMS)}"
            raise ConfigError(
                f"objective.terms.{name} is not a term: {known}; a term of your own names its class in "
                f"objective.terms.{name}._target_"
            )
    built = {
        name: instantiate(DictConfig(term), f"objective.terms.{name}")
        for name, term in terms.items()
        if term.get("weight") != 0
    }
    return instantiate(DictConfig(settings), "objective", terms=built)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    return settings


def _check_nodes(cfg: DictConfig) -> None:
    """Check all keys first, so that a typing error is reported before data and weights are loaded."""
    for group in ("model", "data", "loader", "optimizer", "scheduler", "trainer"):
        check_node(cfg[group], group)
    if cfg.adapter._target_:
        check_node(cfg.adapter, "adapter")
    for name, node in chosen_nodes(cfg.benchmark).items():
        check_node(node, f"benchmark.{name}")


def _build_teacher(cfg: DictConfig, objective: Objective, student: ClipModel) -> Teacher | None:
    if objective.uses_teacher:
        return instantiate(cfg.teacher, "teacher", student=student)
    if cfg.teacher is not None:
        log.info("no term of the objective reads a teacher, so none is built")
    return None


def _train_logit_bias(student: ClipModel, objective: Objective) -> None:
    """Let the bias of a model with a sigmoid loss learn where the objective reads it."""
    if "logit_bias" not in objective.needs:
        return
    if student.clip.logit_bias is None:
        raise ConfigError(
            "objective.sigmoid needs a model with a logit bias, such as model=siglip_b_16; for other models choose "
            "objective=degla or another contrastive one"
        )
    student.clip.logit_bias.requires_grad_(True)


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


def _build_callbacks(cfg: DictConfig, datamodule: DataModule) -> list[L.Callback]:
    """Build the callbacks of ``callbacks/``; ``evaluate`` and ``examples`` only where a benchmark is set."""
    nodes = chosen_nodes(cfg.callbacks)
    if not chosen_nodes(cfg.benchmark):
        nodes.pop("evaluate", None)
        nodes.pop("examples", None)
    for name, node in nodes.items():
        check_node(node, f"callbacks.{name}")
    arguments: dict[str, Mapping[str, Any]] = {}
    if "evaluate" in nodes:
        arguments["evaluate"] = {"benchmarks": instantiate_each(cfg.benchmark, "benchmark")}
    if "checkpoint" in nodes and "every_n_steps" in nodes["checkpoint"]:
        every_n_steps = nodes["checkpoint"].every_n_steps
        arguments["checkpoint"] = {"every_n_steps": _checkpoint_interval(cfg, datamodule, every_n_steps)}
    return [instantiate(node, f"callbacks.{name}", **arguments.get(name, {})) for name, node in nodes.items()]


def _total_steps(cfg: DictConfig, datamodule: DataModule) -> int:
    """Return the number of optimizer steps of the whole run."""
    limits = [cfg.trainer.max_steps] if cfg.trainer.max_steps >= 0 else []
    batches = datamodule.num_batches(num_devices(cfg))
    if batches is not None:
        limits.append(math.ceil(batches / cfg.trainer.accumulate_grad_batches))
    return min(limits)


def _build_loggers(cfg: DictConfig) -> list[Logger]:
    """Build the loggers of ``logger/``, and in any case the one of ``metrics.csv``, which report and sweeps read."""
    loggers = [instantiate(node, f"logger.{name}") for name, node in chosen_nodes(cfg.logger).items()]
    if not any(isinstance(logger, MetricsCsv) for logger in loggers):
        loggers.append(MetricsCsv(f"{cfg.run_dir}/metrics.csv"))
    return loggers


def _checkpoint_interval(cfg: DictConfig, datamodule: DataModule, every_n_steps: int) -> int:
    """Return the steps from one checkpoint to the next: a run shorter than ``every_n_steps`` saves after each pass."""
    batches = datamodule.num_batches(num_devices(cfg))
    if batches is None or _total_steps(cfg, datamodule) > every_n_steps:
        return every_n_steps
    steps_per_pass = batches // datamodule.epochs // cfg.trainer.accumulate_grad_batches
    return max(1, min(every_n_steps, steps_per_pass))


def _build_trainer(cfg: DictConfig, datamodule: DataModule, objective: Objective) -> L.Trainer:
    accumulate = cfg.trainer.accumulate_grad_batches
    if accumulate > 1:
        size = cfg.loader.global_batch_size
        log.info(
            f"accumulating {accumulate} batches: the optimizer and the EMA teacher step once every {size * accumulate} "
            f"samples, but captions are contrasted within {size} samples only"
        )
    arguments = {}
    batches = datamodule.num_batches(num_devices(cfg))
    if batches is not None:  # Lightning refuses a validation interval beyond the run
        arguments["val_check_interval"] = min(cfg.trainer.val_check_interval, batches)
    return instantiate(
        cfg.trainer,
        "trainer",
        max_epochs=1,
        strategy=_build_strategy(cfg, objective),
        precision=cfg.precision,
        callbacks=_build_callbacks(cfg, datamodule),
        logger=_build_loggers(cfg),
        default_root_dir=cfg.run_dir,
        enable_progress_bar=bool(cfg.callbacks.get("progress_bar")),  # callbacks.progress_bar=null turns it off
        use_distributed_sampler=False,  # our samplers give each rank its share without repeating samples
        **arguments,
    )


def _build_strategy(cfg: DictConfig, objective: Objective) -> Strategy | str:
    if is_fsdp2(cfg):
        return instantiate(cfg.strategy, "strategy", data_parallel_size=num_devices(cfg))
    if num_devices(cfg) > 1:
        # The global contrast reads every parameter. Without it some have no gradient, and DDP must look for them.
        unused = not objective.reads_all_parameters
        return instantiate(cfg.strategy, "strategy", find_unused_parameters=unused)
    return "auto"
