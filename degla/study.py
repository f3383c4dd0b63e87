"""``python -m degla.study``: what the runs of ``degla.train +sweep=study`` show."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from degla.config import hydra_main
from degla.errors import ConfigError


def main() -> None:
    """Entry point."""
    hydra_main("study", study)


def study(cfg: DictConfig) -> None:
    """Choose each method's learning rate on the validation split, measure the test split, write table and plots."""
    from degla.report.study_report import print_study, write_study

    out = Path(cfg.out)
    if cfg.replot:
        record = json.loads(Path(cfg.replot).read_text(encoding="utf-8"))
    else:
        record = _measured(cfg)
        out.mkdir(parents=True, exist_ok=True)
        partial = out / ".study.json.part"
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(out / "study.json")
    write_study(record, out)
    print_study(record, out)


def _measured(cfg: DictConfig) -> dict:
    from joblib import Parallel, delayed

    from degla.report.study_record import chosen_runs, find_runs, provenance, study_record

    runs = find_runs(Path(cfg.runs_dir))
    if not runs:
        raise ConfigError(f"runs_dir={cfg.runs_dir} holds no finished run: first python -m degla.train +sweep=study")
    settings = OmegaConf.to_container(cfg, resolve=True)
    chosen = chosen_runs(runs)
    tuned = [(run, list(cfg.shares) if run in chosen else [1.0]) for run in runs]
    scores = Parallel(n_jobs=cfg.n_jobs, verbose=10)(
        delayed(_measure)(settings, run and run.folder / "model", shares) for run, shares in [(None, [0.0]), *tuned]
    )
    return {"provenance": provenance(settings), **study_record(runs, tuned, scores[0][0], scores[1:])}


def _measure(settings: dict, folder: Path | None, shares: list[float]) -> list[dict[str, float]]:
    """In a process of its own: the test scores of a run's weights mixed with those it began with."""
    import torch

    from degla.build import call
    from degla.report.study_record import measure

    torch.set_num_threads(1)  # the model is too small for more
    cfg = OmegaConf.create(settings)
    benchmark = call(cfg.benchmark.scenes, "benchmark.scenes")
    return [measure(call(cfg.model, "model"), benchmark, folder, share) for share in shares]


if __name__ == "__main__":
    main()
