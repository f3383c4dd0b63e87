"""``degla-evaluate`` and ``python -m degla.evaluate``: compose, build, run, report."""

import logging
import sys
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from degla.cli.main import command_line, run_program
from degla.errors import ConfigError, DataError

if TYPE_CHECKING:
    from degla.api import Results
    from degla.data.schema import Problem
    from degla.evaluation import FeatureStore, Result, Task
    from degla.evaluation.items import ImageRef
    from degla.evaluation.ranks import Ranks
    from degla.evaluation.settings import Settings
    from degla.models import ClipModel, ModelSource
    from degla.report.benchmark_results import Evaluation
    from degla.report.benchmark_tables import BenchmarkTable

log = logging.getLogger(__name__)

_MAX_WARNINGS = 5  # bad images that the console names


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("evaluate", evaluate)


def evaluate(cfg: DictConfig) -> float | None:
    """Measure a model, compare earlier results, or list the data that are here, as the config says.

    Args:
        cfg: the composed ``evaluate.yaml``.

    Returns:
        The mean of the benchmarks' averages, which a sweep maximises; None where nothing was measured.

    Raises:
        DeglaError: the settings or the data do not allow the evaluation.
    """
    # torch and datasets take seconds to import; --help and shell completion must not wait for them.
    from degla.cli.instantiate import chosen_nodes, instantiate_each
    from degla.evaluation.ranks import join_ranks, leave_ranks
    from degla.evaluation.settings import read_settings
    from degla.report.benchmark_results import read_results
    from degla.report.doctor import print_survey

    settings = read_settings(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
    check(settings, has_benchmark=bool(chosen_nodes(cfg.benchmark)))
    compared = [read_results(Path(folder)) for folder in settings.compare]
    tasks: dict[str, Task] = instantiate_each(cfg.benchmark, "benchmark")
    if settings.doctor:
        print_survey(tasks)
        return None
    if settings.report_only:
        return _report(settings, tasks, compared)
    ranks = join_ranks(settings.device)
    try:
        measure(cfg, settings, tasks, ranks)
    finally:
        leave_ranks(ranks)
    return _report(settings, tasks, [*compared, read_results(Path(settings.run_dir))]) if ranks.rank == 0 else None


def check(settings: "Settings", has_benchmark: bool) -> None:
    """Refuse settings that would measure nothing or overwrite results.

    Args:
        settings: the top-level keys.
        has_benchmark: whether at least one benchmark is selected.

    Raises:
        ConfigError: the settings would do so.
    """
    if not has_benchmark:
        raise ConfigError("benchmark=none measures nothing: no benchmark is selected; see --help for the choices")
    if settings.report_only and not settings.compare:
        raise ConfigError("report_only=true has nothing to report: set compare=[runs/evaluate/<time>,...]")
    if (Path(settings.run_dir) / "results.json").exists() and not settings.report_only and not settings.doctor:
        raise ConfigError(f"run_dir={settings.run_dir} holds results already: choose another")


def measure(
    cfg: DictConfig,
    settings: "Settings",
    tasks: Mapping[str, "Task"],
    ranks: "Ranks",
    model: "ClipModel | None" = None,
) -> None:
    """Answer every item; the first rank writes the results.

    Args:
        cfg: the composed ``evaluate.yaml``.
        settings: its top-level keys.
        tasks: the benchmarks by name.
        ranks: the processes that share the work.
        model: a model in memory; None builds the one of ``cfg.model``.

    Raises:
        DeglaError: the settings or the data do not allow the evaluation.
    """
    import torch

    from degla.cli.instantiate import instantiate
    from degla.evaluation import Encoder, FeatureStore, run_benchmarks
    from degla.evaluation.coverage import require_answers, require_images

    start = time.monotonic()
    require_images(tasks, settings.max_missing)
    torch.manual_seed(0)  # random weights, where those are measured, are the same on every rank
    model = (instantiate(cfg.model, "model") if model is None else model).to(ranks.device)
    encoder = Encoder(model, settings.batch_size, settings.precision)
    cache_dir = Path(settings.cache_dir) if settings.cache_dir else None
    features = FeatureStore(encoder, cache_dir, settings.num_workers, ranks.rank, ranks.world_size)
    results = run_benchmarks(tasks, features, settings.no_image_baseline)
    _refuse_bad_images(list(features.problems.values()), settings.on_bad_image)
    require_answers(tasks, results, settings.max_missing)
    if ranks.rank == 0:
        _warn_of_items_left_out(results)
        label = settings.label or model.source.description
        _write(cfg, label, model.source, tasks, results, features, seconds=time.monotonic() - start)


def _refuse_bad_images(bad: Sequence["Problem"], on_bad_image: str) -> None:
    if bad and on_bad_image == "stop":
        raise DataError(
            f"{bad[0].row} cannot be used ({bad[0].reason}), and {len(bad) - 1} more; on_bad_image=skip leaves them out"
        )


def _warn_of_items_left_out(results: Mapping[str, "Result"]) -> None:
    skipped = [problem for result in results.values() for problem in result.problems if problem.skipped]
    for problem in skipped[:_MAX_WARNINGS]:
        log.warning(f"left out: {problem.row} ({problem.reason})")
    if len(skipped) > _MAX_WARNINGS:
        log.warning(f"left out: {len(skipped) - _MAX_WARNINGS} more, all in results.json")


def _write(
    cfg: DictConfig,
    label: str,
    source: "ModelSource",
    tasks: Mapping[str, "Task"],
    results: Mapping[str, "Result"],
    features: "FeatureStore",
    seconds: float,
) -> None:
    from degla.evaluation import benchmark_records
    from degla.report.benchmark_results import write_results

    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    fingerprint = features.encoder.fingerprint()
    write_results(
        run_dir,
        label=label,
        model={"name": source.architecture, "pretrained": source.pretrained, "fingerprint": fingerprint},
        benchmarks=benchmark_records(tasks, results, features),
        results=results,
        seconds=seconds,
        num_encoded=features.num_encoded,
        command=command_line("degla-evaluate"),
    )


def write_tables(
    settings: "Settings", tasks: Mapping[str, "Task"], shown: Sequence["Evaluation"]
) -> "list[BenchmarkTable]":
    """Write the report of one or more results, and return its tables.

    Args:
        settings: the top-level keys.
        tasks: the benchmarks by name, for their images.
        shown: the results; the first is the base of every comparison.
    """
    from degla.report.benchmark_report import write_report
    from degla.report.benchmark_tables import benchmark_tables

    tables = benchmark_tables(shown)
    write_report(shown, tables, Path(settings.run_dir), _images_by_name(tasks, shown), settings.explorer_items)
    return tables


def _report(settings: "Settings", tasks: Mapping[str, "Task"], shown: Sequence["Evaluation"]) -> float | None:
    """Write the report and print the tables; return the mean of the last model's averages."""
    from degla.report.benchmark_report import print_tables

    print_tables(write_tables(settings, tasks, shown), Path(settings.run_dir))
    averages = [scores["means"].get("average", {}).get("accuracy") for scores in shown[-1].benchmarks.values()]
    measured = [average for average in averages if average is not None]
    return fmean(measured) if measured else None


def _images_by_name(tasks: Mapping[str, "Task"], shown: Sequence["Evaluation"]) -> dict[str, "ImageRef"]:
    """Return the images of the benchmarks that are shown, where their annotations are on this machine."""
    images: dict[str, ImageRef] = {}
    for name, task in tasks.items():
        if any(name in evaluation.benchmarks for evaluation in shown):
            try:
                images |= {image.name: image for image in task.list_images()}
            except ConfigError:
                continue
    return images


class _CallableProgram(types.ModuleType):
    """Lets ``degla.evaluate(...)`` be the function of the Python API, though this module has the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Results":
        from degla.api import evaluate

        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableProgram

if __name__ == "__main__":
    main()
