"""The terms of an objective in configs: their names, their short form, and objectives of earlier releases.

Imports no torch.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Name of a term -> its constructor. A term of another package names its own ``_target_``.
TERMS = {
    "contrastive": "degla.losses.Contrastive",
    "igc": "degla.losses.IGC",
    "tgc": "degla.losses.TGC",
    "distill": "degla.losses.Distillation",
    "imc": "degla.losses.IMC",
    "cmr": "degla.losses.CMR",
    "focal": "degla.losses.FocalNegative",
    "token_focal": "degla.losses.TokenNegative",
    "unit_contrast": "degla.losses.UnitContrast",
    "paraphrase": "degla.losses.Paraphrase",
    "agreement": "degla.losses.CaptionAgreement",
    "triplet": "degla.losses.TripletClip",
    "con_clip": "degla.losses.ConClip",
    "sigmoid": "degla.losses.Sigmoid",
}
OBJECTIVE = "degla.losses.Objective"

_OWN_KEYS = ("_target_", "terms", "local_loss", "gather")  # keys of ``Objective`` itself
# Keys of earlier releases that were not the weight of a term -> the term and its key.
_OLD_KEYS = {
    "tgc_scale": ("tgc", "scale"),
    "image_sees_negatives": ("contrastive", "negatives"),
    "num_negatives": ("cmr", "num_negatives"),
    "upper_bound": ("cmr", "upper_bound"),
}
# Constructors of earlier releases -> the terms of each, with the settings that differ from the term's own defaults.
_OLD_TARGETS: dict[str, dict[str, dict[str, Any]]] = {
    "degla.losses.DeGLAObjective": {
        "contrastive": {"negatives": "batch"},
        "igc": {"weight": 0.1},
        "tgc": {},
        "distill": {"weight": 1.28},
    },
    "degla.losses.ReleasedObjective": {
        "contrastive": {"negatives": "batch"},
        "igc": {"weight": 0.1},
        "tgc": {"_target_": "degla.losses.ReleasedTGC"},
        "distill": {"_target_": "degla.losses.ReleasedDistillation", "weight": 0.005},
    },
    "degla.losses.CEClipObjective": {"contrastive": {"negatives": "batch"}, "imc": {"weight": 0.3}, "cmr": {}},
}
# Keys that runs of earlier releases lack -> the value that those runs had.
_NEWER_KEYS = {"duplicates": "off", "reset_each_pass": False}
_ARGUMENT = re.compile(r"\+{0,2}objective(?:\.(\w+)=|=\{)", re.DOTALL)


def with_short_forms(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which Hydra takes the short forms of an objective's keys.

    The configs have no key ``objective.igc``, so ``objective.igc=0.5`` becomes ``++objective.igc=0.5``, which adds it,
    and ``current_objective`` gives it to the term. Keys of earlier releases, such as ``objective.tgc_scale``, and
    ``objective={igc: 0.5}`` are treated alike. A short form cannot become the long form here: it would have less
    priority than the same short form in an experiment file.

    Args:
        arguments: the command line.
    """
    return [f"++{argument.lstrip('+')}" if _is_short_form(argument) else argument for argument in arguments]


def _is_short_form(argument: str) -> bool:
    match = _ARGUMENT.match(argument)
    return match is not None and (match[1] is None or is_short_key(f"objective.{match[1]}"))


def is_short_key(key: str) -> bool:
    """Return whether a key is the short form of the weight of a term, or a key of earlier releases."""
    name = key.removeprefix("objective.")
    return name != key and (name in TERMS or name in _OLD_KEYS)


def write_out_terms(cfg: DictConfig) -> None:
    """Give the group ``objective`` of a composed config its long form, in place, if it is one of ours.

    Args:
        cfg: of any program.
    """
    node = cfg.get("objective")
    if isinstance(node, DictConfig) and is_objective(node.get("_target_")):
        settings: Any = OmegaConf.to_container(node, resolve=False)
        OmegaConf.update(cfg, "objective", current_objective(settings), merge=False)


def _negatives_seen(value: Any) -> Any:
    """Return what the key ``image_sees_negatives`` of earlier releases is called now."""
    return {"true": "batch", "false": "none"}.get(str(value).lower(), value)


def compared_objective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``current_objective`` without terms of weight 0, so that equal objectives have equal settings.

    Keys that earlier releases lack get the value of those releases; a key that only one of two runs has would not be
    compared.

    Args:
        settings: the node ``objective`` as plain values.
    """
    current = current_objective(settings)
    terms = current.get("terms")
    if current.get("_target_") != OBJECTIVE or not isinstance(terms, Mapping):
        return current
    active = {name: {**_NEWER_KEYS, **term} for name, term in terms.items() if term.get("weight") != 0}
    return {"local_loss": True, "gather": "exact", **current, "terms": active}


def short_key(key: str) -> str:
    """Return the short form of the key of a term's weight: ``objective.igc`` for ``objective.terms.igc.weight``."""
    return re.sub(r"^objective\.terms\.(\w+)\.weight$", r"objective.\1", key)


def is_objective(target: Any) -> bool:
    """Return whether a ``_target_`` is ``Objective`` or one of the objectives of earlier releases."""
    return target == OBJECTIVE or str(target) in _OLD_TARGETS


def current_objective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an objective in their long form, with a ``_target_`` for each term.

    A number in place of a term's settings is its weight, and null leaves the term out. A key that is not one of
    ``Objective`` is the weight of a term, as in short forms and in experiments of earlier releases; it has priority
    over ``terms``. The constructors of earlier releases become terms.

    Args:
        settings: the node ``objective`` as plain values. Another constructor's are returned unchanged.
    """
    target = settings.get("_target_")
    if not is_objective(target):
        return dict(settings)
    old = _OLD_TARGETS.get(str(target))
    terms: dict[str, dict[str, Any]] = {name: dict(target) for name, target in (old or {}).items()}
    for name, value in (settings.get("terms") or {}).items():
        terms[name] = dict(value) if isinstance(value, Mapping) else {"weight": 0 if value is None else value}
    unknown: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _OWN_KEYS:
            continue
        term, key = _OLD_KEYS.get(name, (name, "weight"))
        if key == "negatives":
            value = _negatives_seen(value)
        if name in TERMS or term in terms or (name in _OLD_KEYS and term in TERMS):
            # Another key than the weight does not add a term.
            terms.setdefault(term, {} if key == "weight" else {"weight": 0})[key] = value
        else:
            unknown[name] = value
    own = {name: settings[name] for name in ("local_loss", "gather") if name in settings}
    if target == "degla.losses.ReleasedObjective":
        own["local_loss"] = False
    targets = {name: {"_target_": TERMS[name]} if name in TERMS else {} for name in terms}
    return {
        "_target_": OBJECTIVE,
        "terms": {name: {**targets[name], **value} for name, value in terms.items()},
        **own,
        **unknown,
    }


def term_weights(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return name -> weight of the terms of an objective; records of all releases are read.

    Args:
        settings: the node ``objective`` as plain values.
    """
    terms = current_objective(settings).get("terms") or {}
    weights = {name: term.get("weight") for name, term in terms.items()}
    return {name: weight for name, weight in weights.items() if isinstance(weight, int | float)}
