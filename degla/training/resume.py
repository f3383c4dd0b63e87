"""Checks that a resumed run continues the run of its checkpoint.

A checkpoint holds a format number, an identity of the data, and the settings of its run. Settings that decide which
samples come next, or what the weights mean, must stay; all others are applied and named in the log.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from degla.cli.instantiate import with_current_targets
from degla.data.sources import SampleStream, SampleTable
from degla.errors import CheckpointError, ConfigError
from degla.objective_terms import is_objective, short_key

log = logging.getLogger(__name__)

FORMAT = 2  # of checkpoints; those of earlier releases have no number
KEY = "degla"  # the entry of a checkpoint that holds format and data

# Settings that must stay, by the name that resume.allow=[...] takes. "objective" stands for the whole group.
_FIXED_SETTINGS = {
    "seed": ("seed", "loader.seed"),
    "data": (
        "loader.num_negatives",
        "loader.negatives",
        "loader.num_units",
        "loader.hard_images",
        "loader.unique_images",
        "loader.crop_scale",
        "loader.fast_decode",
        "loader.drop_last",
        "loader.val_fraction",
        "loader.num_folds",
        "loader.fold",
    ),
    "global_batch_size": ("loader.global_batch_size", "trainer.accumulate_grad_batches"),
    "model": ("model.name", "model.quick_gelu", "model.context_length"),
    "adapter": ("adapter",),
    "teacher": ("teacher._target_", "teacher.decay"),
    "objective": ("objective",),
    "freezing": ("model.unlocked_image_groups", "model.unlocked_text_groups"),
}
_STREAM_SETTINGS = ("data.path", "data.name", "data.split", "data.revision")  # a stream has no fingerprint
# Settings whose change is not worth a line: names, folders, and what does not touch the training.
_SILENT = (
    *("run_dir", "runs_dir", "name", "ckpt_path", "resume", "data_dir", "loader.report_path"),
    *("logger", "callbacks", "benchmark", "data"),
)
_HASHED_BATCHES = 100  # batches of a table whose texts are hashed, evenly spaced; all of them up to a million rows
_ROWS_PER_BATCH = 10_000  # rows of such a batch


class ResumableModule(Protocol):
    """The part of the LightningModule that resuming reads."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all weights by name."""
        ...

    def trained_parameters(self) -> list[str]:
        """Return the names of the parameters that the optimizer updates, in its order."""
        ...


class DataIdentity(NamedTuple):
    """The identity of a set of training samples, independent of the folder of its files."""

    fingerprint: str | None  # hash of the texts; None for a stream
    num_samples: int | None  # None for a stream


def identify_data(source: SampleTable | SampleStream) -> DataIdentity:
    """Hash the texts of a table; a moved or copied data set keeps its identity.

    Args:
        source: data of the run.
    """
    if not isinstance(source, SampleTable):
        return DataIdentity(None, None)
    texts = source.dataset.remove_columns(source.image_columns).with_format("arrow")
    digest = hashlib.sha256()
    num_batches = -(-len(texts) // _ROWS_PER_BATCH)
    step = max(1, num_batches // _HASHED_BATCHES)
    for start in range(0, len(texts), step * _ROWS_PER_BATCH):
        table = texts[start : start + _ROWS_PER_BATCH].combine_chunks().replace_schema_metadata(None)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return DataIdentity(digest.hexdigest()[:16], len(texts))


def check_resume(cfg: DictConfig, checkpoint: Path, module: ResumableModule, data: DataIdentity) -> None:
    """Refuse to resume with settings that must stay, and name those that have changed.

    Args:
        cfg: config of the resumed run.
        checkpoint: the file to resume from.
        module: the LightningModule as the config builds it.
        data: identity of the data as the config reads them.

    Raises:
        ConfigError: a setting or the data have changed that must stay, and ``resume.allow`` does not name them.
        CheckpointError: the weights do not fit the model.
    """
    allowed = _allowed(cfg)
    content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    identity = content.get(KEY, {"format": 1, "data": (None, None)})
    if identity["format"] > FORMAT:
        raise CheckpointError(f"{checkpoint} was written by a later release of degla: install that release")
    before: Any = with_current_targets(content["hyper_parameters"])
    now: Any = with_current_targets(OmegaConf.to_container(cfg, resolve=True))
    for topic, keys in _FIXED_SETTINGS.items():
        if data.fingerprint is None and topic == "data":
            keys = (*keys, *_STREAM_SETTINGS)
        changes = [change for key in keys for change in _differences(_value(before, key), _value(now, key), key)]
        changes += _other_terms(before, now) if topic == "objective" else []
        if changes and topic not in allowed:
            raise ConfigError(_refusal(checkpoint, changes, topic))
    if "data" not in allowed:
        _refuse_other_data(checkpoint, DataIdentity(*identity["data"]), data)
    _refuse_other_model(checkpoint, content["state_dict"], module)
    _refuse_other_parts(checkpoint, content, module, allowed)
    fixed = {key for keys in _FIXED_SETTINGS.values() for key in keys}
    changes = [c for c in _differences(before, now, "") if not c.key.startswith((*_SILENT, *fixed)) and not c.is_target]
    if changes:
        log.warning(f"resuming with other settings: {', '.join(map(str, changes))}")


class _Change(NamedTuple):
    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{short_key(self.key)} {_shown(self.before)} -> {_shown(self.now)}"

    @property
    def is_target(self) -> bool:
        return self.key.endswith("_target_")


_MISSING = object()  # a key that one of two configs does not have


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping):
            return None if config is None else _MISSING
        config = config.get(part, _MISSING)
    return config


def _differences(before: Any, now: Any, key: str) -> Iterator[_Change]:
    """Yield the settings that differ. A key that only one config has is a key of another release: it is skipped."""
    if before is _MISSING or now is _MISSING:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in before:
            yield from _differences(before[name], now.get(name, _MISSING), f"{key}.{name}" if key else str(name))
    elif before != now:
        yield _Change(key, before, now)


def _other_terms(before: Any, now: Any) -> list[_Change]:
    """Return a change for each term that only one of two configs has."""
    terms_before, terms_now = (_terms(config.get("objective") or {}) for config in (before, now))
    return [
        _Change(f"objective.terms.{name}.weight", _weight(terms_before, name), _weight(terms_now, name))
        for name in sorted(terms_before.keys() ^ terms_now.keys())
    ]


def _terms(objective: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return name -> settings of the terms of an objective of ours; nothing of a class of the user's."""
    terms = objective.get("terms")
    return terms if is_objective(objective.get("_target_")) and isinstance(terms, Mapping) else {}


def _weight(terms: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """Return the weight of a term, 0 of one that is left out, and "its default" of one without a weight."""
    return terms[name].get("weight", "its default") if name in terms else 0


def _refusal(checkpoint: Path, changes: Sequence[_Change], topic: str) -> str:
    keep = " ".join(f"{short_key(change.key)}={_shown(change.before)}" for change in changes)
    return (
        f"{', '.join(map(str, changes))}: a resumed run cannot change this ({checkpoint.name}): keep {keep}, start a "
        f"new run from these weights with model.pretrained={checkpoint}, or allow it with resume.allow=[{topic}]"
    )


def _allowed(cfg: DictConfig) -> set[str]:
    node = cfg.get("resume")
    if not isinstance(node, DictConfig):
        raise ConfigError(f"resume={node} is not a setting: set ckpt_path=last to resume the newest run of this name")
    allowed = set(node.get("allow") or [])
    if unknown := allowed - set(_FIXED_SETTINGS):
        raise ConfigError(f"resume.allow: {', '.join(sorted(unknown))} must be one of {', '.join(_FIXED_SETTINGS)}")
    return allowed


def _refuse_other_model(checkpoint: Path, weights: Mapping[str, Tensor], module: ResumableModule) -> None:
    """Refuse weights of another architecture; names and shapes of the student decide."""
    prefix = "student."
    expected = {name: value.shape for name, value in module.state_dict().items() if name.startswith(prefix)}
    shapes = {name: value.shape for name, value in weights.items() if name.startswith(prefix)}
    different = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if different:
        raise CheckpointError(
            f"{checkpoint} holds another model than model.name and model.pretrained describe ({len(different)} weights "
            f"differ, such as {different[0].removeprefix(prefix)}): set them as that run did, or start a new run"
        )


def _refuse_other_data(checkpoint: Path, saved: DataIdentity, data: DataIdentity) -> None:
    if saved == data or saved.fingerprint is None or data.fingerprint is None:
        return
    if saved.num_samples != data.num_samples:
        difference = f"{saved.num_samples} samples then, {data.num_samples} now"
    else:
        difference = f"its {data.num_samples} samples have other texts"
    raise ConfigError(
        f"the data have changed since {checkpoint.name} was written ({difference}), so the resumed run would read some "
        "samples twice and others never: restore the data, start a new run from these weights with "
        f"model.pretrained={checkpoint}, or allow it with resume.allow=[data]"
    )


def _refuse_other_parts(
    checkpoint: Path, content: Mapping[str, Any], module: ResumableModule, allowed: set[str]
) -> None:
    """Refuse another teacher, objective or freezing than the checkpoint's, whatever its settings say."""
    own, saved = set(module.state_dict()), set(_with_current_names(content["state_dict"]))
    trained = {name for state in content["optimizer_states"] for name in _parameter_names(state)}
    differs = {
        "teacher": any(name.startswith("teacher.") for name in own ^ saved),
        "objective": any(name.startswith("objective.") for name in own ^ saved),
        "freezing": trained != set(module.trained_parameters()),
    }
    for topic, is_other in differs.items():
        if is_other and topic not in allowed:
            raise ConfigError(
                f"{checkpoint.name} was written with another {topic}: set it as that run did, start a new run from "
                f"these weights with model.pretrained={checkpoint}, or allow it with resume.allow=[{topic}]"
            )


def adapt_weights(checkpoint: dict[str, Any], own: Mapping[str, Tensor]) -> None:
    """Make the weights of a checkpoint fit a run whose teacher or objective was changed on purpose.

    A teacher that the checkpoint lacks starts as a copy of its student. Weights that this run lacks are dropped.

    Args:
        checkpoint: is changed in place.
        own: ``state_dict`` of this run.
    """
    saved = checkpoint["state_dict"] = _with_current_names(checkpoint["state_dict"])
    for name in saved.keys() - own.keys():
        if not name.startswith("student."):
            del saved[name]
    for name in own.keys() - saved.keys():
        student_name = name.replace("teacher.model.", "student.", 1)
        if not name.startswith("student."):
            saved[name] = saved[student_name].clone() if student_name in saved else own[name].clone()


def _with_current_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights by their current names: the thresholds of CE-CLIP have moved to its term."""
    moved = {"objective.thresholds": "objective.terms.cmr.thresholds"}
    return {moved.get(name, name): value for name, value in weights.items()}


def adapt_optimizer(state: dict[str, Any], order: Sequence[str], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state for the parameters that this run trains.

    Parameters that were frozen before start without moments; moments of parameters that are frozen now are dropped.
    Other groups, such as those of ``optimizer.layer_decay``, take their settings from this run and the position of
    the schedule from the checkpoint.

    Args:
        state: ``state_dict`` keyed by parameter names.
        order: names of this run's parameters, in the order of its optimizer.
        groups: parameter groups of this run's optimizer before the first step.

    Returns:
        A ``state_dict`` keyed by parameter names.
    """
    saved_groups = state["param_groups"]
    names = iter(order)
    own_groups = [[next(names) for _ in group["params"]] for group in groups]
    if [set(group["params"]) for group in saved_groups] == [set(params) for params in own_groups]:
        return state
    factor = next((group["lr"] / group["initial_lr"] for group in saved_groups if group.get("initial_lr")), 1.0)
    adapted = [
        {**group, "initial_lr": group["lr"], "lr": group["lr"] * factor, "params": params}
        for group, params in zip(groups, own_groups, strict=True)
    ]
    return {"state": {name: state["state"][name] for name in order if name in state["state"]}, "param_groups": adapted}


def _parameter_names(state: Mapping[str, Any]) -> set[str]:
    return {name for group in state["param_groups"] for name in group["params"]}


def apply_optimizer_settings(optimizer: Optimizer, scheduler: LRScheduler, groups: Sequence[Mapping[str, Any]]) -> None:
    """Give a restored optimizer the settings of this run's config.

    Torch restores learning rate, weight decay and the like from the checkpoint, so a new ``optimizer.lr`` would have
    no effect. The schedule keeps its position; where no setting has changed, nothing changes.

    Args:
        optimizer: restored from a checkpoint; is changed.
        scheduler: its schedule, restored too; is changed.
        groups: parameter groups of an optimizer that was made from the config.
    """
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        peak = group.get("initial_lr", fresh["lr"])
        if peak != fresh["lr"]:
            factor = group["lr"] / peak if peak else 1.0
            group["initial_lr"], group["lr"] = fresh["lr"], fresh["lr"] * factor
        group.update({key: value for key, value in fresh.items() if key not in ("params", "lr", "initial_lr")})
    # Not one by one: a checkpoint of FSDP2 with other groups has restored as many rates as it had groups.
    scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]


def adapt_schedulers(checkpoint: dict[str, Any]) -> None:
    """Make the schedules of a checkpoint fit the number of groups of its adapted optimizers.

    Args:
        checkpoint: is changed in place.
    """
    for scheduler, optimizer in zip(checkpoint["lr_schedulers"], checkpoint["optimizer_states"], strict=True):
        groups = optimizer["param_groups"]
        rates = [group.get("initial_lr", group["lr"]) for group in groups]
        if scheduler["base_lrs"] != rates:
            scheduler["base_lrs"] = rates
            scheduler["_last_lr"] = [group["lr"] for group in groups]
            scheduler["lr_lambdas"] = [None] * len(groups)  # torch saves no functions here either
