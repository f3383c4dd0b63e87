"""The built-in world: compositional sub-tasks, and what fine-tuning on scenes may make a model forget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from degla.data.scenes import GENERAL_TASKS, SPLITS, SUBSETS, general_examples, suite_items
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask, Features, mean
from degla.evaluation.tasks.zeroshot import Labelled, class_outcomes


class Scenes(ChoiceTask):
    """Fourteen sub-tasks in the manner of SugarCrepe, ARO and VALSE, and five of zero-shot classification.

    Args:
        split: ``validation`` or ``test``.
        num_items: images of each sub-task.
        image_size: pixels of a side.
        name: what it is called in results.
        subsets: such as ``sugarcrepe/swap_obj`` or ``general/digits``; None measures all.
        ties: ``lost``; there is no other rule.

    Raises:
        ValueError: no such split.
    """

    official = {
        **{f"{benchmark}/{subset}": None for benchmark, subsets in SUBSETS.items() for subset in subsets},
        **{f"general/{name}": None for name in GENERAL_TASKS},
    }
    get_it = "it is drawn when it is needed"

    def __init__(
        self,
        split: str = "validation",
        num_items: int = 200,
        image_size: int = 48,
        name: str = "scenes",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties)
        if split not in SPLITS[1:]:
            raise ValueError(f"split={split} must be one of {', '.join(SPLITS[1:])}")
        self.split = split
        self.num_items = num_items
        self.image_size = image_size
        self._labelled: dict[str, Labelled] = {}

    def read(self, subset: str) -> list[Choice]:
        """The items of a compositional sub-task; none of the general ones."""
        benchmark, name = subset.split("/")
        if benchmark == "general":
            return []
        items = suite_items(benchmark, name, self.split, self.num_items, self.image_size)
        return [
            Choice(subset, str(i), ImageRef.embedded(item.image_bytes), (item.caption, *item.foils))
            for i, item in enumerate(items)
        ]

    @property
    def general(self) -> dict[str, Labelled]:
        """The sub-tasks of classification, drawn once."""
        for subset in self.subsets:
            name = subset.removeprefix("general/")
            if name in GENERAL_TASKS and subset not in self._labelled:
                examples = list(general_examples(name, self.split, self.num_items, self.image_size))
                self._labelled[subset] = Labelled(
                    [ImageRef.embedded(file) for file, _ in examples],
                    [label for _, label in examples],
                    list(GENERAL_TASKS[name].classes),
                    list(GENERAL_TASKS[name].templates),
                )
        return self._labelled

    def list_images(self) -> Iterable[ImageRef]:
        """Of all sub-tasks."""
        return [*super().list_images(), *(image for data in self.general.values() for image in data.images)]

    def list_texts(self) -> Iterable[str]:
        """Of all sub-tasks."""
        return [*super().list_texts(), *(text for data in self.general.values() for text in data.prompts())]

    def outcomes(self, features: Features) -> list[Outcome]:
        """Choices, then classifications."""
        found = super().outcomes(features)
        for subset, data in self.general.items():
            prompts = features.text_features(data.prompts()).unflatten(0, (len(data.classes), -1))
            found += class_outcomes(subset, data, prompts, features)
        return found

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Means of sub-tasks by benchmark, and of benchmarks.

        Returns:
            ``sugarcrepe``, ``aro``, ``valse``, ``general``; ``compositional``, the mean of the first three;
            ``compositional_without_order``, the same without ARO's order, which can be solved without the
            image; and ``average``, the mean of ``compositional`` and ``general``.
        """
        parts: dict[str, list] = {}
        for subset in self.subsets:
            parts.setdefault(subset.split("/")[0], []).append(accuracy[subset])
        means = {name: mean(values) for name, values in parts.items()}
        if set(self.subsets) != set(self.official):
            return means | super().means(accuracy)
        aro = mean(accuracy[subset] for subset in self.subsets if subset.startswith("aro/") and "order" not in subset)
        means["compositional"] = mean(means[name] for name in SUBSETS)
        means["compositional_without_order"] = mean([means["sugarcrepe"], aro, means["valse"]])
        means["average"] = mean([means["compositional"], means["general"]])
        return means

    def protocol(self) -> dict[str, Any]:
        """What is drawn."""
        return super().protocol() | {"split": self.split, "image_size": self.image_size}
