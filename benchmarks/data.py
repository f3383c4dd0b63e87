"""Compare the input pipeline with open_clip's transform and one tokenizer call per caption.

    python benchmarks/data.py --data <folder with negatives.jsonl and images/>

Both run in the same process, in turns.
"""

import argparse
import json
import time
from pathlib import Path

import open_clip
import torch
from open_clip.transform import AugmentationCfg, image_transform
from PIL import Image
from record import save, spread
from torch.utils.data import DataLoader, Dataset

from degla.data import images
from degla.data.datamodule import DataModule
from degla.data.sources import folder
from degla.models import load_clip


class PlainRows(Dataset):
    """Samples as the released loader reads them: open_clip's transform, each text tokenised when it is read."""

    def __init__(self, data: Path, num_negatives: int, size: int, scale: tuple[float, float]):
        self.rows = [json.loads(line) for line in (data / "negatives.jsonl").read_text().splitlines()]
        self.images = data / "images"
        self.num_negatives = num_negatives
        self.transform = image_transform(size, is_train=True, aug_cfg=AugmentationCfg(scale=scale))
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        row = self.rows[index]
        image = self.transform(Image.open(self.images / row["image"]))
        texts = [negative["text"] for negative in row["negatives"]][: self.num_negatives]
        texts += [""] * (self.num_negatives - len(texts))
        return image, self.tokenize([row["caption"]])[0], torch.stack([self.tokenize([text])[0] for text in texts])


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with negatives.jsonl and images/")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40, help="timed, after the workers' first two")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-torchcodec", action="store_true", help="decode with Pillow")
    arguments = parser.parse_args()
    if arguments.without_torchcodec:
        images.decode_jpeg = None
    model = load_clip("ViT-B-32", quick_gelu=True)
    plain = DataLoader(
        PlainRows(arguments.data, arguments.num_negatives, 224, (0.9, 1.0)),
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.num_workers,
    )
    ours = DataModule(
        folder(str(arguments.data), "negatives.jsonl", "images"),
        model.tokenizer,
        model.image_size,
        model.preprocess,
        global_batch_size=arguments.batch_size,
        num_negatives=arguments.num_negatives,
        num_workers=arguments.num_workers,
    ).train_dataloader()
    rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
    for _ in range(arguments.repeats):
        for name, loader in (("open_clip", plain), ("ours", ours)):
            rates[name].append(_images_per_second(loader, arguments.batches, arguments.batch_size))
    pairs = zip(rates["ours"], rates["open_clip"], strict=True)
    figures = {
        **{f"{name}_images_per_second": spread(values) for name, values in rates.items()},
        "ratio": spread([a / b for a, b in pairs]),
        "decoder": "torchcodec" if images.decode_jpeg else "pillow",
    }
    settings = {key: value for key, value in vars(arguments).items() if key != "data"}
    save("data_pillow" if arguments.without_torchcodec else "data", settings, figures)


def _images_per_second(loader: DataLoader, batches: int, batch_size: int) -> float:
    running = iter(loader)
    for _ in range(2):
        next(running)
    start = time.perf_counter()
    for _ in range(batches):
        next(running)
    return batches * batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
