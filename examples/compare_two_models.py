"""Compare a base model with a fine-tuned one on a benchmark.

Run this file as a script, ``python examples/compare_two_models.py``, or cell by cell in an editor that reads ``# %%``.
It needs no download: the benchmark is the built-in one. With SugarCrepe on disk, set ``benchmark="sugarcrepe"`` and
``BASE = "ViT-B-32/openai"``.
"""

# %%
import degla

BASE = "scenes"  # an option of configs/model, a folder, a checkpoint, or an open_clip name with its tag
SETTINGS = {"benchmark.scenes.num_items": 25, "num_workers": 0}

# %% [markdown]
# ## The base model

# %%
base = degla.evaluate(BASE, "scenes", label="base", **SETTINGS)
print(base)

# %% [markdown]
# ## A fine-tuned model
#
# Here a short run on drawn scenes. Any folder of a run or of a model does.

# %%
run = degla.finetune(
    {"option": "scenes", "num_scenes": 400},
    model=BASE,
    objective="degla",
    optimizer={"lr": 5e-4},
    loader={"global_batch_size": 32, "num_workers": 0, "negatives": "random", "epochs": 3},
    scheduler={"warmup_steps": 3},
)

# %% [markdown]
# ## Both side by side
#
# `compare` puts the base model first in the report, with the changes, their intervals and, in `explorer.html`, the
# items on which the models disagree.

# %%
tuned = degla.evaluate(run, "scenes", compare=[base], label="fine-tuned", **SETTINGS)
print(f"{'sub-task':<28} {'base':>6} {'tuned':>6} {'change':>7}")
for name, accuracy in tuned.accuracy.items():
    before = base.accuracy[name]
    print(f"{name:<28} {100 * before:6.1f} {100 * accuracy:6.1f} {100 * (accuracy - before):+7.1f}")
print("report  ", tuned.report)
print("explorer", tuned.folder / "explorer.html")

# %% [markdown]
# With 25 items a sub-task, a difference of one item is 4 points. The intervals in `base.interval` say how much of a
# change is noise.
