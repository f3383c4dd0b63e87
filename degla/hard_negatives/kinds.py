"""The kinds of texts that are written: the paper's five of hard negatives (section 3.1), two more, two companions."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from degla.data.schema import NEGATIVE_TYPES
from degla.errors import ConfigError


class Kind(NamedTuple):
    """The difference between a negative of this kind and its caption."""

    change: Literal["order", "swap", "replace"]
    word_class: str  # the class of the words that change: noun, adjective, relation, number; "" for any


_PAPER_KINDS = (
    Kind("order", ""),
    Kind("swap", "noun"),
    Kind("swap", "adjective"),
    Kind("replace", "adjective"),
    Kind("replace", "noun"),
)

KINDS = dict(zip(NEGATIVE_TYPES, _PAPER_KINDS, strict=True)) | {
    "replace_relation": Kind("replace", "relation"),
    "change_count": Kind("replace", "number"),
}

COMPANION_KINDS = ("unit_foil", "paraphrase")  # no negatives of the caption: ``degla.hard_negatives.companions``
ALL_KINDS = (*KINDS, *COMPANION_KINDS)

MAX_PER_KIND = 64  # negatives of one kind, and texts that are read from one answer


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds that do not exist, and those that are named twice.

    Raises:
        ConfigError: there is one.
    """
    if unknown := [kind for kind in kinds if kind not in ALL_KINDS]:
        raise ConfigError(f"kinds: there is no kind {unknown[0]}; choose among {', '.join(ALL_KINDS)}")
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"kinds={list(kinds)} names a kind twice; name each once")
