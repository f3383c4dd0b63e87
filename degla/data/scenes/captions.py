"""True captions of a scene, and the paper's five kinds of hard negatives."""

import random

from degla.data.scenes.scene import COLOURS, SHAPES, Claim, Scene, Thing, is_true
from degla.data.schema import Negative

TEMPLATES = (
    "a {first} {relation} a {second}",
    "there is a {first} {relation} a {second}",
    "a picture of a {first} {relation} a {second}",
)


def caption_of(claim: Claim, template: str) -> str:
    """Say ``claim`` in English."""
    return template.format(first=" ".join(claim.first), relation=claim.relation, second=" ".join(claim.second))


def hard_negatives(scene: Scene, claim: Claim, template: str, rng: random.Random) -> list[Negative]:
    """One negative of each kind; all but the shuffle are checked to be false of ``scene``.

    Args:
        scene: what is drawn.
        claim: the true caption's content.
        template: the true caption's template, used again.
        rng: draws replacements and the shuffle.

    Returns:
        Negatives in the order of ``NEGATIVE_TYPES``.
    """
    first, relation, second = claim
    words = caption_of(claim, template).split()
    shuffled = words[:]
    while shuffled == words:
        rng.shuffle(shuffled)
    new_colour = rng.choice([colour for colour in COLOURS if colour not in (first.colour, second.colour)])
    new_shape = rng.choice([shape for shape in SHAPES if shape not in (first.shape, second.shape)])
    false_claims = {
        "swap_nouns": Claim(first._replace(shape=second.shape), relation, second._replace(shape=first.shape)),
        "swap_adjectives": Claim(first._replace(colour=second.colour), relation, second._replace(colour=first.colour)),
        "replace_adjectives": _replace_one(claim, rng, colour=new_colour),
        "replace_nouns": _replace_one(claim, rng, shape=new_shape),
    }
    negatives = [Negative(" ".join(shuffled), "reshuffle_order")]
    for kind, false_claim in false_claims.items():
        if is_true(false_claim, scene):
            raise AssertionError(f"{kind} gave a true caption: {false_claim} of {scene}")
        negatives.append(Negative(caption_of(false_claim, template), kind))
    return negatives


def _replace_one(claim: Claim, rng: random.Random, **change: str) -> Claim:
    """Change one of the two things, either with equal chance."""
    side = rng.choice(["first", "second"])
    thing: Thing = getattr(claim, side)
    return claim._replace(**{side: thing._replace(**change)})
