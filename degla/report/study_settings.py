"""The settings of runs: the config keys in which the runs of a method differ."""

import json
from pathlib import Path
from typing import Any

from degla.objective_terms import compared_objective, short_key
from degla.report.study_schema import Setting

_LEARNING_RATE = "optimizer.lr"  # always shown
_SHORT = {_LEARNING_RATE: "lr", "trainer.max_steps": "max_steps"}
# Keys, or groups of keys, that do not change what is trained.
_PASSIVE = (
    *("name", "seed", "run_dir", "runs_dir", "data_dir", "ckpt_path", "resume", "benchmark", "val_data", "logger"),
    *(
        "model.cache_dir",
        "loader.num_workers",
        "loader.timeout_seconds",
        "loader.max_val_rows",
        "loader.val_batch_size",
    ),
    *("loader.report_path", "data.cache_dir", "teacher.text_cache"),
    *("trainer.log_every_n_steps", "trainer.enable_model_summary", "trainer.num_sanity_val_steps"),
    *("trainer.val_check_interval", "trainer.max_time"),
    *(f"callbacks.{name}" for name in ("checkpoint", "preemption", "watchdog", "memory", "throughput", "batch_images")),
    *(f"callbacks.{name}" for name in ("learning_rate", "progress_bar", "evaluate", "export")),
)


def settings_of(configs: dict[Path, dict[str, Any]]) -> dict[Path, Setting]:
    """Return folder -> the keys in which the runs of its method differ, with their values, and the learning rate.

    Args:
        configs: folder of a run -> its config, as plain data.
    """
    flat = {path: _flat_settings(config) for path, config in configs.items()}
    settings: dict[Path, Setting] = {}
    for path, config in configs.items():
        own = [
            (flat[other], content["seed"]) for other, content in configs.items() if content["name"] == config["name"]
        ]
        keys = dict.fromkeys(key for values, _ in own for key in values)
        varied = [
            key
            for key in keys
            if len({json.dumps(values.get(key)) for values, _ in own}) > 1
            # A seed that follows the run's is part of it.
            and not (key.endswith(".seed") and all(values.get(key) == seed for values, seed in own))
        ]
        shown = dict.fromkeys([*(key for key in keys if key == _LEARNING_RATE), *varied])
        settings[path] = {
            _SHORT.get(key, short_key(key)): flat[path][key] for key in shown if flat[path].get(key) is not None
        }
    return settings


def _flat_settings(config: dict[str, Any]) -> Setting:
    """Return key -> value of everything that changes what is trained, the run's seed left out."""
    objective = config.get("objective")
    if isinstance(objective, dict):
        config = {**config, "objective": compared_objective(objective)}
    run_dir = str(config.get("run_dir") or "")
    flat: Setting = {}
    for key, value in _leaves(config, ""):
        is_passive = any(key == name or key.startswith(f"{name}.") for name in _PASSIVE)
        is_own_path = bool(run_dir) and run_dir in str(value)
        if not (is_passive or is_own_path):
            flat[key] = value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
    return flat


def _leaves(node: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]
