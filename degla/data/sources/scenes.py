"""The built-in world as sources: PNG images in a memory-mapped table, made once for each set of arguments."""

import random
from collections.abc import Iterator
from typing import Annotated

from degla.bounds import SEED, bounded, one_of, share, some_of, whole
from degla.data.extra_columns import ExtraColumns
from degla.data.scenes import (
    LAYOUTS,
    SPLITS,
    Claim,
    Scene,
    caption_of,
    hard_negatives,
    png_bytes,
    sample_claim,
    sample_scene,
)
from degla.data.scenes.captions import NUM_TEMPLATES
from degla.data.scenes.claims import DETAIL
from degla.data.scenes.further import negative_scene, paraphrases_of, second_caption, units_of
from degla.data.scenes.general import sample_general
from degla.data.scenes.scene import HELD_OUT_LETTERS, HELD_OUT_SHAPES, SHAPES
from degla.data.schema import StoredImage
from degla.data.sources.records import Record
from degla.data.sources.table import SampleTable, build_table, table_record

# Six of ten scenes have two things in a relation, because word order matters there.
_LAYOUTS = ("pair",) * 4 + ("overlap", "overlap", "three", "three", "group", "alone")
_ALL_SHAPES = (*SHAPES, *HELD_OUT_SHAPES, *HELD_OUT_LETTERS)

_WORLD = 2  # part of a table's identity; raise it when the same arguments give other samples

_IMAGE_SIZE = whole(8, 4096)  # below 8 pixels a stripe has no height


@bounded("data")
def scenes(
    num_scenes: Annotated[int, whole(1)] = 20000,
    split: Annotated[str, one_of(SPLITS)] = "train",
    layouts: Annotated[list[str], some_of(LAYOUTS)] | None = None,
    detail: Annotated[float, share()] = DETAIL,
    further_columns: bool = False,
    seed: Annotated[int, SEED] = 0,
    image_size: Annotated[int, _IMAGE_SIZE] = 48,
    cache_dir: str | None = None,
) -> SampleTable:
    """Draw scenes, each with one caption and its typed hard negatives.

    Args:
        num_scenes: number of samples.
        split: ``train``, ``validation`` or ``test``; they share no scene.
        layouts: some of ``degla.data.scenes.LAYOUTS``, equally frequent; None uses all, four of ten ``pair``.
        detail: probability that a caption mentions a thing's size, and the same for its texture.
        further_columns: add units with foils, paraphrases, a second caption, and an image of a hard negative, which
            is then the first one. Scenes and captions stay the same.
        seed: the same seed gives the same bytes.
        image_size: width and height in pixels.
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: a setting is out of range.
    """
    return build_table(
        _scenes_with_further_columns if further_columns else _scenes,
        cache_dir=cache_dir,
        num_scenes=num_scenes,
        split=split,
        layouts=tuple(layouts or _LAYOUTS),
        detail=detail,
        world=_WORLD,
        seed=seed,
        image_size=image_size,
    )


@bounded("data")
def scenes_and_general(
    num_rows: Annotated[int, whole(1)] = 64000,
    general_fraction: Annotated[float, share()] = 0.55,
    detail: Annotated[float, share()] = 0.25,
    seed: Annotated[int, SEED] = 0,
    image_size: Annotated[int, _IMAGE_SIZE] = 48,
    cache_dir: str | None = None,
) -> SampleTable:
    """Mix training scenes with digits, letters, textures, colours and further shapes; captions without negatives.

    Half of the scenes also have the shapes and letters that fine-tuning never shows.

    Args:
        num_rows: number of samples.
        general_fraction: share of samples that are not scenes.
        detail: probability that a caption mentions a thing's size, and the same for its texture.
        seed: the same seed gives the same bytes.
        image_size: width and height in pixels.
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: a setting is out of range.
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
) -> Iterator[Record]:
    rng = random.Random(f"{split} {seed}")
    for number in range(num_scenes):
        scene, claim, template = _sample(rng, split, layouts, detail)
        negatives = [negative._asdict() for negative in hard_negatives(scene, claim, template, rng)]
        image = png_bytes(scene, rng, image_size)
        yield table_record(f"scenes-{split}-{seed}:{number}", image, caption_of(claim, template), negatives)


def _scenes_with_further_columns(
    num_scenes: int, split: str, layouts: tuple[str, ...], detail: float, world: int, seed: int, image_size: int
) -> Iterator[Record]:
    rng = random.Random(f"{split} {seed}")
    for number in range(num_scenes):
        scene, claim, template = _sample(rng, split, layouts, detail)
        negatives = hard_negatives(scene, claim, template, rng)
        image, caption = png_bytes(scene, rng, image_size), caption_of(claim, template)
        own_rng = random.Random(f"further {split} {seed} {number}")  # so that scenes and captions stay the same
        other = negative_scene(scene, claim, template, own_rng)
        extra = ExtraColumns(
            captions=[second_caption(scene, caption, detail, own_rng)],
            units=units_of(scene, claim, own_rng),
            paraphrases=paraphrases_of(claim, template),
            negative_images=[] if other is None else [StoredImage(png_bytes(other.scene, own_rng, image_size), None)],
        )
        if other is not None:
            negatives = [other.negative, *(negative for negative in negatives if negative.text != other.negative.text)]
        row_id = f"scenes-{split}-{seed}:{number}"
        yield table_record(row_id, image, caption, [negative._asdict() for negative in negatives], extra=extra)


def _mixture(
    num_rows: int, general_fraction: float, detail: float, world: int, seed: int, image_size: int
) -> Iterator[Record]:
    rng = random.Random(f"mixture {seed}")
    for number in range(num_rows):
        if rng.random() < general_fraction:
            image, caption = sample_general(rng, image_size)
        else:
            shapes = SHAPES if rng.random() < 0.5 else _ALL_SHAPES
            scene, claim, template = _sample(rng, "train", _LAYOUTS, detail, shapes)
            image, caption = png_bytes(scene, rng, image_size), caption_of(claim, template)
        yield table_record(f"mixture-{seed}:{number}", image, caption)


def _sample(
    rng: random.Random, split: str, layouts: tuple[str, ...], detail: float, shapes: tuple[str, ...] = SHAPES
) -> tuple[Scene, Claim, int]:
    scene = sample_scene(rng, rng.choice(layouts), split, shapes)
    return scene, sample_claim(scene, rng, detail=detail), rng.randrange(NUM_TEMPLATES)
