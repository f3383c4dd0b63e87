"""Further columns of a scene: units with foils, paraphrases, a second caption, and the image of a hard negative."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from degla.data.scenes.captions import NUM_TEMPLATES, caption_of
from degla.data.scenes.claims import Claim, Noun, changed, holds, sample_claim
from degla.data.scenes.negatives import false_claims
from degla.data.scenes.scene import COLOURS, SHAPES, Scene, Thing, split_of
from degla.data.schema import Negative, Unit


class NegativeScene(NamedTuple):
    """A scene that differs in one respect, so that a hard negative is true of it and the caption false."""

    scene: Scene
    negative: Negative


def units_of(scene: Scene, claim: Claim, rng: random.Random) -> list[Unit]:
    """Return the things that a claim mentions and the scene has, each with a phrase for nothing in the scene.

    Args:
        scene: content of the image.
        claim: content of the caption.
        rng: draws the foils.
    """
    units = []
    for noun in claim.nouns:
        foils = [foil for foil in changed(noun, avoid=claim.nouns) if not _exists(foil, scene)]
        if _exists(noun, scene) and foils:
            units.append(Unit(*(caption_of(Claim("exists", (each,)), 0) for each in (noun, rng.choice(foils)))))
    return units


def paraphrases_of(claim: Claim, template: int) -> list[str]:
    """Return the other wordings of a claim.

    Args:
        claim: content of the caption.
        template: its wording.
    """
    return [caption_of(claim, other) for other in range(NUM_TEMPLATES) if other != template]


def second_caption(scene: Scene, caption: str, detail: float, rng: random.Random) -> str:
    """Return another true caption of a scene.

    Args:
        scene: content of the image.
        caption: that must not be returned.
        detail: probability that a noun mentions the size, and the same for the texture.
        rng: draws the claim and its wording.
    """
    while True:
        other = caption_of(sample_claim(scene, rng, detail=detail), rng.randrange(NUM_TEMPLATES))
        if other != caption:
            return other


def negative_scene(scene: Scene, claim: Claim, template: int, rng: random.Random) -> NegativeScene | None:
    """Return a scene of the same split of which the caption is false and one of its hard negatives true.

    Args:
        scene: content of the image.
        claim: content of the caption, true of ``scene``.
        template: wording of the caption, which the negative keeps.
        rng: draws the difference.

    Returns:
        None if no single difference makes such a scene.
    """
    variants = [Scene(scene.layout, things) for things in _variants(scene.things)]
    rng.shuffle(variants)
    negatives = [(kind, other) for kind, claims in false_claims(scene, claim).items() for other in claims]
    for variant in variants:
        if holds(claim, variant) or split_of(variant) != split_of(scene):
            continue
        for kind, other in negatives:
            if holds(other, variant):
                return NegativeScene(variant, Negative(caption_of(other, template), kind))
    return None


def _variants(things: tuple[Thing, ...]) -> Iterator[tuple[Thing, ...]]:
    """Yield things of which two have exchanged something, or one has another shape or colour, or one is missing."""
    is_group = len({(thing.shape, thing.colour) for thing in things}) < len(things)
    if is_group:
        yield from (things[:count] for count in range(1, len(things)))
        return
    for i, first in enumerate(things):
        for j, second in enumerate(things[:i]):
            for fields in (("shape",), ("colour", "texture"), ("x", "y", "depth")):
                one = first._replace(**{field: getattr(second, field) for field in fields})
                other = second._replace(**{field: getattr(first, field) for field in fields})
                yield tuple(one if k == i else other if k == j else thing for k, thing in enumerate(things))
        shapes = sorted(set(SHAPES) - {thing.shape for thing in things})
        colours = sorted(set(COLOURS) - {thing.colour for thing in things})
        changed_things = [first._replace(shape=shape) for shape in shapes]
        changed_things += [first._replace(colour=colour) for colour in colours]
        yield from ((*things[:i], thing, *things[i + 1 :]) for thing in changed_things)


def _exists(noun: Noun, scene: Scene) -> bool:
    return holds(Claim("exists", (noun,)), scene)
