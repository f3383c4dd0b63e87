"""The built-in world: compositional sub-tasks, and general ones that fine-tuning on scenes may degrade."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from degla.bounds import bounded, one_of, whole
from degla.data.scenes import GENERAL_TASKS, SPLITS, SUBSETS, general_examples, suite_items
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.labelled import Labelled
from degla.evaluation.scoring import Ties
from degla.evaluation.task import FeatureSource, mean
from degla.evaluation.tasks.zeroshot import class_outcomes

_SPLITS = SPLITS[1:]  # not the training split


class Scenes(ChoiceTask):
    """Fourteen sub-tasks in the style of SugarCrepe, ARO and VALSE, and five of zero-shot classification.

    Args:
        split: ``validation`` or ``test``.
        num_items: number of images of each sub-task.
        image_size: height and width in pixels.
        name: its name in results.
        subsets: such as ``sugarcrepe/swap_obj`` or ``general/digits``; None measures all.
        ties: ``lost``; there is no other rule.

    Raises:
        ConfigError: a split that does not exist.
    """

    @bounded("benchmark")
    def __init__(
        self,
        split: Annotated[str, one_of(_SPLITS)] = "validation",
        num_items: Annotated[int, whole(1)] = 200,
        image_size: Annotated[int, whole(8, 4096)] = 48,
        name: str = "scenes",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=dict.fromkeys(
                [
                    *(f"{benchmark}/{subset}" for benchmark, members in SUBSETS.items() for subset in members),
                    *(f"general/{task}" for task in GENERAL_TASKS),
                ]
            ),
            download_hint="nothing to download: the images are drawn when they are needed",
        )
        self.split = split
        self.num_items = num_items
        self.image_size = image_size

    def choice_subsets(self) -> Sequence[str]:
        """Return the compositional sub-tasks."""
        return [subset for subset in self.subsets if not subset.startswith("general/")]

    def read(self, subset: str) -> list[Choice]:
        """Draw the items of a compositional sub-task."""
        benchmark, name = subset.split("/")
        items = suite_items(benchmark, name, self.split, self.num_items, self.image_size)
        return [
            Choice(subset, str(i), ImageRef.embedded(item.image_bytes), (item.caption, *item.foils))
            for i, item in enumerate(items)
        ]

    @cached_property
    def general(self) -> dict[str, Labelled]:
        """The sub-tasks of classification, drawn once."""
        names = [subset.removeprefix("general/") for subset in self.subsets if subset.startswith("general/")]
        return {f"general/{name}": self._draw_general(name) for name in names}

    def list_images(self) -> Iterable[ImageRef]:
        """Return the images of all sub-tasks."""
        return [*super().list_images(), *(image for data in self.general.values() for image in data.images)]

    def list_texts(self) -> Iterable[str]:
        """Return the texts of all sub-tasks."""
        return [*super().list_texts(), *(text for data in self.general.values() for text in data.prompts())]

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer the choices, then the classifications."""
        outcomes = super().outcomes(features)
        for subset, data in self.general.items():
            outcomes += class_outcomes(subset, data, features)
        return outcomes

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return means of sub-tasks by benchmark, and of benchmarks.

        Returns:
            ``sugarcrepe``, ``aro``, ``valse``, ``general``; ``compositional``, the mean of the first three;
            ``compositional_without_order``, the same without ARO's order, which can be solved without the
            image; and ``average``, the mean of ``compositional`` and ``general``.
        """
        parts: dict[str, list[Any]] = {}
        for subset in self.subsets:
            parts.setdefault(subset.split("/")[0], []).append(accuracy[subset])
        means = {name: mean(values) for name, values in parts.items()}
        if set(self.subsets) != set(self.official_counts):
            return means | super().means(accuracy)
        aro = mean(accuracy[subset] for subset in self.subsets if subset.startswith("aro/") and "order" not in subset)
        means["compositional"] = mean(means[name] for name in SUBSETS)
        means["compositional_without_order"] = mean([means["sugarcrepe"], aro, means["valse"]])
        means["average"] = mean([means["compositional"], means["general"]])
        return means

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with the split and the size of the drawn images."""
        return super().protocol() | {"split": self.split, "image_size": self.image_size}

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of items of a sub-task, and their images."""
        if part in self.general:
            return len(self.general[part].labels), self.general[part].images
        return super().survey_part(part)

    def _draw_general(self, name: str) -> Labelled:
        examples = list(general_examples(name, self.split, self.num_items, self.image_size))
        return Labelled(
            images=[ImageRef.embedded(file) for file, _ in examples],
            labels=[label for _, label in examples],
            classes=list(GENERAL_TASKS[name].classes),
            templates=list(GENERAL_TASKS[name].templates),
        )
