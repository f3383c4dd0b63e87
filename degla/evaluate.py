"""``degla-evaluate`` and ``python -m degla.evaluate``: compose, measure, compare, report."""

import logging
import os
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from degla.cli.main import run_program
from degla.errors import ConfigError, DataError

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point."""
    run_program("evaluate", evaluate)


def evaluate(cfg: DictConfig) -> float | None:
    """Measure, compare or look what is there, as ``cfg`` says.

    Returns:
        The mean of the benchmarks' averages, for sweeps.
    """
    from degla.cli.instantiate import instantiate_each
    from degla.report.benchmark_report import benchmark_tables, print_tables, write_report
    from degla.report.benchmark_results import read_results

    if not cfg.benchmark:
        raise ConfigError("benchmark=none measures nothing: choose among --help's")
    others = [read_results(Path(folder)) for folder in cfg.compare]
    tasks = instantiate_each(cfg.benchmark, "benchmark")
    run_dir = Path(cfg.run_dir)
    if (run_dir / "results.json").exists() and not cfg.report_only and not cfg.doctor:
        raise ConfigError(f"run_dir={run_dir} holds results already: choose another")
    if cfg.doctor:
        from degla.report.doctor import print_survey

        print_survey(tasks)
        return None
    if cfg.report_only:
        if not others:
            raise ConfigError("report_only=true has nothing to report: set compare=[runs/evaluate/<time>,...]")
        shown = others
    elif (shown := _measured(cfg, tasks, run_dir, others)) is None:
        return None  # another rank writes
    tables = benchmark_tables(shown)
    write_report(shown, tables, run_dir, _images(tasks, shown), cfg.explorer_items)
    print_tables(tables, run_dir)
    averages = [benchmark["means"].get("average", {}).get("accuracy") for benchmark in shown[-1].benchmarks.values()]
    known = [value for value in averages if value is not None]
    return sum(known) / len(known) if known else None


def _measured(cfg: DictConfig, tasks: dict, run_dir: Path, others: list) -> list | None:
    """The results of this model behind the others'; None on every rank but the first."""
    import torch

    from degla.cli.instantiate import instantiate
    from degla.evaluation import Encoder, FeatureStore, record
    from degla.evaluation import evaluate as answer
    from degla.report.benchmark_results import read_results, write_results

    start = time.monotonic()
    rank, world_size, device = _processes(cfg.device)
    for task in tasks.values():  # what is missing should be named before weights are loaded
        task.list_images()
    torch.manual_seed(0)  # random weights, where that is what is measured, are the same on every rank
    model = instantiate(cfg.model, "model").to(device)
    encoder = Encoder(model, cfg.batch_size, str(cfg.precision))
    features = FeatureStore(encoder, Path(cfg.cache_dir), cfg.num_workers, rank, world_size)
    results = answer(tasks, features, cfg.blind)
    if world_size > 1:
        torch.distributed.destroy_process_group()
    bad = list(features.problems.values())
    if bad and cfg.on_bad_image == "stop":
        raise DataError(
            f"{bad[0].row} cannot be used ({bad[0].reason}), and {len(bad) - 1} more; on_bad_image=skip goes on"
        )
    if rank:
        return None
    bad = [problem for result in results.values() for problem in result.problems if problem.skipped]
    for problem in bad[:5]:
        log.warning(f"left out: {problem.row} ({problem.reason})")
    if len(bad) > 5:
        log.warning(f"left out: {len(bad) - 5} more, all in results.json")
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    write_results(
        run_dir,
        label=cfg.label or f"{cfg.model.name} {cfg.model.pretrained or 'random weights'}",
        model={"name": cfg.model.name, "pretrained": cfg.model.pretrained, "fingerprint": encoder.fingerprint()},
        benchmarks=record(tasks, results, features),
        results=results,
        seconds=time.monotonic() - start,
        num_encoded=features.num_encoded,
    )
    return [*others, read_results(run_dir)]


def _processes(device: str) -> tuple[int, int, str]:
    """Rank, number of processes and device; torchrun says how many there are."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world_size > 1:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return int(os.environ.get("RANK", "0")), world_size, device


def _images(tasks: dict, shown: list) -> dict:
    """Name -> image, for those benchmarks whose files are here."""
    found = {}
    for name, task in tasks.items():
        if any(name in result.benchmarks for result in shown):
            try:
                found |= {image.name: image for image in task.list_images()}
            except ConfigError:
                continue
    return found


if __name__ == "__main__":
    main()
