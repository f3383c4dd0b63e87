"""Measure how the time of a step grows with samples, negatives, caption length and gloo processes.

    python benchmarks/scaling.py                       # the tiny model
    python benchmarks/scaling.py --model ViT-B-32

Captions are random words, because only their length matters here.
"""

import argparse
import random
import socket
import statistics
from collections.abc import MutableSequence
from functools import partial

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from floors import synchronised
from record import save

from degla.cli.compose import compose_config
from degla.data.batch import Batch, Chunk
from degla.models import ClipModel, Teacher, load_clip
from degla.training.build import build_objective
from degla.training.module import DeGLAModule
from degla.training.optim import adamw, constant

_WORDS = ["dog", "cat", "man", "woman", "red", "blue", "small", "ball", "table", "water", "sits", "runs", "near", "two"]


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="degla-tiny")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    size, slots, words = arguments.batch_size, arguments.num_negatives, arguments.words
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {
        "seconds_by_rows": {
            n: _alone(arguments, n, slots, words, device) for n in (size // 4, size // 2, size, size * 2)
        },
        "seconds_by_negatives": {k: _alone(arguments, size, k, words, device) for k in (0, 1, 2, 4, 8)},
        "seconds_by_words": {w: _alone(arguments, size, slots, w, device) for w in (5, 10, 20, 40, 70)},
        # The same global batch on more processes with one thread each: the cost of communication.
        "seconds_by_processes": {world: _together(arguments, world) for world in (1, 2, 4)},
    }
    save("scaling", vars(arguments), figures)


def made_up(model: ClipModel, rows: int, slots: int, words: int, device: torch.device) -> Batch:
    """Return a batch of random images, with captions and negatives of random words.

    A negative shares the first half of its caption, as real negatives do.

    Args:
        model: gives the tokenizer and the image size.
        rows: samples in the batch.
        slots: negatives per sample.
        words: words of each text.
        device: device of the batch.
    """
    rng = random.Random(0)

    def text(beginning: list[str]) -> str:
        return " ".join(beginning + rng.choices(_WORDS, k=words - len(beginning)))

    captions = [rng.choices(_WORDS, k=words) for _ in range(rows)]
    texts = [" ".join(caption) for caption in captions]
    texts += [text(caption[: words // 2]) for caption in captions for _ in range(slots)]
    tokens = model.tokenizer(texts)
    packed = model.tokenizer.pack(tokens)
    return Batch(
        torch.randint(0, 256, (rows, 3, *model.image_size), dtype=torch.uint8).to(device),
        tokens[:rows].to(device),
        tokens[rows:].reshape(rows, slots, tokens.shape[1]).to(device),
        torch.ones(rows, slots, dtype=torch.bool, device=device),
        *([], [], []),
        chunks=[Chunk(0, rows, packed.to(device) if packed is not None else None)],
    )


def _alone(arguments: argparse.Namespace, rows: int, slots: int, words: int, device: torch.device) -> float:
    """Measure the median seconds of a step in this process."""
    torch.manual_seed(0)
    student = load_clip(arguments.model, quick_gelu=True)
    module = DeGLAModule(
        student,
        build_objective(compose_config("train", {}).objective),
        Teacher(student),
        adamw,
        partial(constant, total_steps=1),
    ).to(device)
    optimizer = adamw(student)
    optimizer.register_step_post_hook(module._after_optimizer_step)
    batch = made_up(student, rows, slots, words, device)
    times = []
    for _ in range(2 + arguments.steps):
        start = synchronised(device)
        optimizer.zero_grad()
        loss = module.compute_losses(batch).total
        loss.backward()
        if dist.is_initialized():
            for parameter in student.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
        optimizer.step()
        times.append(synchronised(device) - start)
    return statistics.median(times[2:])


def _together(arguments: argparse.Namespace, world: int) -> float:
    """Measure the median seconds of a step of ``world`` processes that share the batch; the slowest process counts."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        seconds = manager.list()
        mp.spawn(_rank, (arguments, world, port, seconds), nprocs=world)
        return max(seconds)


def _rank(rank: int, arguments: argparse.Namespace, world: int, port: int, seconds: MutableSequence[float]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=world)
    rows = arguments.batch_size // world
    seconds.append(_alone(arguments, rows, arguments.num_negatives, arguments.words, torch.device("cpu")))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
