"""Bounds of the keys that no constructor of ours checks: plain keys of the programs, and Lightning's Trainer.

Imports no torch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from degla.errors import ConfigError


class Bound(NamedTuple):
    """The values that a key may have."""

    allows: Callable[[Any], bool]
    words: str  # completes "<key>=<value> must be"


def check_bounds(cfg: DictConfig, program: str) -> None:
    """Check the keys of a program that no constructor checks.

    Args:
        cfg: the composed config.
        program: name of its root config, such as ``train``.

    Raises:
        ConfigError: a value is of the wrong type or out of bounds.
    """
    for key, bound in BOUNDS.get(program, {}).items():
        value = OmegaConf.select(cfg, key, default=_MISSING)
        if value is not _MISSING and not bound.allows(value):
            raise ConfigError(f"{key}={value} must be {bound.words}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _whole(minimum: int) -> Bound:
    return Bound(lambda value: _is_whole(value) and value >= minimum, f"a whole number of {minimum} or more")


def _is_devices(value: Any) -> bool:
    if value == "auto" or (_is_whole(value) and (value == -1 or value >= 1)):
        return True
    if isinstance(value, str):  # as in CUDA_VISIBLE_DEVICES: "2" or "0,3"
        parts = [part.strip() for part in value.split(",")]
        return value == "-1" or (parts[0] != "" and all(part.isdigit() for part in parts if part))
    return OmegaConf.is_list(value) and len(value) > 0 and all(_is_whole(part) and part >= 0 for part in value)


_MISSING = object()
_FLAG = Bound(lambda value: isinstance(value, bool), "true or false")
_SEED = Bound(lambda value: _is_whole(value) and 0 <= value < 2**32, "a whole number from 0 to 4294967295")
_NAME = Bound(lambda value: value is not None and str(value).strip() not in ("", ".", ".."), "a name for a folder")
_PATH = Bound(lambda value: value is not None and str(value).strip() != "", "a path")

BOUNDS: dict[str, dict[str, Bound]] = {
    "train": {
        "name": _NAME,
        "runs_dir": _PATH,
        "seed": _SEED,
        "compile": _FLAG,
        "resume": Bound(
            OmegaConf.is_dict, "a group with the key resume.allow; to resume the newest run set ckpt_path=last"
        ),
        "trainer.devices": Bound(
            _is_devices, "auto, a number of devices of 1 or more, -1 for all of them, or a list of their numbers"
        ),
        "trainer.num_nodes": _whole(1),
        "trainer.max_steps": Bound(
            lambda value: _is_whole(value) and (value == -1 or value >= 1), "a number of steps of 1 or more, or -1"
        ),
        "trainer.accumulate_grad_batches": _whole(1),
        "trainer.gradient_clip_val": Bound(
            lambda value: value is None or (_is_number(value) and value >= 0),
            "a number of 0 or more, or null for no clipping",
        ),
        "trainer.log_every_n_steps": _whole(0),
        "trainer.val_check_interval": Bound(
            lambda value: (_is_whole(value) and value >= 1) or (isinstance(value, float) and 0 < value <= 1),
            "a number of batches of 1 or more, or a share of the pass such as 0.5",
        ),
        "trainer.num_sanity_val_steps": _whole(-1),
        "trainer.enable_model_summary": _FLAG,
    },
    "export": {
        "to": Bound(lambda value: isinstance(value, str), "a format, such as open_clip"),
        "wise_ft": Bound(
            lambda value: value is None or _is_share(value),
            "from 0 (the base) to 1 (the fine-tuned model), or null",
        ),
    },
    "study": {
        "n_jobs": Bound(lambda value: _is_whole(value) and value != 0, "a number of jobs, or -1 for one per core"),
        "shares": Bound(
            lambda value: (
                OmegaConf.is_list(value) and len(value) > 0 and all(_is_number(x) and 0 <= x <= 1 for x in value)
            ),
            "a list of numbers from 0 to 1",
        ),
    },
}
