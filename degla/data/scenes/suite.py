"""A benchmark on scenes: those sub-tasks of SugarCrepe, ARO and VALSE that can be drawn."""

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
    """The recipe of a sub-task's items: kinds of true claims, and a function that returns candidate foils."""

    layouts: tuple[str, ...]
    kinds: tuple[str, ...]  # of claims, drawn with equal chance
    foils: Callable[[Scene, Claim], list[Claim]]


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
    rng = random.Random(f"{benchmark} {subset} {split}")
    count = 0
    while count < num_items:
        kind = recipe.kinds[count % len(recipe.kinds)]
        scene = sample_scene(rng, rng.choice(recipe.layouts), split)
        try:
            claim = sample_claim(scene, rng, kind)
        except ValueError:  # the scene does not allow it, such as "several" of a group of one
            continue
        if (subset == "plurality" and claim.number > 1) or (subset == "counting" and claim.number < 2):
            continue
        template = rng.randrange(NUM_TEMPLATES)
        caption = caption_of(claim, template)
        if subset == "order":
            foils = _perturbed(caption, rng)
        else:
            candidates = [foil for foil in recipe.foils(scene, claim) if not holds(foil, scene)]
            foils = [caption_of(rng.choice(candidates), template)] if candidates else []
        if foils:
            group = claim.relation if subset == "relation" else "_".join(noun.colour for noun in claim.nouns)
            yield SuiteItem(png_bytes(scene, rng, size), caption, tuple(foils), group)
            count += 1


def _of_kind(kind: str) -> Callable[[Scene, Claim], list[Claim]]:
    return lambda scene, claim: false_claims(scene, claim)[kind]


def _one_more_thing(scene: Scene, claim: Claim) -> list[Claim]:
    """Return the list with one more thing, which the scene does not have."""
    shapes = [shape for shape in SHAPES if shape not in {noun.shape for noun in claim.nouns}]
    colours = [colour for colour in COLOURS if colour not in {noun.colour for noun in claim.nouns}]
    more = [Noun(shape, colour) for shape in shapes for colour in colours]
    return [claim._replace(nouns=(*claim.nouns, noun)) for noun in more if not holds(Claim("exists", (noun,)), scene)]


def _one_more_adjective(scene: Scene, claim: Claim) -> list[Claim]:
    return [
        claim._replace(nouns=(*claim.nouns[:i], noun._replace(**{slot: value}), *claim.nouns[i + 1 :]))
        for i, noun in enumerate(claim.nouns)
        for slot, values in (("size", tuple(SIZES)), ("texture", TEXTURES))
        for value in values
        if not getattr(noun, slot)
    ]


_RELATED = ("pair", "pair", "pair", "pair", "inside")  # so that all five relations are equally frequent

SUBSETS: dict[str, dict[str, Subset]] = {
    "sugarcrepe": {
        "replace_obj": Subset(_RELATED, ("related",), _of_kind("replace_nouns")),
        "replace_att": Subset(_RELATED, ("related",), _of_kind("replace_adjectives")),
        "replace_rel": Subset(_RELATED, ("related",), _of_kind("replace_relation")),
        "swap_obj": Subset(_RELATED, ("related",), _of_kind("swap_nouns")),
        "swap_att": Subset(_RELATED, ("related",), _of_kind("swap_adjectives")),
        "add_obj": Subset(("pair", "three"), ("listed",), _one_more_thing),
        "add_att": Subset(("pair",), ("related",), _one_more_adjective),
    },
    "aro": {
        "relation": Subset(_RELATED, ("related",), lambda scene, claim: exchanged(claim)),
        "attribution": Subset(("pair", "three"), ("listed",), _of_kind("swap_adjectives")),
        "order": Subset(_RELATED, ("related",), lambda scene, claim: []),
    },
    "valse": {
        "existence": Subset(("alone",), ("exists", "absent"), _of_kind("change_existence")),
        "plurality": Subset(("group",), ("counted", "several"), _of_kind("change_count")),
        "counting": Subset(("group",), ("counted",), _of_kind("change_count")),
        "spatial": Subset(("pair",), ("related",), lambda scene, claim: opposite_relation(claim)),
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
