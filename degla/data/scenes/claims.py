"""What can be said of a scene, and whether it is so."""

import itertools
import random
from typing import NamedTuple

from degla.data.scenes.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing

RELATIONS = ("left of", "right of", "above", "below", "inside")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
VALUES = {"size": tuple(SIZES), "texture": TEXTURES, "colour": COLOURS}  # of adjectives
DETAIL = 0.05  # chance that a size, or a texture, is spoken of
_CLEARLY = 0.2  # how much further left is "left of", as a share of the picture's width


class Noun(NamedTuple):
    """What a noun phrase says; an empty adjective is not said."""

    shape: str
    colour: str = ""
    texture: str = ""
    size: str = ""

    def fits(self, thing: Thing) -> bool:
        """Whether the phrase describes ``thing``."""
        return all(said in ("", getattr(thing, name)) for name, said in self._asdict().items())


class Claim(NamedTuple):
    """The content of a caption.

    kind       nouns  what it says
    related    2      the first stands in ``relation`` to the second
    listed     2, 3   there is each of them
    without    2      there is the first and none of the second
    counted    1      there are exactly ``count`` of it
    several    1      there are two or more of it
    exists     1      there is at least one of it
    absent     1      there is none of it
    """

    kind: str
    nouns: tuple[Noun, ...]
    relation: str = ""
    count: int = 0


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether ``claim`` is true of ``scene``."""
    found = [[thing for thing in scene.things if noun.fits(thing)] for noun in claim.nouns]
    match claim.kind:
        case "related":
            return any(_stands(a, claim.relation, b) for a in found[0] for b in found[1] if a is not b)
        case "listed":
            return any(len({id(thing) for thing in things}) == len(things) for things in itertools.product(*found))
        case "without":
            return bool(found[0]) and not found[1]
        case "counted":
            return len(found[0]) == claim.count
        case "several":
            return len(found[0]) > 1
        case "exists":
            return bool(found[0])
        case "absent":
            return not found[0]
    raise ValueError(f"no such kind of claim: {claim.kind}")


def sample_claim(scene: Scene, rng: random.Random, kind: str | None = None, detail: float = DETAIL) -> Claim:
    """A true claim about ``scene``.

    What is said and its opposite (``listed`` and ``without``, "one" and "several") come up equally often: a text
    alone must not tell what is false.

    Args:
        scene: of which the claim shall be true.
        rng: chooses what is said and how much of it.
        kind: one of those that suit the scene's layout; None draws one.
        detail: chance that a noun's size is spoken of, and the same for its texture.

    Raises:
        ValueError: nothing of this kind is said of such a scene.
    """
    kinds = _kinds(scene)
    kind = kind or rng.choice(kinds)
    if kind not in kinds:
        raise ValueError(f"a scene of layout {scene.layout!r} with {len(scene.things)} thing(s) has no {kind!r} claim")
    things = rng.sample(scene.things, len(scene.things))
    if kind == "related":
        first, second = things
        relation = next((name for name in RELATIONS if _stands(first, name, second)), None)
        if relation is None:  # the container came first: it is the content that is inside
            first, second, relation = second, first, "inside"
        colours = rng.random() < 0.85
        return Claim(kind, (_noun(first, rng, detail, colours), _noun(second, rng, detail, colours)), relation)
    noun = _noun(things[0], rng, detail)
    if kind == "listed":
        return Claim(kind, (noun, _noun(things[1], rng, detail)))
    if kind == "without":
        return Claim(kind, (noun, _missing(scene, rng, detail, unlike=noun)))
    if kind == "absent":  # close to what is there, so that one word decides
        missing = [other for other in changed(noun) if not holds(Claim("exists", (other,)), scene)]
        return Claim(kind, (rng.choice(missing),))
    return Claim(kind, (noun,), count=len(things) if kind == "counted" else 0)


def _kinds(scene: Scene) -> tuple[str, ...]:
    """What is said of such a scene; repeated names are drawn more often."""
    if scene.layout == "group":
        return ("counted",) if len(scene.things) == 1 else ("counted", "counted", "several")
    return {
        "pair": (*("related",) * 8, "listed", "without"),
        "inside": ("related",),
        "three": ("listed", "without"),
        "alone": ("exists", "absent"),
    }[scene.layout]


def changed(noun: Noun, slots: tuple[str, ...] = ("colour", "shape"), avoid: tuple[Noun, ...] = ()) -> list[Noun]:
    """All phrases that differ from ``noun`` in one of ``slots`` that it speaks of.

    Args:
        noun: the phrase.
        slots: fields that may change.
        avoid: phrases whose colours and shapes are not taken, so that things stay distinct.
    """
    results = []
    for slot in slots:
        if not getattr(noun, slot):
            continue
        # Sizes and textures may be shared, and there are but two of each.
        others = avoid if slot in ("colour", "shape") else ()
        taken = {getattr(other, slot) for other in (noun, *others)}
        values = SHAPES if slot == "shape" else VALUES[slot]
        results += [noun._replace(**{slot: value}) for value in values if value not in taken]
    return results


def _noun(thing: Thing, rng: random.Random, detail: float, colour: bool = True) -> Noun:
    """A phrase for ``thing`` with some of its adjectives."""
    texture = thing.texture if rng.random() < detail else ""
    size = thing.size if rng.random() < detail else ""
    return Noun(thing.shape, thing.colour if colour else "", texture, size)


def _missing(scene: Scene, rng: random.Random, detail: float, unlike: Noun) -> Noun:
    """A thing that is not there, of another shape and colour than ``unlike``."""
    while True:
        texture = rng.choice(TEXTURES) if rng.random() < detail else ""
        size = rng.choice(list(SIZES)) if rng.random() < detail else ""
        noun = Noun(rng.choice(SHAPES), rng.choice(COLOURS), texture, size)
        if noun.shape != unlike.shape and noun.colour != unlike.colour and not any(map(noun.fits, scene.things)):
            return noun


def _stands(first: Thing, relation: str, second: Thing) -> bool:
    right, down = first.x - second.x, first.y - second.y
    match relation:
        case "left of":
            return right < -_CLEARLY
        case "right of":
            return right > _CLEARLY
        case "above":
            return down < -_CLEARLY
        case "below":
            return down > _CLEARLY
        case "inside":
            return max(abs(right), abs(down)) < 0.1 and first.radius < second.radius
    raise ValueError(f"no such relation: {relation}")
