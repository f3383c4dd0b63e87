"""``degla-study`` and ``python -m degla.study``: measure finished runs at fixed retention, report."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from degla.artifacts import lock_folder, provenance
from degla.cli.instantiate import instantiate_each
from degla.cli.main import command_line, run_program
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.evaluation import Task
    from degla.report.study_measuring import Measurement
    from degla.report.study_runs import FoundRun
    from degla.report.study_schema import Run, Scores, StudyRecord

log = logging.getLogger(__name__)


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("study", study)


def study(cfg: DictConfig) -> None:
    """Choose each method's candidates on the validation split, measure the test split, write tables and plots.

    Args:
        cfg: the composed ``study.yaml``.

    Raises:
        DeglaError: there is no finished run, the runs cannot be compared, or there is no such record.
    """
    from degla.report.study_record import read_record, write_record
    from degla.report.study_report import print_study, write_study

    out = Path(cfg.out)
    panels = _panels(cfg)
    if cfg.replot:
        record = _with_new_view(read_record(Path(cfg.replot)), cfg, panels)
    else:
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out, "out", "wait until that study has ended, or set another folder"):
            record = _measure_runs(cfg, panels, out)
            write_record(record, out / "study.json")
    write_study(record, out)
    print_study(record, out)


def _panels(cfg: DictConfig) -> dict[str, list[str]]:
    """Return question -> methods."""
    from degla.report.study_plots import MAX_LINES

    panels: dict[str, list[str]] = {}
    given: Any = OmegaConf.to_container(cfg.panels) if OmegaConf.is_list(cfg.panels) else [cfg.panels]
    for panel in given:
        for question, names in panel.items() if isinstance(panel, dict) else [(panel, None)]:
            if not isinstance(names, list) or not 0 < len(names) <= MAX_LINES:
                raise ConfigError(
                    f"panels: {question}: {names} must be a question with a list of 1 to {MAX_LINES} methods, as in "
                    "panels=[{Do negatives help: [clip, negclip]}]"
                )
            panels[str(question)] = [str(name) for name in names]
    return panels


def _with_new_view(record: "StudyRecord", cfg: DictConfig, panels: dict[str, list[str]]) -> "StudyRecord":
    """Return the record with the panels and the reference of the command line, where that names them."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = {override.lstrip("+~").partition("=")[0].partition(".")[0] for override in overrides}
    if refused := keys & {"runs", "shares", "retentions", "metric", "retain", "validation", "test"}:
        raise ConfigError(f"{min(refused)} cannot change with replot={cfg.replot}: leave out replot to measure again")
    changes: dict[str, Any] = {"panels": panels} if "panels" in keys else {}
    if "reference" in keys:
        changes["reference"] = _reference(cfg.reference, [run.method for run in record.runs])
    return record.model_copy(update=changes)


def _measure_runs(cfg: DictConfig, panels: dict[str, list[str]], out: Path) -> "StudyRecord":
    from degla.report.study_measuring import Measurement, refuse_random_base, tested_runs, validated_runs
    from degla.report.study_record import make_record
    from degla.report.study_runs import base_of, find_runs
    from degla.report.study_schema import Base

    found = find_runs(Path(cfg.runs))
    if not found:
        raise ConfigError(f"runs={cfg.runs} holds no finished run: first run python -m degla.train +sweep=study")
    shares = sorted({float(share) for share in cfg.shares if share > 0})
    model: Any = OmegaConf.to_container(cfg.model, resolve=True) if "model" in cfg else None
    base = base_of(found, f"runs={cfg.runs}", model)
    refuse_random_base(base)
    reference = _reference(cfg.reference, [run.method for run in found])
    tasks = {split: _only_task(cfg, split) for split in ("validation", "test")}
    measurement = Measurement(base, tasks, found, out / "measured.json", cfg.n_jobs)
    base_scores = _base_scores(measurement, cfg)
    validated = validated_runs(
        found,
        measurement.scores("validation", [(run, shares) for run in found]),
        left_out={*tasks["validation"].subsets} - {cfg.metric, cfg.retain},
    )
    plan = _test_plan(validated, base_scores["validation"], cfg)
    runs = tested_runs(validated, measurement.scores("test", [(run, plan[run.name]) for run in found]))
    return make_record(
        runs,
        Base(model=base, fingerprint=measurement.base_fingerprint, **base_scores),
        provenance=_provenance(cfg, found),
        metric=cfg.metric,
        retain=cfg.retain,
        retentions=list(cfg.retentions),
        shares=shares,
        reference=reference,
        panels=panels,
        subtasks=[name for name in tasks["test"].subsets if name in base_scores["test"]],
    )


def _base_scores(measurement: "Measurement", cfg: DictConfig) -> dict[str, "Scores"]:
    """Return split -> scores of the base model, which show whether the benchmarks have what the study compares."""
    base = {}
    for split in ("validation", "test"):
        ((base[split],),) = ([*scores.values()] for scores in measurement.scores(split, [(None, [0.0])]))
        for key in ("metric", "retain"):
            if cfg[key] not in base[split]:
                raise ConfigError(f"{key}={cfg[key]} is not a score of {split}: there are {', '.join(base[split])}")
        if base[split][cfg.retain] == 0:
            raise ConfigError(f"retain={cfg.retain}: the base model's score on {split} is 0, so nothing can be kept")
    return base


def _test_plan(runs: Sequence["Run"], base: "Scores", cfg: DictConfig) -> dict[str, list[float]]:
    """Return run -> the shares at which it is measured on the test split."""
    from degla.report.study_measure import runs_by_setting, study_methods

    plan: dict[str, list[float]] = {run.run: [] for run in runs}
    for method in study_methods(runs, base, cfg.metric, cfg.retain, list(cfg.retentions)).values():
        for candidate in method.reported:
            for run in [] if candidate.is_base else runs_by_setting(method.runs)[candidate.setting]:
                plan[run.run] = sorted([*plan[run.run], candidate.share])
    return plan


def _provenance(cfg: DictConfig, found: Sequence["FoundRun"]) -> dict[str, Any]:
    commits = sorted({run.commit for run in found if run.commit})
    benchmarks = {split: OmegaConf.to_container(cfg[split], resolve=True) for split in ("validation", "test")}
    return {
        "command": command_line("degla-study"),
        **provenance(),
        "trained_at": ", ".join(commits),
        "benchmarks": benchmarks,
    }


def _reference(name: str, methods: Sequence[str]) -> str:
    if name in methods:
        return name
    first = min(methods)
    log.warning(f"reference={name} is not a method of these runs ({', '.join(sorted(set(methods)))}): {first} is used")
    return first


def _only_task(cfg: DictConfig, split: str) -> "Task":
    tasks = instantiate_each(cfg[split], split)
    if len(tasks) != 1:
        raise ConfigError(f"benchmark@{split} must choose one benchmark, not {len(tasks)}: a study has one metric")
    return next(iter(tasks.values()))


if __name__ == "__main__":
    main()
