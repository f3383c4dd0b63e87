"""The words of the built-in world, and byte-pair merges with which the small model reads each word as one token.

``python -m degla.data.scenes.words <file.bpe.gz>`` writes the merges.
"""

import gzip
import itertools
import sys
from collections import Counter
from pathlib import Path

from degla.data.scenes.captions import NUMBERS, TEMPLATES, plural_of
from degla.data.scenes.claims import RELATIONS
from degla.data.scenes.general import GENERAL_TASKS
from degla.data.scenes.scene import COLOURS, HELD_OUT_LETTERS, HELD_OUT_SHAPES, SHAPES, SIZES, TEXTURES


def vocabulary() -> list[str]:
    """Return every word of the captions and prompts of the built-in world, sorted."""
    shapes = (*SHAPES, *HELD_OUT_SHAPES, *HELD_OUT_LETTERS)
    texts = [template for templates in TEMPLATES.values() for template in templates]
    texts += [*RELATIONS, *shapes, *map(plural_of, shapes), *COLOURS, *SIZES, *TEXTURES, *NUMBERS.values(), "are", "an"]
    for task in GENERAL_TASKS.values():
        texts += [*task.classes, *task.templates]
    return sorted({word for text in texts for word in text.split() if "{" not in word})


def byte_pair_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges (Sennrich et al. 2016) that turn every word into one token.

    The notation is that of OpenAI's CLIP: ``</w>`` marks the end of a word. Other text can still be read, in more
    tokens.
    """
    parts = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for word in parts for pair in itertools.pairwise(word)):
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        parts = [_merged(word, best) for word in parts]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in word:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def write_merges(path: Path) -> None:
    """Write the merges in the format of open_clip's ``SimpleTokenizer``."""
    lines = ["#version: built-in world", *(" ".join(pair) for pair in byte_pair_merges(vocabulary()))]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


if __name__ == "__main__":
    write_merges(Path(sys.argv[1]))
