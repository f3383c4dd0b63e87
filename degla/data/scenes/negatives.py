"""Captions that are false of a scene, one word or one exchange away from a true one."""

import random

from degla.data.scenes.captions import caption_of
from degla.data.scenes.claims import OPPOSITE, RELATIONS, Claim, changed, holds
from degla.data.scenes.scene import Scene
from degla.data.schema import Negative

# Kinds beyond the paper's five.
EXTRA_TYPES = ("replace_relation", "change_count", "change_existence")
_AT_LEAST = 4  # negatives of every caption: the K of the paper


def hard_negatives(scene: Scene, claim: Claim, template: int, rng: random.Random) -> list[Negative]:
    """One negative of each kind that the claim allows, the paper's kinds first.

    Each but the shuffle is checked to be false of the scene; a shuffle is only another text, which may happen to
    be that of a swap. Where fewer than four kinds fit, further shuffles fill up.

    Args:
        scene: what is drawn.
        claim: the true caption's content.
        template: the true caption's wording, used again.
        rng: draws among what is false.
    """
    caption = caption_of(claim, template)
    negatives = [Negative(shuffled(caption, {caption}, rng), "reshuffle_order")]
    for kind, candidates in false_claims(scene, claim).items():
        if candidates:
            negatives.append(Negative(caption_of(rng.choice(candidates), template), kind))
    while len(negatives) < _AT_LEAST:
        used = {caption, *(negative.text for negative in negatives)}
        negatives.append(Negative(shuffled(caption, used, rng), "reshuffle_order"))
    return negatives


def false_claims(scene: Scene, claim: Claim) -> dict[str, list[Claim]]:
    """Kind of negative -> all claims of that kind that are false of ``scene``."""
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
    """The words of ``text`` in an order that gives none of ``unlike``."""
    words = text.split()
    while (result := " ".join(rng.sample(words, len(words)))) in unlike:
        pass
    return result


def other_relations(claim: Claim) -> list[Claim]:
    """The claim with each other relation; sizes are never spoken of together with ``inside``."""
    if claim.kind != "related":
        return []
    sized = any(noun.size for noun in claim.nouns)
    names = [name for name in RELATIONS if name != claim.relation and not (sized and name == "inside")]
    return [claim._replace(relation=name) for name in names]


def opposite_relation(claim: Claim) -> list[Claim]:
    """The claim the other way round: left for right, above for below."""
    return [claim._replace(relation=OPPOSITE[claim.relation])] if claim.relation in OPPOSITE else []


def exchanged(claim: Claim) -> list[Claim]:
    """The claim with its two things exchanged whole."""
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
    """Two, three and four for one another; "one" and "several" for one another."""
    if claim.kind == "several":
        return [claim._replace(kind="counted", count=1)]
    if claim.kind != "counted":
        return []
    if claim.count == 1:
        return [claim._replace(kind="several", count=0)]
    return [claim._replace(count=count) for count in (2, 3, 4) if count != claim.count]
