"""Compare the memory plan of a run with the allocations of real steps.

    python benchmarks/memory_plan.py                             # ViT-B/32 with random weights, on a CPU
    python benchmarks/memory_plan.py --model tiny --batch-sizes 16 64
    python benchmarks/memory_plan.py --recipes --data <folder with negatives.jsonl>     # the table of docs/memory.md

A step runs in the order of Lightning's: forward pass, gradients freed, backward pass, optimizer. The peak counts the
weights, the teacher and the optimizer's state. On a CPU torch's profiler sees every call of the allocator; on a GPU the
allocator itself records its peak.
"""

import argparse
import tempfile
from typing import Any

import torch
from record import save
from torch.profiler import ProfilerActivity, profile

from degla.cli.compose import compose_config
from degla.data.batch import Batch
from degla.models import Teacher
from degla.models.adapters import Lora
from degla.training.build import Run, build
from degla.training.memory import AUTOCAST_DTYPES
from degla.training.memory_run import plan_run, run_settings

# Setting -> the changes to ``StepSettings``, and to the student.
_RECIPES: dict[str, tuple[dict[str, Any], Any]] = {
    "": ({}, None),
    "precision=bf16-mixed": ({"precision": "bf16-mixed"}, None),
    "precision=bf16-mixed model.grad_checkpointing=true": (
        {"precision": "bf16-mixed"},
        lambda model: model.clip.set_grad_checkpointing(True),
    ),
    "precision=bf16-mixed loader.chunk_size=64": ({"precision": "bf16-mixed", "chunk_size": 64}, None),
    "precision=bf16-mixed loader.chunk_size=16": ({"precision": "bf16-mixed", "chunk_size": 16}, None),
    "precision=bf16-mixed loader.chunk_size=16 model.unlocked_image_groups=0": (
        {"precision": "bf16-mixed", "chunk_size": 16},
        lambda model: model.clip.visual.requires_grad_(False),
    ),
}
_LORA = "precision=bf16-mixed loader.chunk_size=16 adapter=lora"
_CASES: tuple[dict[str, Any], ...] = (  # batch size is the largest of --batch-sizes unless it is varied
    {},
    {"loader.num_negatives": 1},
    {"loader.chunk_size": 4},
    {"precision": "bf16-mixed"},
    {"model.grad_checkpointing": True},
    {"model.unlocked_image_groups": 0, "teacher": "frozen"},
)


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_b_32", help="option of configs/model; the weights are random")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--recipes", action="store_true", help="plan batches of 256 on a GPU; nothing is measured")
    parser.add_argument("--models", nargs="+", default=["vit_b_32", "vit_b_16", "vit_l_14"], help="of --recipes")
    parser.add_argument("--data", help="folder of the captions of --recipes")
    arguments = parser.parse_args()
    if arguments.recipes:
        _plan_recipes(arguments.models, arguments.data)
        return
    largest = max(arguments.batch_sizes)
    cases = [{"loader.global_batch_size": size} for size in sorted(arguments.batch_sizes) if size != largest]
    cases += [{"loader.global_batch_size": largest, **case} for case in _CASES]
    name = "memory_plan" if arguments.model == "vit_b_32" else f"memory_plan_{arguments.model}"
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(_compare(arguments.model, case))
        worst = max(abs(row["planned"] / row["measured"] - 1) for row in rows)
        save(name, {"model": arguments.model, "data": "scenes"}, {"cases": rows, "largest_relative_error": worst})


def _plan_recipes(models: list[str], data: str) -> None:
    """Save the plans of the paper's batch on a GPU."""
    rows: list[dict[str, Any]] = []
    source = {"data": "folder", "data.path": data, "data.annotations": "negatives.jsonl", "data.image_root": "images"}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            run = _build(model, {"loader.global_batch_size": 256, **source}, folder)
            settings = run_settings(run.datamodule, run.trainer, torch.device("cuda"))
            plans = {
                name: plan_run(run.module, run.datamodule, settings._replace(**changes), adjust)
                for name, (changes, adjust) in _RECIPES.items()
            }
            Lora().attach(run.module.student)
            run.module.teacher = Teacher(run.module.student, decay=0.9996)
            changed = settings._replace(precision="bf16-mixed", chunk_size=16)
            plans[_LORA] = plan_run(run.module, run.datamodule, changed)
        rows += [
            {"model": model, "settings": name, **plan._asdict(), "planned": plan.total} for name, plan in plans.items()
        ]
        del run
        save("memory_recipes", {"data": "Flickr8k, 4 negatives a caption", "batch": 256}, {"cases": rows})


def _compare(model: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return the plan and the peak of one case, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        run = _build(model, case, folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plan = plan_run(run.module, run.datamodule, run_settings(run.datamodule, run.trainer, device))
        run.module.to(device)
        batch = next(iter(run.datamodule.train_dataloader())).to(device)
        dtype = AUTOCAST_DTYPES.get(case.get("precision", "32"))
        measured = _measure(run, batch, dtype, device)
    print(case, plan.total / 1e9, measured / 1e9, flush=True)
    return {"settings": case, **plan._asdict(), "planned": plan.total, "measured": measured}


def _build(model: str, case: dict[str, Any], folder: str) -> Run:
    fixed = {
        **({} if "data" in case else {"data": "scenes", "data.num_scenes": 64}),
        "model": model,
        "model.pretrained": None,
        "loader.num_workers": 0,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 3,
        "run_dir": folder,
    }
    return build(compose_config("train", fixed | case))


def _measure(run: Run, batch: Batch, dtype: torch.dtype | None, device: torch.device) -> int:
    """Return the peak of the second and third step."""
    optimizer = run.module.make_optimizer(run.module.student)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = run.module.compute_losses(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()  # the profiler does not see that memory is freed that was allocated before it started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(), step()
        return torch.cuda.max_memory_allocated(device)
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = {id(tensor): tensor for tensor in (*run.module.parameters(), *run.module.buffers(), *states)}
    before = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step(), step()
    now = peak = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return before + peak


if __name__ == "__main__":
    main()
