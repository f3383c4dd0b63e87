"""Config to objects, and the refusals: a combination that cannot work ends here, in one sentence."""

import hashlib
import logging
import math
import os
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from degla.cli.instantiate import check_node, instantiate, instantiate_each, instantiate_partial
from degla.data.datamodule import DataModule
from degla.data.sources import SampleStream
from degla.data.text_features import TextFeatures
from degla.errors import ConfigError
from degla.evaluation import Encoder
from degla.losses import Objective
from degla.models import ClipModel, Teacher
from degla.training.module import DeGLAModule

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """What a training needs."""

    module: DeGLAModule
    datamodule: DataModule
    trainer: L.Trainer


def build(cfg: DictConfig) -> Run:
    """Build everything that ``train.yaml`` describes.

    Raises:
        ConfigError: a setting is unknown, of the wrong type, or impossible together with another.
    """
    for group in ("model", "data", "loader", "optimizer", "scheduler", "trainer"):
        check_node(cfg[group], group)  # a slip of the keyboard should not wait for data and weights to load
    for name, node in (cfg.benchmark or {}).items():
        check_node(node, f"benchmark.{name}")
    _refuse_precision(cfg)
    objective: Objective = instantiate(cfg.objective, "objective")
    _refuse_objective(cfg, objective)
    source = instantiate(cfg.data, "data")
    val_source = instantiate(cfg.val_data, "val_data") if cfg.val_data._target_ else None
    if isinstance(source, SampleStream) and cfg.trainer.max_steps < 1:
        raise ConfigError("a streamed data set has no end: set trainer.max_steps to a number of steps")
    # The data is checked before the weights are looked for: a missing file is quicker to name than a download.
    student: ClipModel = instantiate(cfg.model, "model")
    instantiate(
        cfg.optimizer, "optimizer", model=student
    )  # refuses a negative rate and the like; the run makes its own
    teacher = None
    if objective.uses_teacher:
        teacher = instantiate(cfg.teacher, "teacher", student=student)
    elif cfg.teacher is not None:
        log.info("no term of the objective reads the teacher: none is built")
    torch.set_float32_matmul_precision(cfg.float32_matmul)
    if cfg.compile:
        for model in filter(None, (student, teacher and teacher.model)):
            model.compile_blocks()
    datamodule = instantiate(
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
    teacher_texts = _teacher_texts(cfg, teacher, datamodule)
    module = DeGLAModule(
        student,
        objective,
        teacher,
        optimizer=instantiate_partial(cfg.optimizer, "optimizer"),
        # Not Lightning's estimate: asking for it starts the training loader before a resume is restored.
        scheduler=instantiate_partial(cfg.scheduler, "scheduler", total_steps=_total_steps(cfg, datamodule)),
        teacher_texts=teacher_texts,
        non_finite=cfg.non_finite,
        config=OmegaConf.to_container(cfg, resolve=True),
    )
    return Run(module, datamodule, _trainer(cfg, datamodule, objective))


def _teacher_texts(cfg: DictConfig, teacher: Teacher | None, datamodule: DataModule) -> TextFeatures | None:
    """Where a frozen teacher's text features are kept: a file for each teacher, precision and table of texts."""
    if teacher is None or not teacher.text_cache:
        return None
    if datamodule.tokens is None:
        raise ConfigError("teacher.text_cache needs a table and a causal text tower: set it to null for this data")
    known = [Encoder(teacher.model, precision=str(cfg.precision)).fingerprint(), datamodule.tokens.key]
    path = Path(teacher.text_cache) / f"{hashlib.sha256(str(known).encode()).hexdigest()[:16]}.f32"
    features = TextFeatures(path, datamodule.tokens.num_texts, teacher.model.config["embed_dim"])
    datamodule.collate.teacher_texts = features
    return features


def _callbacks(cfg: DictConfig) -> list:
    """Those of ``callbacks/``; ``evaluate`` needs something to measure."""
    nodes = {name: node for name, node in cfg.callbacks.items() if node}
    if not cfg.benchmark:
        nodes.pop("evaluate", None)
        return [instantiate(node, f"callbacks.{name}") for name, node in nodes.items()]
    tasks = instantiate_each(cfg.benchmark, "benchmark")
    return [
        instantiate(node, f"callbacks.{name}", **({"benchmarks": tasks} if name == "evaluate" else {}))
        for name, node in nodes.items()
    ]


def _refuse_precision(cfg: DictConfig) -> None:
    if str(cfg.precision) not in _PRECISIONS:
        raise ConfigError(f"precision={cfg.precision} is none of {', '.join(_PRECISIONS)}")
    fsdp2 = _is_fsdp2(cfg)
    cpu = cfg.trainer.accelerator == "cpu" or (cfg.trainer.accelerator == "auto" and not torch.cuda.is_available())
    if cfg.precision == "16-mixed" and fsdp2:
        raise ConfigError("precision=16-mixed does not work with strategy=fsdp2: set precision=bf16-mixed")
    if cfg.precision == "16-mixed" and cpu:
        raise ConfigError("precision=16-mixed needs a GPU: set precision=bf16-mixed or precision=32")
    if cfg.precision == "16-mixed" and cfg.trainer.gradient_clip_val and cfg.optimizer.get("fused"):
        raise ConfigError(
            "trainer.gradient_clip_val and precision=16-mixed do not work with a fused optimizer, which unscales by "
            "itself: set optimizer.fused=false, or precision=bf16-mixed"
        )
    if cfg.non_finite not in ("stop", "skip"):
        raise ConfigError(f"non_finite={cfg.non_finite} is neither stop nor skip")
    if cfg.float32_matmul not in _MATMULS:
        raise ConfigError(f"float32_matmul={cfg.float32_matmul} is none of {', '.join(_MATMULS)}")
    if fsdp2 and cfg.loader.chunk_size is not None:
        raise ConfigError(
            "loader.chunk_size does not work with strategy=fsdp2, whose ranks must all call the model equally often: "
            "set it to null and model.grad_checkpointing=true"
        )
    if fsdp2 and cfg.teacher is not None and cfg.teacher.text_cache:
        raise ConfigError("teacher.text_cache does not work with strategy=fsdp2: set it to null")
    if fsdp2 and _num_devices(cfg) < 2:
        raise ConfigError("strategy=fsdp2 needs at least 2 processes: set trainer.devices=2 or more, or strategy=auto")


def _refuse_objective(cfg: DictConfig, objective: Objective) -> None:
    terms = set(objective.weights)
    if not terms:
        raise ConfigError("every weight of the objective is 0: set at least one, such as objective.contrastive=1")
    if objective.uses_teacher and cfg.teacher is None:
        needy = [name for name in ("tgc", "distill") if name in terms]
        off = " ".join(f"objective.{name}=0" for name in needy)
        raise ConfigError(f"{' and '.join(needy)} need a teacher: set teacher=ema or teacher=frozen, or {off}")
    if cfg.loader.num_negatives == 0 and terms <= {"igc", "tgc", "imc", "cmr"}:
        raise ConfigError(
            f"{' and '.join(sorted(terms))} alone learn nothing without negatives: set loader.num_negatives to 1 or "
            "more, or objective.contrastive=1"
        )


def _total_steps(cfg: DictConfig, datamodule: DataModule) -> int:
    """Optimizer steps of the whole run."""
    limits = [cfg.trainer.max_steps] if cfg.trainer.max_steps >= 0 else []
    batches = datamodule.num_batches(_num_devices(cfg))
    if batches is not None:
        limits.append(math.ceil(batches / cfg.trainer.accumulate_grad_batches))
    return min(limits)


def _trainer(cfg: DictConfig, datamodule: DataModule, objective: Objective) -> L.Trainer:
    if _is_fsdp2(cfg):
        strategy = instantiate(cfg.strategy, "strategy", data_parallel_size=_num_devices(cfg))
    elif _num_devices(cfg) > 1:
        # The global contrast reads every parameter; without it some get no gradient, which DDP must look for.
        unused = "contrastive" not in objective.weights
        strategy = instantiate(cfg.strategy, "strategy", find_unused_parameters=unused)
    else:
        strategy = "auto"
    accumulate = cfg.trainer.accumulate_grad_batches
    if accumulate > 1:
        rows = cfg.loader.global_batch_size
        log.info(
            f"accumulating {accumulate} batches: the optimizer and the EMA teacher step once every {rows * accumulate} "
            f"rows, but captions are contrasted within {rows} rows only"
        )
    arguments = {}
    batches = datamodule.num_batches(_num_devices(cfg))
    if batches is not None:  # Lightning refuses a validation interval beyond the run
        arguments["val_check_interval"] = min(cfg.trainer.val_check_interval, batches)
    return instantiate(
        cfg.trainer,
        "trainer",
        max_epochs=1,
        strategy=strategy,
        precision=cfg.precision,
        callbacks=_callbacks(cfg),
        logger=[instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node],
        default_root_dir=cfg.run_dir,
        enable_progress_bar=bool(cfg.callbacks.get("progress_bar")),  # callbacks.progress_bar=null turns it off
        use_distributed_sampler=False,  # ours shards without repeating rows
        **arguments,
    )


_PRECISIONS = ("32", "bf16-mixed", "16-mixed")
_MATMULS = ("highest", "high", "medium")


def _is_fsdp2(cfg: DictConfig) -> bool:
    return cfg.strategy._target_.endswith("ModelParallelStrategy")


def _num_devices(cfg: DictConfig) -> int:
    """Processes of the whole run, as far as the config and the environment tell."""
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
