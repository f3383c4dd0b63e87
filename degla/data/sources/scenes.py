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
    shuffle_words: bool = False,
    cache_dir: str | None = None,
) -> RowTable:
    """Drawn scenes with one caption and one hard negative of each of the paper's five kinds.

    Args:
        num_scenes: rows.
        seed: same seed, same bytes.
        image_size: pixels of a side.
        shuffle_words: put the words of each caption in a random order, so that a model trained on them can
            only learn which words there are; what `make demo` starts from.
        cache_dir: where the memory-mapped table is kept.
    """
    return build_table(
        _records,
        cache_dir=cache_dir,
        num_scenes=num_scenes,
        seed=seed,
        image_size=image_size,
        shuffle_words=shuffle_words,
    )


def _records(num_scenes: int, seed: int, image_size: int, shuffle_words: bool) -> Iterator[dict]:
    rng = random.Random(seed)
    for number in range(num_scenes):
        scene = sample_scene(rng)
        claim = Claim(scene.first, scene.relation, scene.second)
        template = rng.choice(TEMPLATES)
        negatives = [negative._asdict() for negative in hard_negatives(scene, claim, template, rng)]
        image = png_bytes(scene, rng, image_size)
        caption = caption_of(claim, template)
        if shuffle_words:
            caption = " ".join(rng.sample(caption.split(), len(caption.split())))
        yield table_record(f"scene-{seed}:{number}", image, caption, negatives)
