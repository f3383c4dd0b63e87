"""``degla-train`` and ``python -m degla.train``: compose, build, run, report."""

import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from degla.cli.children import one_job_per_child
from degla.cli.main import run_program
from degla.cli.sweeps import is_search
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.training.build import Run

log = logging.getLogger(__name__)


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("train", train)


def train(cfg: DictConfig) -> float:
    """Train a model as the config says, and write the report.

    Args:
        cfg: the composed ``train.yaml``.

    Returns:
        The value that a sweep maximises: ``eval_mean/overall`` where a benchmark is set, else the last
        ``val/caption_choice``; nan where the run has neither.

    Raises:
        DeglaError: the settings, the data, or the machine do not allow the run.
    """
    from degla.training.console import print_opening, print_summary, quiet_console

    quiet_console()
    return run_training(cfg, when_built=print_opening, when_reported=print_summary)


def run_training(
    cfg: DictConfig,
    when_built: "Callable[[DictConfig, Run], None] | None" = None,
    when_reported: Callable[[Path], None] | None = None,
) -> float:
    """Train as ``train`` does; print nothing, and leave logging as it is.

    Args:
        cfg: the composed ``train.yaml``.
        when_built: called with the config and what was built from it, before the first step.
        when_reported: called with the run's folder on the first rank when the report is written.

    Returns:
        What ``train`` returns.

    Raises:
        DeglaError: the settings, the data, or the machine do not allow the run.
    """
    # torch and Lightning take seconds to import; --help and shell completion must not wait for them.
    import lightning as L

    from degla.report.model_card import write_run_card
    from degla.report.run_report import write_report
    from degla.training.build import build
    from degla.training.fit import fit_or_explain, refuse_hanging_restarts
    from degla.training.memory_run import record_plan
    from degla.training.resume import check_resume
    from degla.training.run_folder import (
        claim_run_folder,
        final_value,
        find_checkpoint,
        finished_value,
        lock_run_folder,
        mark_as_finished,
    )

    refuse_hanging_restarts()
    run_dir = Path(cfg.run_dir)
    if cfg.ckpt_path == "last" and (value := finished_value(cfg, run_dir)) is not None:
        log.warning(f"ckpt_path=last: it has finished already, with these settings: {run_dir / 'report.html'}")
        return value
    checkpoint = find_checkpoint(cfg.ckpt_path, run_dir)
    L.seed_everything(cfg.seed, workers=True)
    with contextlib.ExitStack() as lock:
        with one_job_per_child():
            run = build(cfg)
            lock.enter_context(lock_run_folder(run_dir, is_first_rank=run.trainer.is_global_zero))
            claim_run_folder(cfg, run_dir, is_first_rank=run.trainer.is_global_zero)
            if checkpoint is not None:
                check_resume(cfg, checkpoint, module=run.module, data=run.module.data_identity)
            if run.trainer.is_global_zero and cfg.callbacks.get("memory"):
                record_plan(run.module, run.datamodule, run.trainer, run_dir)
            if when_built is not None:
                when_built(cfg, run)
            fit_or_explain(run, checkpoint, resumes_when_requeued=cfg.ckpt_path == "last")
        value = final_value(run_dir)
        if math.isnan(value) and is_search():
            raise ConfigError(f"nothing was measured, so this trial has no value: see {run_dir}")
        if run.trainer.is_global_zero:
            write_run_card(run_dir)
            write_report(run_dir)
            if when_reported is not None:
                when_reported(run_dir)
            mark_as_finished(run_dir, num_steps=run.trainer.global_step, value=value)
    return value


if __name__ == "__main__":
    main()
