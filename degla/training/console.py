"""What a training run prints: an opening block, one live bar, and the headline numbers at the end.

Everything goes through one ``rich`` console, so that messages appear above the bar and a file gets plain lines.
"""

import logging
import os
import warnings
from pathlib import Path

import datasets
import rich
import torch
from omegaconf import DictConfig
from rich.table import Table

from degla.artifacts import read_metrics
from degla.models import ClipModel
from degla.report.memory import describe_memory, read_memory
from degla.report.retention import describe_choice, read_retention
from degla.report.run_report import Change, bad_rows, changes
from degla.report.text_only import read_text_only
from degla.training.build import Run
from degla.training.optim import megabytes, trained_bytes
from degla.training.refusals import count_negatives, num_devices

_NUM_HEADLINES = 5  # numbers printed at the end of a run

# Warnings that a user can do nothing about, each a regular expression.
_IGNORED_WARNINGS = (
    ".*litlogger.*",  # an advertisement
    ".*LeafSpec.*",
    ".*treespec.*",
    ".*does not have many workers.*",
    ".*Consider increasing the value of the `num_workers`.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # our loader resumes within an epoch exactly
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*It is recommended to use .*sync_dist=True.*",  # every rank logs the same value
    ".*Trying to infer the `batch_size`.*",
    ".*in eval mode at the start of training.*",  # the teacher always is
    ".*Total length of .* across ranks is zero.*",  # a run without validation samples
    ".*GPU available but not used.*",  # the setting trainer.accelerator decides that
)
# Loggers whose information is about Lightning's own work: seeds, devices, restored states, the reason to stop.
_QUIET_LOGGERS = ("lightning.fabric", "lightning.pytorch", "lightning.fabric.utilities.seed", "wandb")


class _ConsoleHandler(logging.Handler):
    """Prints log messages on the console, above a live bar, without time and module; the log file has those."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            rich.get_console().print(
                prefix + record.getMessage(), markup=False, highlight=False, soft_wrap=True, emoji=False
            )
        except Exception:
            self.handleError(record)


def quiet_lightning() -> None:
    """Hide the libraries' own messages, warnings and progress bars."""
    datasets.disable_progress_bars()
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # the root logger's handlers print these lines as well
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def quiet_console() -> None:
    """Hide the libraries' own messages, and print log messages as plain sentences on the console."""
    quiet_lightning()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:  # Hydra's; its handler of the log file is a subclass
            root.removeHandler(handler)
            # The ranks say the same; of the others only errors are shown, such as which rank has stopped.
            root.addHandler(_ConsoleHandler(level=logging.ERROR if _rank_of_launcher() else handler.level))


def _rank_of_launcher() -> int:
    """Return this process's rank as Lightning, torchrun or SLURM set it; 0 before Lightning starts the others."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def print_opening(cfg: DictConfig, run: Run) -> None:
    """Print what is going to be trained, on what, for how long and where, on the first rank.

    Args:
        cfg: config of the run.
        run: what ``build`` made of it.
    """
    if not run.trainer.is_global_zero:
        return
    rows = {
        "model": _describe_model(cfg, run.module.student),
        "objective": _describe_objective(run),
        "data": _describe_data(run),
        "length": _describe_length(cfg, run),
        "device": f"{_describe_device(cfg, run)}, precision {cfg.precision}",
        "run folder": str(cfg.run_dir),
    }
    if (memory := read_memory(Path(cfg.run_dir))) is not None:
        rows["memory"] = describe_memory(memory)
    _print_block(rows)


def _print_block(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        rich.get_console().print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _describe_model(cfg: DictConfig, student: ClipModel) -> str:
    parameters = list(student.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    share = "all trained" if trained == total else f"{trained / 1e6:.1f} M trained"
    if student.lora is not None:
        share = f"{trained / 1e6:.2g} M trained (LoRA of rank {student.lora.rank}), {_describe_saving(student)}"
    weights = cfg.model.pretrained or "random weights"
    return f"{cfg.model.name}, {weights}, {total / 1e6:.1f} M parameters, {share}"


def _describe_saving(student: ClipModel) -> str:
    """Return the size of gradients and optimizer state, and what both would be if every weight were trained."""
    base = [parameter for name, parameter in student.named_parameters() if ".lora_" not in name]
    ours, all_trained = trained_bytes(student.parameters()), trained_bytes(base, everything=True)
    return f"gradients and optimizer {megabytes(sum(ours))} instead of {megabytes(sum(all_trained))}"


def _describe_objective(run: Run) -> str:
    terms = ", ".join(f"{name} {weight:g}" for name, weight in run.module.objective.weights.items())
    teacher = run.module.teacher
    if teacher is None:
        return terms
    return f"{terms}; {'frozen teacher' if teacher.decay is None else f'EMA teacher, decay {teacher.decay:g}'}"


def _describe_data(run: Run) -> str:
    num_samples = run.module.data_identity.num_samples
    text = "a stream" if num_samples is None else f"{len(run.datamodule.train_indices):,} samples"
    if run.module.objective.uses_negatives:
        num_checked, num_with_negatives = count_negatives(run.datamodule.source)
        text += f", {100 * num_with_negatives / max(num_checked, 1):.0f} % with hard negatives"
    num_validation = len(run.datamodule.val_indices)
    return f"{text}; {f'{num_validation:,} to validate on' if num_validation else 'none to validate on'}"


def _describe_length(cfg: DictConfig, run: Run) -> str:
    batches = run.datamodule.num_batches(num_devices(cfg))
    accumulate = cfg.trainer.accumulate_grad_batches
    steps = cfg.trainer.max_steps if batches is None else -(-batches // accumulate)
    if cfg.trainer.max_steps >= 0:
        steps = min(steps, cfg.trainer.max_steps)
    text = f"{steps:,} steps of {cfg.loader.global_batch_size * accumulate} samples"
    if batches is not None:
        text += f", {steps * accumulate / batches * run.datamodule.epochs:.3g} passes over the data"
    return text


def _describe_device(cfg: DictConfig, run: Run) -> str:
    device = run.trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    count = num_devices(cfg)
    return name if count == 1 else f"{count} processes, {name}"


def print_summary(run_dir: Path) -> None:
    """Print the headline numbers of a finished run, and where everything else is.

    Args:
        run_dir: folder of the run.
    """
    console = rich.get_console()
    for problem, records in bad_rows(run_dir).items():
        line = f"{len(records)} row(s): {problem}, such as {records[0]['row']}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    headlines = _headlines(run_dir)
    if headlines:
        baseline = read_text_only(run_dir)
        table = Table("percent", box=None, pad_edge=False)
        for column in (*(["text-only"] if baseline else []), "before", "after", "change"):
            table.add_column(column, justify="right")
        for change in headlines:
            delta = 100 * (change.after - change.before)
            colour = "green" if delta > 0 else "red" if delta < 0 else "default"
            cells = f"{100 * change.before:.1f}", f"{100 * change.after:.1f}", f"[{colour}]{delta:+.1f}[/{colour}]"
            text_only = [baseline.cell(change.name)] if baseline else []
            table.add_row(change.name, *text_only, *cells)
        console.print(table)
    elif (run_dir / "metrics.csv").exists():
        losses = read_metrics(run_dir / "metrics.csv").get("train/loss", {})
        if losses:
            steps = list(losses)
            line = f"loss {losses[steps[0]]:.4g} at step {steps[0]}, {losses[steps[-1]]:.4g} at step {steps[-1]}"
            console.print(line, markup=False, highlight=False)
    paths = {"report": str(run_dir / "report.html")}
    if (record := read_retention(run_dir)) is not None:
        paths["chosen"] = describe_choice(record)
    if (run_dir / "model").is_dir():
        paths["model"] = f"{run_dir / 'model'}  (open_clip: local-dir:{run_dir / 'model'})"
    if (run_dir / "tensorboard").is_dir():
        paths["TensorBoard"] = f"tensorboard --logdir {run_dir / 'tensorboard'}"
    _print_block(paths)


def _headlines(run_dir: Path) -> list[Change]:
    """Return the metrics that matter most: means of benchmarks, then the choice of captions, then recall@1."""
    means = [change for change in changes(run_dir, "eval_mean") if change.name != "overall"]
    validation = [change for change in changes(run_dir) if "/" not in change.name and not change.name.endswith("0")]
    return [*means, *validation][:_NUM_HEADLINES]
