"""``python -m degla.study``: compose, measure the runs of ``degla-train +sweep=study``, report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from degla.artifacts import atomic_write, provenance
from degla.cli.main import command_line, run_program
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.evaluation.tasks.scenes import Scenes
    from degla.models import ClipModel


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("study", study)


def study(cfg: DictConfig) -> None:
    """Choose each method's learning rate on the validation split, measure the test split, write tables and plots.

    Args:
        cfg: the composed ``study.yaml``.

    Raises:
        DeglaError: there is no finished run, or no such record.
    """
    from degla.report.study_report import print_study, write_study

    out = Path(cfg.out)
    if cfg.replot:
        record = _read_record(Path(cfg.replot))
    else:
        record = _measure_runs(cfg)
        with atomic_write(out / "study.json") as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_study(record, out)
    print_study(record, out)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["start"], record["methods"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"replot={path} is not the study.json of an earlier study: {error}") from error
    return record


def _measure_runs(cfg: DictConfig) -> dict[str, Any]:
    from joblib import Parallel, delayed

    from degla.report.study_record import chosen_runs, find_runs, study_record

    runs = find_runs(Path(cfg.runs_dir))
    if not runs:
        raise ConfigError(
            f"runs_dir={cfg.runs_dir} holds no finished run: first run python -m degla.train +sweep=study"
        )
    settings = OmegaConf.to_container(cfg, resolve=True)
    chosen = chosen_runs(runs)
    shares_of_runs = [(run, list(cfg.shares) if run in chosen else [1.0]) for run in runs]
    scores = Parallel(n_jobs=cfg.n_jobs, verbose=10)(
        delayed(_measure_in_process)(settings, run and run.folder / "model", shares)
        for run, shares in [(None, [0.0]), *shares_of_runs]
    )
    record = study_record(runs, shares_of_runs, start=scores[0][0], scores=scores[1:])
    return {"provenance": {"settings": settings, "command": command_line("degla-study"), **provenance()}, **record}


def _measure_in_process(
    settings: dict[str, Any], tuned_model: Path | None, shares: list[float]
) -> list[dict[str, float]]:
    """Measure a run's weights, mixed with the weights that the run started from, in a process of its own."""
    import torch

    from degla.cli.instantiate import instantiate

    torch.set_num_threads(1)  # the model is too small to gain from more
    cfg = OmegaConf.create(settings)
    benchmark = instantiate(cfg.benchmark.scenes, "benchmark.scenes")
    return [_scores(instantiate(cfg.model, "model"), benchmark, tuned_model, share) for share in shares]


def _scores(model: "ClipModel", benchmark: "Scenes", tuned_model: Path | None, share: float) -> dict[str, float]:
    """Measure ``share`` of the fine-tuned weights and the rest of the model's own.

    Args:
        model: the model before fine-tuning; its weights are replaced.
        benchmark: the benchmark to measure.
        tuned_model: folder of the fine-tuned model; None measures ``model``.
        share: part of the fine-tuned weights, see ``degla.models.interpolate_weights``.

    Returns:
        Sub-task or mean -> accuracy in [0, 1].
    """
    from degla.evaluation import Encoder, FeatureStore, point_estimates, run_benchmarks
    from degla.models import interpolate_weights
    from degla.models.checkpoints import read_weights
    from degla.models.saving import WEIGHTS_NAME

    if tuned_model is not None:
        base = model.clip.state_dict()
        weights = read_weights(tuned_model / WEIGHTS_NAME).state
        tuned = {name: value.reshape(base[name].shape) for name, value in weights.items()}
        model.clip.load_state_dict(interpolate_weights(base, tuned, share))
    results = run_benchmarks({"scenes": benchmark}, FeatureStore(Encoder(model), progress=False))
    subsets, means = point_estimates(benchmark, results["scenes"].outcomes)
    return subsets | {name.replace("average", "overall"): value for name, value in means.items()}


if __name__ == "__main__":
    main()
