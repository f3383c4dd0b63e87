"""The built-in world as sources: real PNG files in a memory-mapped table, made once for each set of arguments."""

import random
from collections.abc import Iterator

from degla.data.scenes import Claim, Scene, caption_of, hard_negatives, png_bytes, sample_claim, sample_scene
from degla.data.scenes.captions import NUM_TEMPLATES
from degla.data.scenes.claims import DETAIL
from degla.data.scenes.general import sample_general
from degla.data.sources.table import SampleTable, build_table, table_record

# Of ten scenes five show two things side by side or one above the other, which is where word order matters.
_LAYOUTS = ("pair",) * 4 + ("inside", "three", "group", "group", "alone", "pair")

_WORLD = 1  # part of a table's identity: raise it when the same arguments come to give other rows


def scenes(
    num_scenes: int = 20000,
    split: str = "train",
    layouts: list[str] | None = None,
    detail: float = DETAIL,
    seed: int = 0,
    image_size: int = 48,
    cache_dir: str | None = None,
) -> SampleTable:
    """Drawn scenes, each with one caption and its typed hard negatives.

    Args:
        num_scenes: rows.
        split: ``train``, ``validation`` or ``test``; they share no scene.
        layouts: of ``degla.data.scenes.LAYOUTS``, drawn with equal chance; None takes all, half of them ``pair``.
        detail: chance that a thing's size is spoken of, and the same for its texture.
        seed: same seed, same bytes.
        image_size: pixels of a side.
        cache_dir: where the memory-mapped table is kept.
    """
    return build_table(
        _scenes,
        cache_dir=cache_dir,
        num_scenes=num_scenes,
        split=split,
        layouts=tuple(layouts or _LAYOUTS),
        detail=detail,
        world=_WORLD,
        seed=seed,
        image_size=image_size,
    )


def scenes_and_general(
    num_rows: int = 64000,
    general_fraction: float = 0.55,
    detail: float = 0.25,
    seed: int = 0,
    image_size: int = 48,
    cache_dir: str | None = None,
) -> SampleTable:
    """Training scenes mixed with digits, letters, textures, colours and further shapes; captions only.

    Args:
        num_rows: rows.
        general_fraction: share of rows that are no scenes.
        detail: chance that a thing's size is spoken of, and the same for its texture.
        seed: same seed, same bytes.
        image_size: pixels of a side.
        cache_dir: where the memory-mapped table is kept.
    """
    return build_table(
        _mixture,
        cache_dir=cache_dir,
        num_rows=num_rows,
        general_fraction=general_fraction,
        detail=detail,
        world=_WORLD,
        seed=seed,
        image_size=image_size,
    )


def _scenes(
    num_scenes: int, split: str, layouts: tuple[str, ...], detail: float, world: int, seed: int, image_size: int
) -> Iterator[dict]:
    rng = random.Random(f"{split} {seed}")
    for number in range(num_scenes):
        scene, claim, template = _sample(rng, split, layouts, detail)
        negatives = [negative._asdict() for negative in hard_negatives(scene, claim, template, rng)]
        image = png_bytes(scene, rng, image_size)
        yield table_record(f"scenes-{split}-{seed}:{number}", image, caption_of(claim, template), negatives)


def _mixture(
    num_rows: int, general_fraction: float, detail: float, world: int, seed: int, image_size: int
) -> Iterator[dict]:
    rng = random.Random(f"mixture {seed}")
    for number in range(num_rows):
        if rng.random() < general_fraction:
            image, caption = sample_general(rng, image_size)
        else:
            scene, claim, template = _sample(rng, "train", _LAYOUTS, detail)
            image, caption = png_bytes(scene, rng, image_size), caption_of(claim, template)
        yield table_record(f"mixture-{seed}:{number}", image, caption)


def _sample(rng: random.Random, split: str, layouts: tuple[str, ...], detail: float) -> tuple[Scene, Claim, int]:
    scene = sample_scene(rng, rng.choice(layouts), split)
    return scene, sample_claim(scene, rng, detail=detail), rng.randrange(NUM_TEMPLATES)
