"""Keep the best weights that retain general accuracy, and choose the run's model among their mixes with the base."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from degla.artifacts import atomic_write
from degla.bounds import Bound, bounded, whole
from degla.bounds import share as share_bound
from degla.data.datamodule import DataModule
from degla.errors import CheckpointError, ConfigError
from degla.models import ClipModel, interpolate_weights
from degla.models.adapters import copy_sharing_base
from degla.report.retention import Candidate, RetentionRecord, describe_choice, write_retention
from degla.training.callbacks.evaluate import Evaluate, measure_benchmarks
from degla.training.checkpoint_writer import wait_for_checkpoint
from degla.training.encoding import encode_batch
from degla.training.module import DeGLAModule
from degla.training.retention import (
    ChoiceTasks,
    Rule,
    available_metrics,
    check_metric,
    choice_tasks,
    measurements_since,
    nearest,
)
from degla.training.validation import CaptionChoice, RetrievalRecall, add_batch, validation_values

log = logging.getLogger(__name__)

_KEY = "callbacks.retention"
_BASE = "base.ckpt"  # weights before the first step, beside the checkpoints
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

_LIST_OF_SHARES = Bound(
    lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(share_bound().allows, value)),
    "numbers from 0 (base) to 1 (fine-tuned)",
)

State = dict[str, Tensor]  # weights under open_clip's names, on rank 0; empty on the other ranks


class Retention(Callback):
    """Keeps the best weights by ``metric`` among those with ``retain >= floor * base``, and chooses ``model/``.

    The base is the student before the first step. Every ``every_n_steps`` steps the student is measured; the best is
    ``best-<step>.ckpt`` beside the checkpoints, which holds weights only. After the last step, mixes of the base with
    the best and with the last weights (WiSE-FT) are measured. The best of them by the same rule becomes the run's
    model. Where none but the base meets the floor, it is the base.

    A benchmark that is set to its test split is measured on its validation split, where it has one here.

    Args:
        run_dir: folder of the run, for the record.
        dirpath: folder of the checkpoints.
        metric: what to maximise, by its name in ``metrics.csv``, such as ``val/caption_choice``.
        retain: what must be kept, by its name in ``metrics.csv``; None chooses by ``metric`` alone.
        floor: share of the base's ``retain`` that must be kept.
        wise_ft: shares of the fine-tuned weights that are tried; 0 is the base, which is always a candidate.
        every_n_steps: optimizer steps from one measurement to the next.
        patience: measurements without a better candidate after which the run stops; None never stops it early.

    Raises:
        ConfigError: a value is out of its range.
    """

    @bounded(_KEY)
    def __init__(
        self,
        run_dir: str,
        dirpath: str,
        metric: str | None = None,
        retain: str | None = None,
        floor: Annotated[float, share_bound()] = 0.97,
        wise_ft: Annotated[Sequence[float], _LIST_OF_SHARES] = _SHARES,
        every_n_steps: Annotated[int, whole(1)] = 100,
        patience: Annotated[int, whole(1)] | None = None,
    ):
        self.run_dir = Path(run_dir)
        self.dirpath = Path(dirpath)
        self.metric = metric
        self.retain = retain
        self.floor = floor
        self.shares = sorted(set(map(float, wise_ft)))
        self.every_n_steps = every_n_steps
        self.patience = patience
        self.base: Candidate | None = None
        self.history: list[Candidate] = []
        self.chosen_state: State | None = None  # set by ``choose``
        self._has_chosen = False
        self._stopped_early = False
        self._evaluate: Evaluate | None = None
        self._tasks = ChoiceTasks({}, {}, {}, [])

    @property
    def rule(self) -> Rule:
        """The rule, once the base has been measured."""
        retained = None if self.base is None else self.base.retain
        return Rule(None if retained is None else self.floor * retained)

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements so far."""
        candidates = [self.base, *self.history] if self.base else []
        return {"names": [self.metric, self.retain], "measured": [candidate.model_dump() for candidate in candidates]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the measurements; those of other metrics are dropped, and the base is measured again."""
        if state_dict["names"] != [self.metric, self.retain]:
            log.warning(f"{_KEY}.metric or .retain has changed: the measurements so far do not count")
        elif state_dict["measured"]:
            self.base, *self.history = (Candidate(**values) for values in state_dict["measured"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the metrics' names, find validation data for them, and save the weights before they are restored.

        Raises:
            ConfigError: the run does not measure a metric.
        """
        if stage != "fit":
            return
        assert isinstance(pl_module, DeGLAModule)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in a connector
        self._evaluate = next((callback for callback in callbacks if isinstance(callback, Evaluate)), None)
        benchmarks = self._evaluate.benchmarks if self._evaluate else {}
        has_validation = len(_datamodule(trainer).val_indices) > 0
        available = available_metrics(benchmarks, pl_module.caption_choice.negative_types, has_validation)
        check_metric(f"{_KEY}.metric", self.metric, available)
        if self.retain is not None:
            check_metric(f"{_KEY}.retain", self.retain, available)
        self._tasks = choice_tasks(benchmarks, set().union(*(available[name] for name in self._names)))
        if self._tasks.test_data and trainer.is_global_zero:
            log.warning(
                f"{_KEY} chooses by test data ({', '.join(self._tasks.test_data)}), so their values will look better "
                "than they are: choose by val/ metrics, or by a benchmark on a validation split"
            )
        state = _full_state(pl_module.student)  # the ranks have equal weights before the run
        if trainer.is_global_zero and not (self.dirpath / _BASE).is_file():
            self._save(_BASE, pl_module, state)

    @property
    def _names(self) -> list[str]:
        """The names of what is measured: ``metric``, then ``retain`` if it is set."""
        return [name for name in (self.metric, self.retain) if name is not None]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the base, and make up for a measurement that a signal prevented.

        Raises:
            CheckpointError: the best weights so far are missing.
        """
        assert isinstance(pl_module, DeGLAModule)
        step = trainer.global_step
        if trainer.is_global_zero:
            self._remove_files(lambda saved: saved > step)  # a killed run has written them after its checkpoint
        best = self.rule.best_or_nearest(self.history)
        if trainer.is_global_zero and best is not None and not self._path(best.step).is_file():
            raise CheckpointError(
                f"{self._path(best.step)} is missing, which holds the best weights so far: restore it, or set "
                f"{_KEY}=null"
            )
        if self.base is None:
            state = None if step == 0 else self._read(trainer, self.dirpath / _BASE)
            self.base = self._measure(trainer, pl_module, 0, 0.0, state)
        self._measure_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure every ``every_n_steps`` steps, but not after a signal, when there may be no time for it."""
        assert isinstance(pl_module, DeGLAModule)
        if not trainer.received_sigterm:
            self._measure_if_due(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the run's model."""
        assert isinstance(pl_module, DeGLAModule)
        self.choose(trainer, pl_module)

    def _measure_if_due(self, trainer: L.Trainer, module: DeGLAModule) -> None:
        step = trainer.global_step
        if step and step % self.every_n_steps == 0 and step not in [candidate.step for candidate in self.history]:
            self._add_step(trainer, module)
        if self.patience is None or not self.history:
            return
        best = self.rule.best_or_nearest(self.history)
        if best is not None and measurements_since(best, self.history) >= self.patience and not trainer.should_stop:
            log.warning(
                f"{_KEY}.patience={self.patience}: nothing better since step {best.step}, stopping at step {step}"
            )
            self._stopped_early = True
            trainer.should_stop = True

    def _add_step(self, trainer: L.Trainer, module: DeGLAModule) -> None:
        """Measure the student, and save it if it is the best so far."""
        step = trainer.global_step
        candidate = self._measure(trainer, module, step, 1.0, None)
        self.history.append(candidate)
        values = {"retention/metric": candidate.metric, "retention/retain": candidate.retain}
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in values.items() if value is not None}, step=step)
        if self.rule.best_or_nearest(self.history) is not candidate:
            return
        state = _full_state(module.student)
        if trainer.is_global_zero:
            self._save(self._path(step).name, module, state)
            wait_for_checkpoint(trainer.strategy.checkpoint_io)  # one that is being written counts as well
            resumable = {int(path.stem.partition("-")[2]) for path in self.dirpath.glob("step-*.ckpt")}
            needed = {step, *(saved for last in resumable for saved in self._best_steps_until(last))}
            self._remove_files(lambda saved: saved not in needed)

    def _best_steps_until(self, step: int) -> list[int]:
        """Return the best steps that a run may need that resumes from ``step``, measured there already or not."""
        histories = (
            [candidate for candidate in self.history if candidate.step < step],
            [candidate for candidate in self.history if candidate.step <= step],
        )
        return [best.step for history in histories if (best := self.rule.best_or_nearest(history)) is not None]

    def choose(self, trainer: L.Trainer, module: DeGLAModule) -> None:
        """Measure the mixes, choose the model, and write the record; the student is left as it is.

        Args:
            trainer: of the run, after its last step.
            module: its module.
        """
        if self._has_chosen or self.base is None:
            return
        self._has_chosen = True
        if trainer.global_step and trainer.global_step not in [candidate.step for candidate in self.history]:
            self._add_step(trainer, module)
        trained = _full_state(module.student)
        mixes = self._measure_mixes(trainer, module, trained)
        ends = {mix.step for mix in mixes} | set(self._ends())
        steps = [c for c in self.history if c.step in ends] if 1.0 in self.shares else []
        tuned = [*steps, *mixes]
        best = self.rule.best([self.base, *tuned])
        chosen = self.base if best is None else best
        record = RetentionRecord(
            metric=str(self.metric),
            retain=self.retain,
            floor=self.floor,
            measured_on=self._tasks.sources
            | ({"val": "the run's validation samples"} if any(n.startswith("val/") for n in self._names) else {}),
            base=self.base,
            steps=self.history,
            mixes=mixes,
            chosen=chosen,
            meets_floor=self.rule.best(tuned) is not None,
            nearest=None if self.rule.best(tuned) is not None else nearest(tuned),
            stopped_early=self._stopped_early,
        )
        if trainer.is_global_zero:
            self.chosen_state = self._mix(trainer, chosen.step, chosen.wise_ft, trained)
            write_retention(self.run_dir, record)
            self._report(record)

    def _ends(self) -> list[int]:
        """Return the steps whose weights are mixed with the base: the best and the last."""
        best = self.rule.best_or_nearest(self.history)
        return [] if best is None else sorted({best.step, self.history[-1].step})

    def _measure_mixes(self, trainer: L.Trainer, module: DeGLAModule, trained: State) -> list[Candidate]:
        mixes = []
        for step in self._ends():
            for share in self.shares:
                if 0 < share < 1:
                    state = self._mix(trainer, step, share, trained)
                    mixes.append(self._measure(trainer, module, step, share, state))
        return mixes

    def _mix(self, trainer: L.Trainer, step: int, share: float, trained: State) -> State:
        """Return the base's weights mixed with a share of those of a step, on rank 0."""
        if share == 0:
            return self._read(trainer, self.dirpath / _BASE)
        tuned = trained if step == self.history[-1].step else self._read(trainer, self._path(step))
        if share == 1 or not tuned:
            return tuned
        return interpolate_weights(self._read(trainer, self.dirpath / _BASE), tuned, share)

    def _measure(
        self, trainer: L.Trainer, module: DeGLAModule, step: int, share: float, state: State | None
    ) -> Candidate:
        """Measure weights, or the student as it is; every rank gets the values of rank 0.

        Args:
            trainer: of the run.
            module: its module.
            step: optimizer steps of the fine-tuned weights.
            share: their share.
            state: the weights; None measures the student, whose benchmarks may have been measured at this step.
        """
        model = module.student
        if state is None:
            values = self._values(trainer, module, model, self._evaluate.values_at(step) if self._evaluate else None)
        elif model.lora is not None:
            twin = _plain_copy(model)
            _load(twin, state, trainer.world_size)
            values = self._values(trainer, module, twin, None)
        else:
            own = _full_state(model)
            try:
                _load(model, state, trainer.world_size)
                values = self._values(trainer, module, model, None)
            finally:
                _load(model, own, trainer.world_size)
        own_values = [values.get(name, math.nan) for name in self._names]
        metric, *retained = trainer.strategy.broadcast(own_values)
        for name, value in zip(self._names, [metric, *retained], strict=True):
            if math.isnan(value):
                raise ConfigError(f"{_KEY}: {name} has no value at step {step}: choose another metric")
        return Candidate(step=step, wise_ft=share, metric=metric, retain=retained[0] if retained else None)

    def _values(
        self, trainer: L.Trainer, module: DeGLAModule, model: ClipModel, evaluated: dict[str, float] | None
    ) -> dict[str, float]:
        """Return the metrics of a model; ``evaluated`` holds those of its benchmarks if they are known already."""
        values: dict[str, float] = {}
        if self._evaluate is not None and self._tasks.own | self._tasks.shared:
            if evaluated is None or self._tasks.own:
                tasks = self._tasks.shared | self._tasks.own
                evaluated = measure_benchmarks(tasks, trainer, model, self._evaluate.num_workers)
            values |= evaluated
        if any(name.startswith("val/") for name in self._names):
            values |= _measure_validation(trainer, module, model)
        return values

    def _report(self, record: RetentionRecord) -> None:
        if record.meets_floor or record.nearest is None:
            log.info(f"retention: model/ is {describe_choice(record)}")
            return
        near, base = record.nearest, record.base
        log.warning(
            f"retention: NO fine-tuned weights keep {self.floor:g} of {self.retain}, which is {base.retain:.3f} for "
            f"the base. Step {near.step} with wise_ft={near.wise_ft:g} comes nearest with {near.retain:.3f} "
            f"({self.metric} {base.metric:.3f} -> {near.metric:.3f}). model/ is the base: lower {_KEY}.floor, or "
            "write the nearest with degla-export ckpt=... wise_ft=..."
        )

    def _path(self, step: int) -> Path:
        return self.dirpath / f"best-{step:08d}.ckpt"

    def _save(self, name: str, module: DeGLAModule, state: State) -> None:
        """Write weights in a form that ``degla-export`` and ``model.pretrained`` read."""
        content = {
            "state_dict": {f"student.clip.{key}": value for key, value in state.items()},
            "hyper_parameters": dict(module.hparams),
            "quick_gelu": module.student.config["quick_gelu"],
            "preprocess": dict(module.student.preprocess),
        }
        with atomic_write(self.dirpath / name, flush_to_disk=True) as partial:
            torch.save(content, partial)

    def _read(self, trainer: L.Trainer, path: Path) -> State:
        """Return the weights of a file on rank 0."""
        if not trainer.is_global_zero:
            return {}
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return {name.removeprefix("student.clip."): value for name, value in content["state_dict"].items()}

    def _remove_files(self, is_superseded: Callable[[int], bool]) -> None:
        for path in self.dirpath.glob("best-*.ckpt"):
            if is_superseded(int(path.stem.partition("-")[2])):
                path.unlink()


def _datamodule(trainer: L.Trainer) -> DataModule:
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # set in a connector
    assert isinstance(datamodule, DataModule)
    return datamodule


def _full_state(model: ClipModel) -> State:
    """Return a copy of a model's weights on the CPU, gathered from the ranks; empty on all ranks but the first."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: Any = get_model_state_dict(model.clip, options=options)
    # On a CPU the tensors are those of the model, which go on changing.
    return {name: value.clone() for name, value in model.open_clip_state(state).items()} if state else {}


def _load(model: ClipModel, state: State, world_size: int) -> None:
    """Copy the weights of rank 0 into the model of every rank."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=world_size > 1)
    set_model_state_dict(model.clip, dict(state), options=options)


def _plain_copy(model: ClipModel) -> ClipModel:
    """Return a copy of a model with a LoRA that has no adapter and shares nothing, for merged weights."""
    return copy.deepcopy(copy_sharing_base(model, with_adapter=False))


def _measure_validation(trainer: L.Trainer, module: DeGLAModule, model: ClipModel) -> dict[str, float]:
    """Return the metrics of a validation of ``model``, as the module's own validation computes them."""
    device = module.device
    retrieval = RetrievalRecall().to(device)
    caption_choice = CaptionChoice(module.caption_choice.negative_types).to(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in _datamodule(trainer).val_dataloader():
                moved = batch.to(device)
                add_batch(retrieval, caption_choice, encode_batch(model, moved), moved)
    finally:
        model.train(was_training)
    return validation_values(retrieval, caption_choice)
