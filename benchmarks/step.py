"""Compare one training step with a plain implementation of the released step.

    python benchmarks/step.py --data <folder with negatives.jsonl and images/>
    python benchmarks/step.py --data ... --precision bf16-mixed --batch-size 256 --compile     # on a GPU

Both start from the same weights, take the same batches in turns and use the released objective. Their losses have to
agree; the record holds the largest difference.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from baseline import ReleasedStep
from floors import counted_flops, floors, step_bytes, synchronised
from memory import peak_bytes, resident_bytes
from record import save, spread
from workload import batches

from degla.cli.compose import compose_config
from degla.data.batch import Batch
from degla.models import ClipModel, Teacher, load_clip
from degla.training.build import build_objective
from degla.training.module import DeGLAModule
from degla.training.optim import adamw, constant

_DTYPES = {"32": None, "bf16-mixed": torch.bfloat16}


class OurStep:
    """The module of a training run and its optimizer, called as the Trainer calls them."""

    def __init__(self, student: ClipModel, lr: float, device: torch.device, dtype: torch.dtype | None, compiled: bool):
        self.device, self.dtype = device, dtype
        teacher = Teacher(student, decay=0.9996)
        if compiled:
            student.compile_blocks()
            teacher.model.compile_blocks()
        objective = build_objective(compose_config("train", {"objective": "degla_released"}).objective)
        self.module = DeGLAModule(student, objective, teacher, adamw, partial(constant, total_steps=1))
        self.module.to(device)
        self.optimizer = adamw(student, lr=lr)
        self.optimizer.register_step_post_hook(self.module._after_optimizer_step)

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.module.compute_losses(batch).total
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with negatives.jsonl and images/")
    parser.add_argument(
        "--model", default="ViT-B-32", help="architecture; the weights are random, which does not change the speed"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps of each side after the warm-up")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--precision", choices=_DTYPES, default="32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print a profile of one of our steps")
    parser.add_argument("--memory-of", choices=["ours", "baseline"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.memory_of:
        print(json.dumps(_memory(arguments, device)))
        return
    memory = {side: _memory_alone(side) for side in ("baseline", "ours")}
    student = _student(arguments.model)
    work = _prepared(arguments, student, arguments.warm_up + arguments.steps, device)
    released = _baseline(arguments, student, device)
    ours = OurStep(student, arguments.lr, device, _DTYPES[arguments.precision], arguments.compile)
    times: dict[str, list[float]] = {"baseline": [], "ours": []}
    losses: dict[str, list[float]] = {"baseline": [], "ours": []}
    for batch, plain in work:
        for side, step in (("baseline", partial(released, *plain)), ("ours", partial(ours, batch))):
            start = synchronised(device)
            loss = step()
            times[side].append(synchronised(device) - start)
            losses[side].append(loss.item())
    measured = {side: seconds[arguments.warm_up :] for side, seconds in times.items()}
    batch, plain = work[-1]
    figures = {
        "ours": spread(measured["ours"]),
        "baseline": spread(measured["baseline"]),
        "ratio": spread([b / a for a, b in zip(measured["ours"], measured["baseline"], strict=True)]),
        "images_per_second": arguments.batch_size / spread(measured["ours"])["median"],
        "largest_relative_difference_of_losses": max(
            abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["baseline"], strict=True)
        ),
        "losses": losses,
        "memory": memory,
        "memory_ratio": {key: memory["baseline"][key] / memory["ours"][key] for key in memory["ours"]},
        "text_states": {"baseline": plain[1].numel() + plain[2].numel(), "ours": len(batch.chunks[0].packed.tokens)},
        "baseline_flops": counted_flops(partial(released, *plain)),
    }
    if not arguments.compile:  # the counter does not count inside compiled code
        figures["floors"] = floors(
            counted_flops(partial(ours, batch)),
            step_bytes(ours.module.student),
            device,
            _DTYPES[arguments.precision] or torch.float32,
            spread(measured["ours"])["median"],
        )
    if arguments.profile:
        _profile(partial(ours, batch), device)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("data", "memory_of", "profile")}
    name = "step" if device.type == "cpu" else f"step_{arguments.precision}_{arguments.batch_size}"
    save(name + ("_compiled" if arguments.compile else ""), settings, figures)


def _student(model: str) -> ClipModel:
    torch.manual_seed(0)
    return load_clip(model, quick_gelu=True)


def _baseline(arguments: argparse.Namespace, student: ClipModel, device: torch.device) -> ReleasedStep:
    dtype = _DTYPES[arguments.precision]
    return ReleasedStep(arguments.model, student.clip.state_dict(), True, arguments.lr, device, dtype)


def _prepared(arguments: argparse.Namespace, student: ClipModel, count: int, device: torch.device) -> list:
    """Return batches on the device, each in the form of our step and in that of the baseline."""
    work = []
    for batch in batches(arguments.data, student, arguments.batch_size, arguments.num_negatives, count):
        images = (batch.images.float() - student.pixel_mean) / student.pixel_std
        missing = student.clip.context_length - batch.captions.shape[1]
        captions, negatives = (F.pad(tokens, (0, missing)) for tokens in (batch.captions, batch.negatives))
        plain = [part.to(device) for part in (images, captions, negatives)]
        chunks = [chunk._replace(packed=chunk.packed.to(device)) for chunk in batch.chunks]
        tensors = {key: getattr(batch, key).to(device) for key in ("images", "captions", "negatives", "negative_mask")}
        work.append((batch._replace(chunks=chunks, **tensors), plain))
    return work


def _memory_alone(side: str) -> dict[str, int]:
    """Measure one side in its own process, where malloc returns freed memory to the system."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, *sys.argv, "--memory-of", side]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def _memory(arguments: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Return the peak bytes of one side.

    ``step`` is the peak of a step above the memory between steps; ``all`` is the peak in total.
    """
    empty = resident_bytes(device)
    student = _student(arguments.model)
    (batch, plain), *_ = _prepared(arguments, student, 1, device)
    side: OurStep | ReleasedStep
    if arguments.memory_of == "ours":
        side = OurStep(student, arguments.lr, device, _DTYPES[arguments.precision], arguments.compile)
        step = partial(side, batch)
    else:
        side = _baseline(arguments, student, device)
        step = partial(side, *plain)
        del student
    for _ in range(2):  # the first step creates the optimizer state
        step()
    side.optimizer.zero_grad()
    between = resident_bytes(device)
    taken = peak_bytes(step, device)
    return {"step": taken, "all": between - empty + taken}


def _profile(step: Callable[[], object], device: torch.device) -> None:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as recorded:
        step()
        synchronised(device)
    key = f"self_{device.type}_time_total"
    print(recorded.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=60), file=sys.stderr)


if __name__ == "__main__":
    main()
