"""The built-in world: compositional sub-tasks, and what fine-tuning on scenes may make a model forget."""

from functools import cached_property
from statistics import fmean

import torch

from degla.data.scenes import GENERAL_TASKS, SPLITS, SUBSETS, SuiteItem, general_examples, suite_items
from degla.evaluation.encoder import Encoder
from degla.evaluation.scoring import Score, choice_score, zero_shot_score


class ScenesBenchmark:
    """Fourteen sub-tasks in the manner of SugarCrepe, ARO and VALSE, and five of zero-shot classification.

    Args:
        split: ``validation`` or ``test``.
        num_items: pictures of each sub-task.
        image_size: pixels of a side.

    Raises:
        ValueError: no such split.
    """

    def __init__(self, split: str = "validation", num_items: int = 200, image_size: int = 48):
        if split not in SPLITS[1:]:
            raise ValueError(f"benchmark.split={split} must be one of {', '.join(SPLITS[1:])}")
        self.split = split
        self.num_items = num_items
        self.image_size = image_size

    def evaluate(self, encoder: Encoder) -> dict[str, Score]:
        """``benchmark/subset`` -> score, such as ``sugarcrepe/swap_obj`` and ``general/digits``."""
        scores = {name: self._choose(encoder, items) for name, items in self._suite.items()}
        for name, task in GENERAL_TASKS.items():
            files, labels = zip(*self._general[name], strict=True)
            prompts = [template.format(label) for label in task.classes for template in task.templates]
            prompt_features = encoder.texts(prompts).unflatten(0, (len(task.classes), len(task.templates)))
            scores[f"general/{name}"] = zero_shot_score(encoder.images(files), torch.tensor(labels), prompt_features)
        return scores

    @staticmethod
    def summary(scores: dict[str, Score]) -> dict[str, float]:
        """Means of sub-tasks by benchmark, and of benchmarks.

        Returns:
            ``sugarcrepe``, ``aro``, ``valse``, ``general``; ``compositional``, the mean of the first three;
            ``compositional_without_order``, the same without ARO's order, which can be solved without the
            picture; and ``overall``, the mean of ``compositional`` and ``general``.
        """
        parts: dict[str, list[float]] = {}
        for name, score in scores.items():
            parts.setdefault(name.split("/")[0], []).append(score.accuracy)
        means = {name: fmean(values) for name, values in parts.items()}
        aro = [score.accuracy for name, score in scores.items() if name.startswith("aro/") and name != "aro/order"]
        means["compositional"] = fmean(means[name] for name in SUBSETS)
        means["compositional_without_order"] = fmean([means["sugarcrepe"], fmean(aro), means["valse"]])
        means["overall"] = (means["compositional"] + means["general"]) / 2
        return means

    @cached_property
    def _suite(self) -> dict[str, list[SuiteItem]]:
        return {
            f"{benchmark}/{subset}": list(suite_items(benchmark, subset, self.split, self.num_items, self.image_size))
            for benchmark, subsets in SUBSETS.items()
            for subset in subsets
        }

    @cached_property
    def _general(self) -> dict[str, list[tuple[bytes, int]]]:
        return {
            name: list(general_examples(name, self.split, self.num_items, self.image_size)) for name in GENERAL_TASKS
        }

    def _choose(self, encoder: Encoder, items: list[SuiteItem]) -> Score:
        foils = encoder.texts([foil for item in items for foil in item.foils])
        return choice_score(
            encoder.images([item.image_bytes for item in items]),
            encoder.texts([item.caption for item in items]),
            foils.unflatten(0, (len(items), -1)),
        )
