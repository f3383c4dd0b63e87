"""Load batches of real captions, negatives and photos as a training run does."""

import json
import tempfile
from pathlib import Path

from degla.data.batch import Batch
from degla.data.datamodule import DataModule
from degla.data.sources import folder
from degla.models import ClipModel


def batches(data: Path, model: ClipModel, batch_size: int, num_negatives: int, count: int) -> list[Batch]:
    """Return batches of samples that have at least ``num_negatives`` negatives, from the project's own loader.

    Args:
        data: folder with ``negatives.jsonl`` (``image, caption, negatives``) and ``images/``.
        model: gives the tokenizer and the image size.
        batch_size: samples in a batch.
        num_negatives: K.
        count: number of batches; samples repeat if there are too few.
    """
    lines = (data / "negatives.jsonl").read_text(encoding="utf-8").splitlines()
    enough = [line for line in lines if len(json.loads(line)["negatives"]) >= num_negatives]
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "rows.jsonl").write_text("\n".join(enough), encoding="utf-8")
        (Path(temporary) / "images").symlink_to((data / "images").resolve())
        loaders = DataModule(
            folder(temporary, image_root="images", cache_dir=temporary),
            model.tokenizer,
            model.image_size,
            model.preprocess,
            global_batch_size=batch_size,
            epochs=-(-count * batch_size // len(enough)) + 1,
            num_negatives=num_negatives,
            num_workers=0,
        )
        return [batch for batch, _ in zip(loaders.train_dataloader(), range(count), strict=False)]
