"""Compare the loss, forward and backward, with the full matrices and masks of the released code.

    python benchmarks/loss.py                      # N = 4096, K = 4, D = 512
    python benchmarks/loss.py --rows 32768 --ours-only

Both run in the same process, in turns.
"""

import argparse
import json
import os
import subprocess
import sys

import torch
from baseline import released_loss
from floors import synchronised
from memory import peak_bytes
from record import save, spread

from degla.cli.compose import compose_config
from degla.losses import Features, igc_loss, tgc_loss
from degla.training.build import build_objective

OBJECTIVE = build_objective(compose_config("train", {"objective": "degla_released"}).objective)


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="N, the global batch")
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours-only", action="store_true", help="for batches that the baseline cannot hold")
    parser.add_argument("--memory-of", choices=["ours", "baseline"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = (features(arguments.rows, arguments, device, seed) for seed in (0, 1))
    steps = {"ours": lambda: ours(student, teacher)}
    if not arguments.ours_only:
        steps["baseline"] = lambda: baseline(student, teacher)
    if arguments.memory_of:
        print(json.dumps(peak_bytes(steps[arguments.memory_of], device)))
        return
    times: dict[str, list[float]] = {side: [] for side in steps}
    values = {}
    for _ in range(1 + arguments.repeats):
        for side, step in steps.items():
            start = synchronised(device)
            values[side] = step()
            times[side].append(synchronised(device) - start)
    memory = {side: _memory_alone(side) for side in steps}
    figures = {**{side: spread(seconds[1:]) for side, seconds in times.items()}, "peak_bytes": memory}
    if not arguments.ours_only:
        pairs = zip(times["ours"][1:], times["baseline"][1:], strict=True)
        figures |= {
            "ratio": spread([b / a for a, b in pairs]),
            "memory_ratio": memory["baseline"] / memory["ours"],
            "relative_difference": abs(values["ours"] - values["baseline"]) / abs(values["baseline"]),
        }
    figures["local_terms_seconds_by_rows"] = {
        rows: local_terms(rows, arguments, device) for rows in (1024, 2048, 4096, 8192, 16384)
    }
    settings = {key: value for key, value in vars(arguments).items() if key != "memory_of"}
    name = "loss" if not arguments.ours_only else f"loss_{arguments.rows}"
    save(name if device.type == "cpu" else f"{name}_gpu", settings, figures)


def features(rows: int, arguments: argparse.Namespace, device: torch.device, seed: int) -> Features:
    """Return random unit-norm features; those of seed 0 require a gradient, as a student's do.

    Args:
        rows: N.
        arguments: command line, for K and D.
        device: device of the features.
        seed: seed of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.nn.functional.normalize(torch.randn(*shape, arguments.dim, generator=generator), dim=-1)
        for shape in ((rows,), (rows,), (rows, arguments.num_negatives))
    ]
    mask = torch.ones(rows, arguments.num_negatives, dtype=torch.bool, device=device)
    image, text, negatives = (part.to(device).requires_grad_(seed == 0) for part in parts)
    return Features(image=image, text=text, negatives=negatives, negative_mask=mask, logit_scale=torch.tensor(100.0))


def ours(student: Features, teacher: Features) -> float:
    """Return the value of our objective; compute its gradients and discard them."""
    total = OBJECTIVE(student, teacher).total
    torch.autograd.grad(total, student[:3])
    return total.item()


def baseline(student: Features, teacher: Features) -> float:
    """Return the value of ``baseline.released_loss``; compute its gradients and discard them."""
    texts, teacher_texts = (torch.cat([f.text, f.negatives.flatten(0, 1)]) for f in (student, teacher))
    total = released_loss(student.image, texts, student.logit_scale, teacher.image, teacher_texts)
    torch.autograd.grad(total, student[:3])
    return total.item()


def local_terms(rows: int, arguments: argparse.Namespace, device: torch.device) -> float:
    """Measure the median seconds of IGC plus TGC, forward and backward, for ``rows`` samples."""
    student, teacher = (features(rows, arguments, device, seed) for seed in (0, 1))
    times = []
    for _ in range(2 + 2 * arguments.repeats):
        start = synchronised(device)
        igc = igc_loss(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives,
            negative_mask=student.negative_mask,
            logit_scale=student.logit_scale,
        )
        tgc = tgc_loss(
            text_features=student.text,
            teacher_text_features=teacher.text,
            negative_features=student.negatives,
            negative_mask=student.negative_mask,
        )
        loss = igc + tgc
        torch.autograd.grad(loss, student[:3])
        times.append(synchronised(device) - start)
    return spread(times[2:])["median"]


def _memory_alone(side: str) -> int:
    """Measure one side in its own process, where malloc returns freed memory to the system."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, *sys.argv, "--memory-of", side]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


if __name__ == "__main__":
    main()
