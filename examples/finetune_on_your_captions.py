"""Fine-tune a model on a folder of images with captions and hard negatives.

Run this file as a script, ``python examples/finetune_on_your_captions.py``, or cell by cell in an editor that reads
``# %%``. It needs no download: it draws 64 images and starts from the small model that comes with the package. For your
own images, set ``folder`` to yours and ``model="ViT-B-32/openai"``.
"""

# %%
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

import degla

# %% [markdown]
# ## A folder of captions
#
# One file, here JSON lines, with an image, a caption and its hard negatives in each line. `docs/data.md` has the other
# formats; `degla-negatives input=captions.csv` writes the negatives for captions that have none.

# %%
folder = Path("shapes")
folder.mkdir(exist_ok=True)
COLOURS = ["red", "blue", "green", "yellow"]


def draw(path: Path, left: str, right: str) -> None:
    """Draw a circle to the left of a square."""
    image = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((8, 30, 44, 66), fill=left)
    pen.rectangle((52, 30, 88, 66), fill=right)
    image.save(path)


rng = random.Random(0)
with (folder / "captions.jsonl").open("w") as file:
    for number in range(64):
        left, right = rng.sample(COLOURS, 2)
        draw(folder / f"{number}.png", left, right)
        sample = {
            "image": f"{number}.png",
            "caption": f"a {left} circle left of a {right} square",
            "negatives": [
                {"text": f"a {left} square left of a {right} circle", "type": "swap_nouns"},
                {"text": f"a {right} circle left of a {left} square", "type": "swap_adjectives"},
            ],
        }
        file.write(json.dumps(sample) + "\n")

# %% [markdown]
# ## Fine-tune
#
# `experiment="small"` is the recipe for few images. Every key of `configs/train.yaml` can be given as well, by name or
# as a mapping.

# %%
run = degla.finetune(
    folder,
    experiment="small",
    model="scenes",
    objective="degla",
    optimizer={"lr": 2.5e-4},  # a rate for the small model; leave it out for ViT-B/32
    loader={"global_batch_size": 16, "num_workers": 0},
    trainer={"max_steps": 24, "val_check_interval": 3, "log_every_n_steps": 1},
)
print("folder       ", run.folder)
print("report       ", run.report)
history = run.history["val/caption_choice"]
print("caption choice", " -> ".join(f"{history[step]:.2f}" for step in (min(history), max(history))))

# %% [markdown]
# ## Use the model
#
# `run.model` is what `degla.load(run.folder)` returns. The same weights are in `<run>/model` for open_clip.

# %%
captions = ["a red circle left of a blue square", "a blue circle left of a red square"]
draw(Path("new.png"), "red", "blue")
scores = run.model.score("new.png", captions)
for caption, score in zip(captions, scores[0].tolist(), strict=True):
    print(f"{score:.3f}  {caption}")
