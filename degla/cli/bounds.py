"""Bounds of the keys that no constructor of ours checks: plain keys of the programs, and Lightning's Trainer.

Imports no torch.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from degla.bounds import SEED, Bound, above, is_number, is_whole, number, share, whole
from degla.errors import ConfigError


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


def words_of(key: str, program: str | None = None) -> str:
    """Return the values that a key may have in words; "" where no program bounds it here.

    Args:
        key: with its group in front, such as ``trainer.max_steps``.
        program: name of a root config; None looks into all of them.
    """
    programs = BOUNDS if program is None else [program]
    return next((BOUNDS[name][key].words for name in programs if key in BOUNDS.get(name, {})), "")


def _is_devices(value: Any) -> bool:
    if value == "auto" or (is_whole(value) and (value == -1 or value >= 1)):
        return True
    if isinstance(value, str):  # as in CUDA_VISIBLE_DEVICES: "2" or "0,3"
        parts = [part.strip() for part in value.split(",")]
        return value == "-1" or (parts[0] != "" and all(part.isdigit() for part in parts if part))
    return OmegaConf.is_list(value) and len(value) > 0 and all(is_whole(part) and part >= 0 for part in value)


_MISSING = object()
_FLAG = Bound(lambda value: isinstance(value, bool), "true or false")
_NAME = Bound(lambda value: value is not None and str(value).strip() not in ("", ".", ".."), "a name for a folder")
_COLUMN = Bound(lambda value: isinstance(value, str) and value.strip() != "", "the name of a column")
_PATH = Bound(lambda value: value is not None and str(value).strip() != "", "a path")

BOUNDS: dict[str, dict[str, Bound]] = {
    "train": {
        "name": _NAME,
        "runs_dir": _PATH,
        "seed": SEED,
        "compile": _FLAG,
        "resume": Bound(
            OmegaConf.is_dict, "a group with the key resume.allow; to resume the newest run set ckpt_path=last"
        ),
        "trainer.devices": Bound(
            _is_devices, "auto, a number of devices of 1 or more, -1 for all of them, or a list of their numbers"
        ),
        "trainer.num_nodes": whole(1),
        "trainer.max_steps": Bound(
            lambda value: is_whole(value) and (value == -1 or value >= 1), "a number of steps of 1 or more, or -1"
        ),
        "trainer.accumulate_grad_batches": whole(1),
        "trainer.gradient_clip_val": Bound(
            lambda value: value is None or (is_number(value) and value >= 0),
            "a number of 0 or more, or null for no clipping",
        ),
        "trainer.log_every_n_steps": whole(0),
        "trainer.val_check_interval": Bound(
            lambda value: (is_whole(value) and value >= 1) or (isinstance(value, float) and 0 < value <= 1),
            "a number of batches of 1 or more, or a share of the pass such as 0.5",
        ),
        "trainer.num_sanity_val_steps": whole(-1),
        "trainer.enable_model_summary": _FLAG,
    },
    "export": {
        "to": Bound(lambda value: isinstance(value, str), "a format, such as open_clip"),
        "wise_ft": Bound(
            lambda value: value is None or share().allows(value),
            "from 0 (the base) to 1 (the fine-tuned model), or null",
        ),
    },
    "search": {
        "hits": whole(1),
        "rerank": _FLAG,
        "rerank_hits": whole(1),
        "check": _FLAG,
        "rebuild": _FLAG,
        "batch_size": whole(1),
        "num_workers": whole(1),
    },
    "try": {
        "runs_dir": _PATH,
        "host": Bound(lambda value: isinstance(value, str) and value.strip() != "", "an address, such as 127.0.0.1"),
        "port": Bound(lambda value: is_whole(value) and 0 <= value <= 65535, "a port from 0 (a free one) to 65535"),
        "serve": _FLAG,
        "max_upload_mb": whole(1),
        "max_image_pixels": whole(1),
        "captions": Bound(OmegaConf.is_list, "a list of texts"),
    },
    "negatives": {
        "input": Bound(lambda value: value is None or _PATH.allows(value), "a file of captions"),
        "caption": _COLUMN,
        "image": _COLUMN,
        "output": Bound(
            lambda value: value is None or _PATH.allows(value),
            "a folder, or null for the name of the input with _negatives",
        ),
        "kinds": Bound(lambda value: OmegaConf.is_list(value) and len(value) > 0, "a list of at least one kind"),
        "per_kind": whole(1, 64),  # as many as are read from one answer
        "balance": _FLAG,
        "draft": Bound(
            lambda value: value is None or whole(1).allows(value), "a number of captions of 1 or more, or null"
        ),
        "prices": Bound(
            lambda value: OmegaConf.is_list(value) and len(value) == 2 and all(map(number(0).allows, value)),
            "two numbers of 0 or more: dollars per million input and output tokens",
        ),
        "seed": SEED,
    },
    "downloads": {
        "check": _FLAG,
        "force": _FLAG,
        "keep_archives": _FLAG,
        "retries": whole(0),
        "timeout_seconds": above(0),
    },
    "study": {
        "n_jobs": Bound(lambda value: is_whole(value) and value != 0, "a number of jobs, or -1 for one per core"),
        "shares": Bound(
            lambda value: (
                OmegaConf.is_list(value) and len(value) > 0 and all(is_number(x) and 0 <= x <= 1 for x in value)
            ),
            "a list of numbers from 0 to 1",
        ),
        "retentions": Bound(
            lambda value: (
                OmegaConf.is_list(value) and len(value) > 0 and all(is_number(x) and 0 < x <= 1 for x in value)
            ),
            "a list of numbers above 0 and up to 1",
        ),
    },
}
