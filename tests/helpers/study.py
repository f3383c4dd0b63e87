"""Studies made from numbers: runs with scores, the record of several methods, and folders of runs with weights."""

import os
import random
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from degla.models import load_clip, save_open_clip
from degla.models.saving import WEIGHTS_NAME
from degla.report.study_record import make_record
from degla.report.study_schema import Base, Point, Run

SUBTASKS = ["sugarcrepe/swap_obj", "aro/order", "general/digits"]
BASE = {"metric": 0.70, "general": 0.90}
PANELS = {"Do negatives help?": ["clip", "negclip", "degla"], "Which teacher?": ["degla", "degla_frozen_teacher"]}


def scores(general: float, metric: float) -> dict[str, float]:
    """Means and sub-tasks of one model."""
    return {**dict.fromkeys(SUBTASKS, metric), "metric": metric, "general": general}


def run(method: str, lr: float, seed: int, validation: dict, test: dict | None = None, **fields) -> Run:
    """A run with share -> (general, metric) on both splits."""
    points = [
        [Point(share=share, scores=scores(*pair)) for share, pair in sorted((split or {}).items())]
        for split in (validation, test)
    ]
    return Run(
        run=fields.pop("run", f"{method}/lr{lr:g}_seed{seed}"), method=method, setting={"lr": lr}, seed=seed, steps=200,
        minutes=fields.pop("minutes", 2.0), validation=points[0], test=points[1], **fields,
    )  # fmt: skip


def record(runs: list[Run], **changes):
    """The record of runs that are measured at every share on both splits."""
    base = Base(model={"name": "degla-scenes"}, fingerprint="f", validation=scores(0.9, 0.7), test=scores(0.9, 0.7))
    settings = {
        "provenance": {"command": "degla-study", "commit": "abc1234"},
        "metric": "metric",
        "retain": "general",
        "retentions": [0.99, 0.97, 0.95],
        "shares": [point.share for point in runs[0].validation],
        "reference": runs[0].method,
        "panels": PANELS,
        "subtasks": SUBTASKS,
    }
    return make_record(runs, base, **{**settings, **changes})


def random_record(methods=("degla", "clip", "negclip", "degla_frozen_teacher", "mine"), seeds=range(3), **changes):
    """A record like a real one: composition rises with the share and the rate while general accuracy falls."""
    rng = random.Random(0)
    runs = []
    for number, method in enumerate(methods):
        for lr in (1e-3, 2.5e-4):
            for seed in seeds:
                splits = []
                for _ in range(2):
                    splits.append({
                        share: (
                            round(0.9 - 0.15 * share * lr / 1e-3 * rng.uniform(0.6, 1), 4),
                            round(0.7 + 0.01 * (number + 1) * share * (1 + lr / 1e-3) * rng.uniform(0.8, 1), 4),
                        )
                        for share in (0.5, 1.0)
                    })  # fmt: skip
                runs.append(run(method, lr, seed, *splits))
    return record(runs, **changes)


def write_base(folder: Path) -> Path:
    """A model of random weights that others can be fine-tuned from, as a folder for ``model.pretrained``."""
    torch.manual_seed(0)
    return save_open_clip(load_clip("degla-scenes", pretrained=None), folder / "base")


def write_run(folder: Path, base: Path, method: str, lr: float, seed: int, **changes) -> Path:
    """The folder of a finished run: the base's weights with noise, larger for a higher rate; its config; its end."""
    run = folder / method / f"lr{lr:g}_seed{seed}"
    state = load_file(base / WEIGHTS_NAME)
    torch.manual_seed(seed)
    noisy = {name: value + lr * torch.randn_like(value) if value.ndim > 1 else value for name, value in state.items()}
    (run / "model").mkdir(parents=True)
    save_file(noisy, run / "model" / WEIGHTS_NAME, {"format": "pt"})
    config = {
        "name": method,
        "seed": seed,
        "run_dir": str(run),
        "model": {"_target_": "degla.models.load_clip", "name": "degla-scenes", "pretrained": str(base)},
        "optimizer": {"lr": lr, "weight_decay": 0.1},
        "loader": {"seed": seed, "num_workers": seed, "report_path": str(run / "bad_rows.csv")},
        **changes,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "finished.json").write_text('{"steps": 12, "value": NaN}')
    os.utime(run / "config.yaml", (0, (run / "finished.json").stat().st_mtime - 90))
    return run
