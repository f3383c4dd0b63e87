"""Claims about a scene, and whether they are true."""

import itertools
import random
from typing import NamedTuple

from degla.data.scenes.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing

OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}
RELATIONS = tuple(OPPOSITE)
VALUES = {"size": tuple(SIZES), "texture": TEXTURES, "colour": COLOURS}  # all adjectives by slot
DETAIL = 0.05  # probability that a caption mentions a thing's size, and the same for its texture
_MIN_OFFSET = 0.2  # smallest offset that counts as "left of", as a share of the image's width


class Noun(NamedTuple):
    """The words of a noun phrase; an empty adjective is not mentioned."""

    shape: str
    colour: str = ""
    texture: str = ""
    size: str = ""

    def fits(self, thing: Thing) -> bool:
        """Return whether the phrase describes ``thing``."""
        return all(word in ("", getattr(thing, slot)) for slot, word in self._asdict().items())


class Claim(NamedTuple):
    """The content of a caption.

    kind       nouns  meaning
    related    2      the first has the ``relation`` to the second
    listed     2, 3   the scene has all of them
    without    2      the scene has the first and none of the second
    counted    1      the scene has exactly ``number`` of it
    several    1      the scene has two or more of it
    exists     1      the scene has at least one of it
    absent     1      the scene has none of it
    """

    kind: str
    nouns: tuple[Noun, ...]
    relation: str = ""
    number: int = 0


def holds(claim: Claim, scene: Scene) -> bool:
    """Return whether a claim is true of a scene.

    Args:
        claim: the content of a caption.
        scene: the image's content.
    """
    matches = [[thing for thing in scene.things if noun.fits(thing)] for noun in claim.nouns]
    match claim.kind:
        case "related":
            return any(_has_relation(a, claim.relation, b) for a in matches[0] for b in matches[1] if a is not b)
        case "listed":
            return any(len({id(thing) for thing in things}) == len(things) for things in itertools.product(*matches))
        case "without":
            return bool(matches[0]) and not matches[1]
        case "counted":
            return len(matches[0]) == claim.number
        case "several":
            return len(matches[0]) > 1
        case "exists":
            return bool(matches[0])
        case "absent":
            return not matches[0]
    raise ValueError(f"no such kind of claim: {claim.kind}")


def sample_claim(scene: Scene, rng: random.Random, kind: str | None = None, detail: float = DETAIL) -> Claim:
    """Draw a true claim about a scene.

    A claim and its opposite (``listed`` and ``without``, "one" and "several") are equally frequent, so that the text
    alone does not show which caption is false.

    Args:
        scene: the claim is true of it.
        rng: draws the kind, the things and the adjectives.
        kind: one that the scene's layout allows; None draws one.
        detail: probability that a noun mentions the size, and the same for the texture.

    Raises:
        ValueError: the scene's layout does not allow this kind.
    """
    kinds = _kinds(scene)
    kind = kind or rng.choice(kinds)
    if kind not in kinds:
        raise ValueError(f"a scene of layout {scene.layout!r} with {len(scene.things)} thing(s) has no {kind!r} claim")
    things = rng.sample(scene.things, len(scene.things))
    if kind == "related":
        first, second = things
        relation = next(name for name in RELATIONS if _has_relation(first, name, second))
        colours = rng.random() < 0.85
        return Claim(kind, (_noun(first, rng, detail, colours), _noun(second, rng, detail, colours)), relation)
    noun = _noun(things[0], rng, detail)
    if kind == "listed":
        return Claim(kind, (noun, _noun(things[1], rng, detail)))
    if kind == "without":
        return Claim(kind, (noun, _missing(scene, rng, detail, unlike=noun)))
    if kind == "absent":  # similar to an existing thing, so that one word decides
        missing = [other for other in changed(noun) if not holds(Claim("exists", (other,)), scene)]
        return Claim(kind, (rng.choice(missing),))
    return Claim(kind, (noun,), number=len(things) if kind == "counted" else 0)


def _kinds(scene: Scene) -> tuple[str, ...]:
    """Return the kinds that a scene allows; repeated names are drawn more often."""
    if scene.layout == "group":
        return ("counted",) if len(scene.things) == 1 else ("counted", "counted", "several")
    return {
        "pair": (*("related",) * 8, "listed", "without"),
        "overlap": ("related",),
        "three": ("listed", "without"),
        "alone": ("exists", "absent"),
    }[scene.layout]


def changed(noun: Noun, slots: tuple[str, ...] = ("colour", "shape"), avoid: tuple[Noun, ...] = ()) -> list[Noun]:
    """Return all phrases that differ from ``noun`` in one of ``slots`` that it mentions.

    Args:
        noun: the phrase.
        slots: fields that may change.
        avoid: phrases whose colours and shapes are not used, so that things stay distinct.
    """
    results = []
    for slot in slots:
        if not getattr(noun, slot):
            continue
        # Several things may share a size or a texture: there are few of each.
        others = avoid if slot in ("colour", "shape") else ()
        taken = {getattr(other, slot) for other in (noun, *others)}
        values = SHAPES if slot == "shape" else VALUES[slot]
        results += [noun._replace(**{slot: value}) for value in values if value not in taken]
    return results


def _noun(thing: Thing, rng: random.Random, detail: float, colour: bool = True) -> Noun:
    """Return a phrase for ``thing`` with some of its adjectives."""
    texture = thing.texture if rng.random() < detail else ""
    size = thing.size if rng.random() < detail else ""
    return Noun(thing.shape, thing.colour if colour else "", texture, size)


def _missing(scene: Scene, rng: random.Random, detail: float, unlike: Noun) -> Noun:
    """Return a phrase for nothing in the scene, of another shape and colour than ``unlike``."""
    while True:
        texture = rng.choice(TEXTURES) if rng.random() < detail else ""
        size = rng.choice(list(SIZES)) if rng.random() < detail else ""
        noun = Noun(rng.choice(SHAPES), rng.choice(COLOURS), texture, size)
        if noun.shape != unlike.shape and noun.colour != unlike.colour and not any(map(noun.fits, scene.things)):
            return noun


def _has_relation(first: Thing, relation: str, second: Thing) -> bool:
    dx, dy = first.x - second.x, first.y - second.y
    match relation:
        case "left of":
            return dx < -_MIN_OFFSET
        case "right of":
            return dx > _MIN_OFFSET
        case "above":
            return dy < -_MIN_OFFSET
        case "below":
            return dy > _MIN_OFFSET
        case "in front of":
            return first.depth > second.depth
        case "behind":
            return first.depth < second.depth
    raise ValueError(f"no such relation: {relation}")
