"""A benchmark on scenes: those sub-tasks of SugarCrepe, ARO and VALSE that can be drawn."""

import functools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from degla.data.scenes.captions import NUM_TEMPLATES, caption_of, plural_of
from degla.data.scenes.claims import Claim, Noun, holds, sample_claim
from degla.data.scenes.draw import png_bytes
from degla.data.scenes.negatives import exchanged, false_claims, opposite_relation
from degla.data.scenes.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, sample_scene


class SuiteItem(NamedTuple):
    """One image, its true caption, and its foils: one, or four in the subset ``order``."""

    image_bytes: bytes
    caption: str
    foils: tuple[str, ...]
    group: str  # the relation or the pair of colours; ARO averages over groups


class Subset(NamedTuple):
    """The recipe of a sub-task's items.

    With ``longer``, caption and foil both extend a claim: the caption by something true, the foil by something false.
    So the longer text is not the false one.
    """

    layouts: tuple[str, ...]
    kinds: tuple[str, ...]  # of claims, in turn
    foils: Callable[[Scene, Claim], list[Claim]] | None = None  # candidates, of which the true ones are left out
    longer: Callable[[Claim, random.Random], list[Claim]] | None = None


def suite_items(benchmark: str, subset: str, split: str, num_items: int, size: int = 48) -> Iterator[SuiteItem]:
    """Yield the items of one sub-task; deterministic.

    Args:
        benchmark: ``sugarcrepe``, ``aro`` or ``valse``.
        subset: a key of ``SUBSETS[benchmark]``.
        split: ``validation`` or ``test``; no scene is in two splits.
        num_items: number of items.
        size: width and height in pixels.
    """
    recipe = SUBSETS[benchmark][subset]
    found, number = 0, 0
    while found < num_items:
        scene = _scene(recipe.layouts, split, number)
        rng = random.Random(f"{benchmark} {subset} {split} {number}")
        item = _texts(subset, scene, recipe, recipe.kinds[found % len(recipe.kinds)], rng)
        if item is not None:
            yield SuiteItem(_image(recipe.layouts, split, number, size), *item)
            found += 1
        number += 1


@functools.lru_cache(maxsize=16384)
def _scene(layouts: tuple[str, ...], split: str, number: int) -> Scene:
    """Return the scene of that number: sub-tasks of the same layouts share their scenes, as SugarCrepe's do."""
    rng = random.Random(f"{layouts} {split} {number}")
    return sample_scene(rng, layouts[number % len(layouts)], split)


@functools.lru_cache(maxsize=16384)  # 2 kB each
def _image(layouts: tuple[str, ...], split: str, number: int, size: int) -> bytes:
    return png_bytes(_scene(layouts, split, number), random.Random(f"image {layouts} {split} {number}"), size)


def _texts(
    subset: str, scene: Scene, recipe: Subset, kind: str, rng: random.Random
) -> tuple[str, tuple[str, ...], str] | None:
    """Return caption, foils and group of an item, or None if the scene does not allow one."""
    try:
        claim = sample_claim(scene, rng, kind)
    except ValueError:  # such as "several" of a group of one
        return None
    if (subset == "plurality" and claim.number > 1) or (subset == "counting" and claim.number < 2):
        return None
    template = rng.randrange(NUM_TEMPLATES)
    candidates = recipe.foils(scene, claim) if recipe.foils else []
    if recipe.longer:
        candidates = recipe.longer(claim, rng)
        if not (true := [other for other in candidates if holds(other, scene)]):
            return None
        claim = rng.choice(true)
    foils = [other for other in candidates if not holds(other, scene)]
    caption = caption_of(claim, template)
    texts = (
        _perturbed(caption, rng) if subset == "order" else [caption_of(rng.choice(foils), template)] if foils else []
    )
    group = claim.relation if subset == "relation" else "_".join(noun.colour for noun in claim.nouns)
    return (caption, tuple(texts), group) if texts else None


def _of_kind(kind: str) -> Callable[[Scene, Claim], list[Claim]]:
    return lambda scene, claim: false_claims(scene, claim)[kind]


def _one_more_thing(claim: Claim, rng: random.Random) -> list[Claim]:
    shapes = [shape for shape in SHAPES if shape not in {noun.shape for noun in claim.nouns}]
    colours = [colour for colour in COLOURS if colour not in {noun.colour for noun in claim.nouns}]
    return [claim._replace(nouns=(*claim.nouns, Noun(shape, colour))) for shape in shapes for colour in colours]


def _one_more_adjective(claim: Claim, rng: random.Random) -> list[Claim]:
    slot, values = rng.choice([("size", tuple(SIZES)), ("texture", TEXTURES)])
    return [
        claim._replace(nouns=(*claim.nouns[:i], noun._replace(**{slot: value}), *claim.nouns[i + 1 :]))
        for i, noun in enumerate(claim.nouns)
        for value in values
        if not getattr(noun, slot)
    ]


_RELATED = ("pair", "pair", "overlap")  # so that all six relations are equally frequent

SUBSETS: dict[str, dict[str, Subset]] = {
    "sugarcrepe": {
        "replace_obj": Subset(_RELATED, ("related",), _of_kind("replace_nouns")),
        "replace_att": Subset(_RELATED, ("related",), _of_kind("replace_adjectives")),
        "replace_rel": Subset(_RELATED, ("related",), _of_kind("replace_relation")),
        "swap_obj": Subset(_RELATED, ("related",), _of_kind("swap_nouns")),
        "swap_att": Subset(_RELATED, ("related",), _of_kind("swap_adjectives")),
        "add_obj": Subset(("three",), ("listed",), longer=_one_more_thing),
        "add_att": Subset(_RELATED, ("related",), longer=_one_more_adjective),
    },
    "aro": {
        "relation": Subset(_RELATED, ("related",), lambda scene, claim: exchanged(claim)),
        "attribution": Subset(("three",), ("listed",), _of_kind("swap_adjectives")),
        "order": Subset(_RELATED, ("related",)),
    },
    "valse": {
        "existence": Subset(("alone",), ("exists", "absent"), _of_kind("change_existence")),
        "plurality": Subset(("group",), ("counted", "several"), _of_kind("change_count")),
        "counting": Subset(("group",), ("counted",), _of_kind("change_count")),
        "spatial": Subset(_RELATED, ("related",), lambda scene, claim: opposite_relation(claim)),
    },
}


def _perturbed(caption: str, rng: random.Random) -> list[str]:
    """Return ARO's four word-order perturbations (Yuksekgonul et al. 2023, section 2), or none if two are equal."""
    words = caption.split()
    nouns = {*SHAPES, *map(plural_of, SHAPES)}
    adjectives = {*COLOURS, *SIZES, *TEXTURES}
    classes = ["noun" if word in nouns else "adjective" if word in adjectives else "other" for word in words]
    trigrams = [words[i : i + 3] for i in range(0, len(words), 3)]
    for _ in range(20):  # a random permutation may change nothing
        foils = [
            _permuted(_permuted(words, classes, "noun", rng), classes, "adjective", rng),
            _permuted(words, classes, "other", rng),
            [word for trigram in trigrams for word in rng.sample(trigram, len(trigram))],
            [word for trigram in rng.sample(trigrams, len(trigrams)) for word in trigram],
        ]
        texts = [" ".join(foil) for foil in foils]
        if caption not in texts and len(set(texts)) == len(texts):
            return texts
    return []


def _permuted(words: list[str], classes: list[str], which: str, rng: random.Random) -> list[str]:
    """Permute the words of one class; all other words keep their positions."""
    members = [word for word, kind in zip(words, classes, strict=True) if kind == which]
    replacement = iter(rng.sample(members, len(members)))
    return [next(replacement) if kind == which else word for word, kind in zip(words, classes, strict=True)]
