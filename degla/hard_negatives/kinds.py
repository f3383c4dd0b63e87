"""The kinds of negatives: the paper's five (section 3.1) and two more."""

from typing import Literal, NamedTuple

from degla.data.schema import NEGATIVE_TYPES


class Kind(NamedTuple):
    """What a negative of this kind does to its caption."""

    change: Literal["order", "swap", "replace"]
    word_class: str  # whose words change: noun, adjective, relation, number; "" for any


KINDS = dict(
    zip(
        NEGATIVE_TYPES,
        (
            Kind("order", ""),
            Kind("swap", "noun"),
            Kind("swap", "adjective"),
            Kind("replace", "adjective"),
            Kind("replace", "noun"),
        ),
        strict=True,
    )
) | {"replace_relation": Kind("replace", "relation"), "change_count": Kind("replace", "number")}
