"""Hard negatives of a scene: false captions that differ from a true one by one word or one exchange."""

import random

from degla.data.scenes.captions import caption_of
from degla.data.scenes.claims import OPPOSITE, RELATIONS, Claim, changed, holds
from degla.data.scenes.scene import Scene
from degla.data.schema import Negative

# Types beyond the paper's five.
EXTRA_TYPES = ("replace_relation", "change_count", "change_existence")
_MIN_NEGATIVES = 4  # per caption, the paper's K


def hard_negatives(scene: Scene, claim: Claim, template: int, rng: random.Random) -> list[Negative]:
    """Return one negative of each type that the claim allows, the paper's types first.

    Each negative except the shuffle is checked to be false of the scene. A shuffle only has to be another text; it
    may equal the text of a swap. If fewer than four types apply, more shuffles are added.

    Args:
        scene: content of the image.
        claim: content of the true caption.
        template: wording of the true caption, which the negatives keep.
        rng: draws among the false claims of a type.
    """
    caption = caption_of(claim, template)
    negatives = [Negative(shuffled(caption, {caption}, rng), "reshuffle_order")]
    for kind, candidates in false_claims(scene, claim).items():
        if candidates:
            negatives.append(Negative(caption_of(rng.choice(candidates), template), kind))
    while len(negatives) < _MIN_NEGATIVES:
        used = {caption, *(negative.text for negative in negatives)}
        negatives.append(Negative(shuffled(caption, used, rng), "reshuffle_order"))
    return negatives


def false_claims(scene: Scene, claim: Claim) -> dict[str, list[Claim]]:
    """Return type of negative -> all claims of that type that are false of the scene.

    Args:
        scene: content of the image.
        claim: content of the true caption.
    """
    kinds = {
        "swap_nouns": _swapped(claim, ("shape",)),
        "swap_adjectives": _swapped(claim, ("colour", "texture", "size")),
        "replace_adjectives": _replaced(claim, ("colour", "texture", "size")),
        "replace_nouns": _replaced(claim, ("shape",)),
        "replace_relation": other_relations(claim),
        "change_count": _other_counts(claim),
        "change_existence": [claim._replace(kind=_NEGATED[claim.kind])] if claim.kind in _NEGATED else [],
    }
    return {kind: [other for other in claims if not holds(other, scene)] for kind, claims in kinds.items()}


def shuffled(text: str, unlike: set[str], rng: random.Random) -> str:
    """Return the words of a text in another order.

    Args:
        text: the words.
        unlike: texts that must not be returned.
        rng: draws the order.
    """
    words = text.split()
    while (result := " ".join(rng.sample(words, len(words)))) in unlike:
        pass
    return result


def other_relations(claim: Claim) -> list[Claim]:
    """Return the claim with each other relation."""
    if claim.kind != "related":
        return []
    return [claim._replace(relation=name) for name in RELATIONS if name != claim.relation]


def opposite_relation(claim: Claim) -> list[Claim]:
    """Return the claim with the opposite relation, such as left for right."""
    return [claim._replace(relation=OPPOSITE[claim.relation])] if claim.relation in OPPOSITE else []


def exchanged(claim: Claim) -> list[Claim]:
    """Return the claim with its two noun phrases exchanged."""
    return [claim._replace(nouns=claim.nouns[::-1])] if len(claim.nouns) == 2 else []


_NEGATED = {"listed": "without", "without": "listed", "exists": "absent", "absent": "exists"}


def _swapped(claim: Claim, slots: tuple[str, ...]) -> list[Claim]:
    if len(claim.nouns) != 2:
        return []
    first, second = claim.nouns
    nouns = tuple(
        one._replace(**{slot: getattr(other, slot) for slot in slots})
        for one, other in ((first, second), (second, first))
    )
    return [claim._replace(nouns=nouns)] if nouns != claim.nouns else []


def _replaced(claim: Claim, slots: tuple[str, ...]) -> list[Claim]:
    return [
        claim._replace(nouns=(*claim.nouns[:i], noun, *claim.nouns[i + 1 :]))
        for i, old in enumerate(claim.nouns)
        for noun in changed(old, slots, avoid=claim.nouns)
    ]


def _other_counts(claim: Claim) -> list[Claim]:
    """Return the claim with another number: two, three or four for each other, "one" and "several" for each other."""
    if claim.kind == "several":
        return [claim._replace(kind="counted", number=1)]
    if claim.kind != "counted":
        return []
    if claim.number == 1:
        return [claim._replace(kind="several", number=0)]
    return [claim._replace(number=number) for number in (2, 3, 4) if number != claim.number]
