"""``degla.evaluate``: measure a model on benchmarks from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from degla.api.model import Model, choose_device, load
from degla.api.training import Run
from degla.cli.compose import compose_config
from degla.errors import ConfigError
from degla.report.benchmark_results import Evaluation, read_results


@dataclass(frozen=True)
class Results:
    """Accuracies of one model, fractions from 0 to 1.

    Args:
        folder: where ``results.json``, ``items.parquet`` and ``report.html`` are.
        label: what the model is called in tables.
        accuracy: ``<benchmark>/<subset>`` -> accuracy.
        interval: ``<benchmark>/<subset>`` -> 95 % bootstrap interval.
        means: ``<benchmark>/<mean>`` -> mean over subsets, as each benchmark defines it.
        record: ``results.json``, with protocol, versions and problems.
    """

    folder: Path
    label: str
    accuracy: dict[str, float]
    interval: dict[str, tuple[float, float]]
    means: dict[str, float]
    record: dict[str, Any] = field(repr=False)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        lines = [f"{self.label}, percent with 95 % interval"]
        for name, accuracy in self.accuracy.items():
            low, high = self.interval[name]
            lines.append(f"{name:<40} {100 * accuracy:5.1f}  [{100 * low:.1f}, {100 * high:.1f}]")
        lines += [f"{name:<40} {100 * mean:5.1f}" for name, mean in self.means.items()]
        return "\n".join(lines)


def evaluate(
    model: Model | Run | str | Path,
    benchmark: str | Sequence[str] | Mapping[str, Any] = "paper",
    compare: Sequence[Results | str | Path] = (),
    **overrides: Any,
) -> Results:
    """Measure a model on benchmarks in this process, as ``degla-evaluate`` does.

    ::

        base = degla.evaluate("ViT-B-32/openai", ["sugarcrepe", "valse"])
        tuned = degla.evaluate(run, ["sugarcrepe", "valse"], compare=[base])
        print(tuned), tuned.accuracy["sugarcrepe/swap_obj"], tuned.report

    Args:
        model: what ``degla.load`` takes or returned, or a run. A model in memory is measured without changes.
        benchmark: options of ``configs/benchmark``. A mapping sets keys of them, with ``option`` for the options.
        compare: results, or their folders, that the report shows beside this model; the first is the base.
        **overrides: any other key of ``configs/evaluate.yaml``: ``precision="bf16-mixed"``, ``label="mine"``,
            ``**{"benchmark.scenes.num_items": 50}``.

    Raises:
        DeglaError: the settings or the data do not allow the evaluation.
    """
    from degla.cli.instantiate import instantiate_each
    from degla.evaluate import check, measure, write_tables
    from degla.evaluation.ranks import Ranks
    from degla.evaluation.settings import read_settings

    folders = [str(item.folder if isinstance(item, Results) else item) for item in compare]
    cfg = compose_config("evaluate", {"benchmark": benchmark, "compare": folders, **overrides})
    settings = read_settings(_container(cfg))
    if settings.report_only or settings.doctor:
        raise ConfigError("report_only and doctor are for degla-evaluate, which prints: leave them out")
    tasks = instantiate_each(cfg.benchmark, "benchmark")
    check(settings, has_benchmark=bool(tasks))
    others = [read_results(Path(folder)) for folder in folders]
    given = model.model if isinstance(model, Run) else model
    loaded = given if isinstance(given, Model) else load(given)
    # What config.yaml of the results says must be the model that was measured.
    OmegaConf.update(
        cfg, "model", {"name": loaded.clip.source.architecture, "pretrained": loaded.clip.source.pretrained}
    )
    device = choose_device(settings.device)
    settings = settings.model_copy(update={"label": settings.label or loaded.label})
    measure(cfg, settings, tasks, Ranks(0, 1, device), loaded.to(device).clip)
    own = read_results(Path(settings.run_dir))
    write_tables(settings, tasks, [*others, own])
    return _results(own)


def _container(cfg: Any) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return values


def _results(own: Evaluation) -> Results:
    subsets = {
        f"{name}/{subset}": scores
        for name, benchmark in own.benchmarks.items()
        for subset, scores in benchmark["subsets"].items()
    }
    return Results(
        folder=own.folder,
        label=own.label,
        accuracy={name: scores["accuracy"] for name, scores in subsets.items()},
        interval={name: (scores["interval"][0], scores["interval"][1]) for name, scores in subsets.items()},
        means={
            f"{name}/{mean}": scores["accuracy"]
            for name, benchmark in own.benchmarks.items()
            for mean, scores in benchmark["means"].items()
        },
        record=own.record,
    )
