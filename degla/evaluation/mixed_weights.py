"""Scores of a base model's weights mixed with those of models that were fine-tuned from it (WiSE-FT)."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from degla.evaluation.encoder import Encoder
from degla.evaluation.features import FeatureStore
from degla.evaluation.run import run_benchmarks
from degla.evaluation.statistics import point_estimates
from degla.evaluation.task import Task
from degla.models import ClipModel, interpolate_weights, load_clip
from degla.models.checkpoints import read_weights

Scores = dict[str, float]  # sub-task or mean -> accuracy


def measure_mixtures(
    task: Task, base: Mapping[str, Any], tuned: Path | None, shares: Sequence[float], num_threads: int | None = None
) -> list[Scores]:
    """Measure mixtures of a base model and one that was fine-tuned from it.

    Args:
        task: the benchmark.
        base: arguments of ``load_clip`` for the base model, as plain data.
        tuned: file of the fine-tuned weights; None measures the base model at each share.
        shares: parts of the fine-tuned weights, see ``interpolate_weights``.
        num_threads: threads of torch; None leaves them unchanged. Processes side by side need one each.

    Returns:
        The scores at each share, sub-tasks before means.

    Raises:
        CheckpointError: the file cannot be read, or is of another architecture.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    model, base_state = _base_model(json.dumps(base))
    tuned_state = base_state if tuned is None else _shaped_as(base_state, read_weights(tuned).state)
    scores = []
    for share in shares:
        model.clip.load_state_dict(interpolate_weights(base_state, tuned_state, share))
        results = run_benchmarks({task.name: task}, FeatureStore(Encoder(model), progress=False))
        subsets, means = point_estimates(task, results[task.name].outcomes)
        scores.append(subsets | means)
    return scores


def base_fingerprint(base: Mapping[str, Any]) -> str:
    """Return a hash of the base model's weights and of everything else that its features depend on.

    Args:
        base: arguments of ``load_clip``.
    """
    model, base_state = _base_model(json.dumps(base))
    model.clip.load_state_dict(base_state)  # an earlier measurement has left other weights in it
    return Encoder(model).fingerprint()


def task_fingerprint(task: Task) -> str:
    """Return a hash of a benchmark's rules and items.

    The rules alone do not suffice where the items are drawn, because another release may draw others.
    """
    digest = hashlib.sha256(json.dumps(task.protocol(), sort_keys=True).encode())
    for image in task.list_images():
        digest.update(f"image {image.key()}\n".encode())
    for text in task.list_texts():
        digest.update(f"text {text}\n".encode())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _base_model(settings: str) -> tuple[ClipModel, dict[str, Tensor]]:
    """Return the base model and a copy of its weights, once per process, because the model's own are replaced."""
    model = load_clip(**json.loads(settings))
    return model, {name: value.clone() for name, value in model.clip.state_dict().items()}


def _shaped_as(base: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the shapes of the base: files hold scalars where the model may have vectors of one."""
    return {
        name: value.reshape(base[name].shape) if name in base and value.numel() == base[name].numel() else value
        for name, value in state.items()
    }
