"""Compare one pass over SugarCrepe's distinct images and captions with a loop over pairs.

The loop is what the released scripts do. Both answer the same items with the same weights in the same run, in turns,
and the answers have to agree.

    python benchmarks/evaluation.py --annotations ../shared/data/sugarcrepe --images 60
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import save, spread

from degla.evaluation import Encoder, FeatureStore, run_benchmarks
from degla.evaluation.tasks.sugarcrepe import SugarCrepe
from degla.models import load_clip


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="folder of SugarCrepe's seven JSON files")
    parser.add_argument(
        "--model", default="ViT-B-32", help="architecture; its weights are random, which takes the same time"
    )
    parser.add_argument("--images", type=int, default=60, help="number of the 1560 images, each with all its pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = _subset(arguments.annotations, Path(folder), arguments.images)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        model = load_clip(arguments.model).eval().to(device)
        encoder = Encoder(model, arguments.batch_size)
        encoder.fingerprint()  # hashes the weights once, before the timing
        _pair_by_pair(encoder, task, 8)  # warm-up
        one_pass, pair_by_pair = [], []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            answers = _in_one_pass(encoder, task)
            one_pass.append(time.perf_counter() - start)
            start = time.perf_counter()
            expected = _pair_by_pair(encoder, task)
            pair_by_pair.append(time.perf_counter() - start)
            agree = sum(a == b for a, b in zip(answers, expected, strict=True))
    save(
        "evaluation",
        {
            "model": arguments.model,
            "pairs": len(task.choices),
            "images": arguments.images,
            "captions": len(set(task.list_texts())),
            "batch_size": arguments.batch_size,
        },
        {
            "one_pass": spread(one_pass),
            "pair_by_pair": spread(pair_by_pair),
            "ratio": spread([b / a for a, b in zip(one_pass, pair_by_pair, strict=True)]),
            "answers_that_agree": agree / len(task.choices),
        },
    )


def _subset(annotations: Path, folder: Path, count: int) -> SugarCrepe:
    """Write the pairs of the first images, and noise of the size of a COCO image in place of each."""
    items = {path.name: json.loads(path.read_text()) for path in sorted(annotations.glob("*.json"))}
    names = sorted({item["filename"] for file in items.values() for item in file.values()})[:count]
    (folder / "annotations").mkdir()
    for file, content in items.items():
        kept = {key: item for key, item in content.items() if item["filename"] in names}
        (folder / "annotations" / file).write_text(json.dumps(kept))
    (folder / "images").mkdir()
    noise = np.random.default_rng(0)
    for name in names:
        small = Image.fromarray(noise.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480)).save(folder / "images" / name)
    return SugarCrepe(annotations=str(folder / "annotations"), images=str(folder / "images"))


def _in_one_pass(encoder: Encoder, task: SugarCrepe) -> list[bool]:
    """Answer in one pass, without a cache, so that every repeat encodes everything."""
    return [
        outcome.correct
        for outcome in run_benchmarks({"sugarcrepe": task}, FeatureStore(encoder, progress=False))[
            "sugarcrepe"
        ].outcomes
    ]


@torch.inference_mode()
def _pair_by_pair(encoder: Encoder, task: SugarCrepe, limit: int | None = None) -> list[bool]:
    """Answer as the released scripts do: one image and two captions of 77 positions at a time."""
    model = encoder.model
    device = next(model.parameters()).device
    answers = []
    for choice in task.choices[:limit]:
        image = model.encode_image(encoder.transform(choice.image.load())[None].to(device))
        text = model.encode_text(model.tokenizer.tokenize(list(choice.captions)).to(device))
        correct, wrong = (image @ text.T)[0].tolist()
        answers.append(correct > wrong)
    return answers


if __name__ == "__main__":
    main()
