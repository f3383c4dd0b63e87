"""The kinds of hard negatives: the paper's five (section 3.1) and two more."""

from typing import Literal, NamedTuple

from degla.data.schema import NEGATIVE_TYPES


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
