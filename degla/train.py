"""``degla-train`` and ``python -m degla.train``: compose, build, fit, report."""

import errno
import json
import logging
import math
import os
import signal
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from degla.artifacts import atomic_write
from degla.cli.main import hydra_main, one_job_per_child
from degla.cli.sweeps import is_search
from degla.errors import ConfigError

log = logging.getLogger(__name__)

SIGTERM_EXIT = 143  # 128 + 15: schedulers take it for "stopped from outside, run me again"


def main() -> None:
    """Entry point."""
    hydra_main("train", train)


def train(cfg: DictConfig) -> float:
    """Train as ``cfg`` says.

    Returns:
        What a sweep should maximise: ``eval_mean/overall`` where a benchmark is set, else the final
        ``val/caption_choice``; nan without validation rows.
    """
    # torch and Lightning take seconds to import: --help and shell completion must not wait for them.
    import lightning as L
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from degla.report.run_report import print_report, write_report
    from degla.training.build import build
    from degla.training.callbacks import Preemption

    _quiet_lightning()
    _refuse_restarts_that_hang()
    run_dir = Path(cfg.run_dir)
    if cfg.ckpt_path == "last" and (value := _finished(cfg, run_dir)) is not None:
        log.warning(f"ckpt_path=last: it has finished already, with these settings: {run_dir / 'report.html'}")
        return value
    checkpoint = _checkpoint(cfg.ckpt_path, run_dir)
    L.seed_everything(cfg.seed, workers=True)
    with one_job_per_child():
        run = build(cfg)
        if run.trainer.is_global_zero and cfg.ckpt_path != "last" and (run_dir / "config.yaml").exists():
            raise ConfigError(f"run_dir: {run_dir} holds a run already; set ckpt_path=last to go on, or another name")
        run_dir.mkdir(parents=True, exist_ok=True)
        if run.trainer.is_global_zero:
            (run_dir / _FINISHED).unlink(missing_ok=True)  # it spoke of other settings
            OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        try:
            run.trainer.fit(run.module, run.datamodule, ckpt_path=checkpoint)
            if len(run.datamodule.val_indices) and run.module.validated_step != run.trainer.global_step:
                run.trainer.validate(run.module, run.datamodule, verbose=False)
        except SIGTERMException:
            log.warning(
                f"stopped by SIGTERM at step {run.trainer.global_step}; the same command with ckpt_path=last goes on"
            )
            for callback in run.trainer.callbacks:
                if isinstance(callback, Preemption) and run.trainer.is_global_zero:
                    callback.requeue(goes_on=cfg.ckpt_path == "last")
            # Of a process that Lightning started it would take any other code for a crash, and kill the first.
            environment = getattr(run.trainer.strategy, "cluster_environment", None)
            is_started = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
            sys.exit(0 if is_started else SIGTERM_EXIT)
        except Exception as error:
            if run.trainer.strategy.launcher is not None:  # else the other ranks wait for this one until they time out
                run.trainer.strategy.launcher.kill(signal.SIGKILL)
                run.trainer.strategy.launcher.procs.clear()  # Lightning watches them, and would kill this one too
            if isinstance(error, ConfigError) or not (advice := _advice(error)):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{advice} (step {run.trainer.global_step}: {reason})") from error
    value = _value(run_dir)
    if math.isnan(value) and is_search():
        raise ConfigError(f"nothing was measured, so this trial has no value: see {run_dir}")
    if run.trainer.is_global_zero:
        write_report(run_dir)
        print_report(run_dir)
        with atomic_write(run_dir / _FINISHED) as partial:
            partial.write_text(json.dumps({"steps": run.trainer.global_step, "value": value}), encoding="utf-8")
    return value


_FINISHED = "finished.json"


def _refuse_restarts_that_hang() -> None:
    """torchrun's workers meet in a store that keeps the addresses of the last try (pytorch issue 135712)."""
    restarts, shares = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("MAX_RESTARTS", "USE_AGENT_STORE"))
    if shares == "True" and int(restarts or 0):
        raise ConfigError(
            "torchrun --max-restarts would hang after the first restart: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "before it, with --standalone or --rdzv_backend c10d"
        )


def _advice(error: Exception) -> str:
    """What a user can do about an error of the machine; "" for all other errors."""
    import torch

    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or "can't allocate memory" in str(error):  # as torch says it of a CPU
        return (
            "out of memory: set loader.chunk_size to a part of the batch (the same result), "
            "model.grad_checkpointing=true or precision=bf16-mixed, or lower loader.global_batch_size"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full: free some space, ckpt_path=last goes on"
    return ""


def _value(run_dir: Path) -> float:
    """From the file, since a run that is resumed at its end evaluates nothing again."""
    from degla.artifacts import read_metrics

    metrics = read_metrics(run_dir / "metrics.csv") if (run_dir / "metrics.csv").exists() else {}
    values = metrics.get("eval_mean/overall") or metrics.get("val/caption_choice")
    return values[max(values)] if values else math.nan


def _finished(cfg: DictConfig, run_dir: Path) -> float | None:
    """The result of a run that went to its end with the same settings, so that a sweep can be taken up again."""
    if not (run_dir / _FINISHED).is_file():
        return None
    settings = OmegaConf.to_container(cfg, resolve=True)
    before = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    for config in (settings, before):
        config.pop("ckpt_path")
    return json.loads((run_dir / _FINISHED).read_text())["value"] if settings == before else None


def _checkpoint(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """The checkpoint to go on from; ``last`` where there is none yet means a start, said aloud."""
    from degla.artifacts import checkpoint_error, newest_checkpoint

    if ckpt_path is None:
        return None
    if ckpt_path == "last":
        newest = newest_checkpoint(run_dir / "checkpoints")
        log.warning(
            f"ckpt_path=last: {f'going on from {newest}' if newest else 'no checkpoint yet, starting at step 0'}"
        )
        return newest
    if not Path(ckpt_path).is_file():
        raise ConfigError(f"ckpt_path: there is no file {ckpt_path}; set it to a step-*.ckpt, or to last")
    if broken := checkpoint_error(Path(ckpt_path)):
        raise ConfigError(f"ckpt_path: {ckpt_path}: {broken}; set it to another step-*.ckpt, or to last")
    return Path(ckpt_path)


def _quiet_lightning() -> None:
    """Hide what a user cannot act on: adverts, and warnings about Lightning's own internals."""
    import warnings

    for message in (
        ".*litlogger.*",
        ".*LeafSpec.*",
        ".*treespec.*",
        ".*does not have many workers.*",
        ".*Consider increasing the value of the `num_workers`.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # ours resumes mid-epoch exactly
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*It is recommended to use .*sync_dist=True.*",  # every rank holds the same value
        ".*Trying to infer the `batch_size`.*",
        ".*in eval mode at the start of training.*",  # the teacher, on purpose
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # Hydra's handlers print and keep these lines already
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "litlogger" not in record.getMessage() and "Tip:" not in record.getMessage())


if __name__ == "__main__":
    main()
