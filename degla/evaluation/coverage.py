"""Checks that enough of a benchmark's images can be read for its score to be valid."""

import math
from collections.abc import Mapping, Sequence

from degla.data.schema import Problem
from degla.errors import DataError
from degla.evaluation.run import Result
from degla.evaluation.task import Task


def require_images(tasks: Mapping[str, Task], max_missing: float, key: str = "max_missing") -> None:
    """Check that the image files exist, which takes seconds, before anything is encoded.

    Args:
        tasks: benchmarks by name.
        max_missing: share of a benchmark's images that may be missing, in [0, 1].
        key: config key of ``max_missing``, for the message.

    Raises:
        ConfigError: a benchmark holds no items, or malformed ones.
        DataError: a benchmark lacks more images than that, or all of them. The message names the first.
    """
    for task in tasks.values():
        task.check_items()
        images = dict.fromkeys(task.list_images())
        missing = [Problem(image.name, "no such file", True) for image in images if not image.exists()]
        _require(task, len(images), missing, max_missing, key)


def require_answers(tasks: Mapping[str, Task], results: Mapping[str, Result], max_missing: float) -> None:
    """Check that every benchmark has answers, and that few enough of its images could not be decoded.

    Args:
        tasks: benchmarks by name.
        results: name -> answers, from ``run_benchmarks``.
        max_missing: share of a benchmark's images that may be missing or unreadable, in [0, 1].

    Raises:
        DataError: a benchmark has no answers, or too many bad images. The message names the first.
    """
    for name, result in results.items():
        task = tasks[name]
        _require(task, len(set(task.list_images())), result.bad_images, max_missing)
        if not result.outcomes:
            raise DataError(
                f"benchmark.{task.name}: none of its items could be answered; {task.download_hint}, "
                f"or leave {task.name} out of benchmark=[...]"
            )


def _require(task: Task, num_images: int, bad: Sequence[Problem], max_missing: float, key: str = "max_missing") -> None:
    if not bad or (len(bad) < num_images and len(bad) <= max_missing * num_images):
        return
    first = f"the first is {bad[0].row} ({bad[0].reason})"
    if len(bad) == num_images:
        raise DataError(
            f"benchmark.{task.name}: none of its {num_images} images can be read, {first}; {task.download_hint}, "
            f"or leave {task.name} out of benchmark=[...]"
        )
    enough = math.ceil(100 * len(bad) / num_images) / 100
    raise DataError(
        f"benchmark.{task.name}: {len(bad)} of its {num_images} images cannot be read, {first}; {task.download_hint}; "
        f"{key}={enough:g} measures the rest (now {key}={max_missing:g})"
    )
