"""The built-in scenes as a source: real PNG files in a memory-mapped table, made once for each seed."""

import random
from collections.abc import Iterator

from degla.data.scenes import Claim, caption_of, hard_negatives, png_bytes, sample_scene
from degla.data.scenes.captions import TEMPLATES
from degla.data.sources.table import RowTable, build_table, table_record


def scenes(
    num_scenes: int = 4000,
    seed: int = 0,
    image_size: int = 64,
    id_prefix: str = "scene",
    cache_dir: str | None = None,
) -> RowTable:
    """Drawn scenes with one caption and one hard negative of each of the paper's five kinds.

    Args:
        num_scenes: rows.
        seed: same seed, same bytes.
        image_size: pixels of a side.
        id_prefix: rows are called ``<id_prefix>-<seed>:<number>``.
        cache_dir: where the memory-mapped table is kept.
    """
    return build_table(
        _records,
        cache_dir=cache_dir,
        num_scenes=num_scenes,
        seed=seed,
        image_size=image_size,
        prefix=id_prefix,
    )


def _records(num_scenes: int, seed: int, image_size: int, prefix: str) -> Iterator[dict]:
    rng = random.Random(seed)
    for number in range(num_scenes):
        scene = sample_scene(rng)
        claim = Claim(scene.first, scene.relation, scene.second)
        template = rng.choice(TEMPLATES)
        negatives = [negative._asdict() for negative in hard_negatives(scene, claim, template, rng)]
        image = png_bytes(scene, rng, image_size)
        yield table_record(f"{prefix}-{seed}:{number}", image, caption_of(claim, template), negatives)
