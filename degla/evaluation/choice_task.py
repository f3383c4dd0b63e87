"""Benchmarks whose items are one image and several captions, of which one is correct."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.scoring import choice_margins, correct_and_tied
from degla.evaluation.task import FeatureSource, Task

_BLOCK = 4096  # items whose features are in memory at once


class ChoiceTask(Task):
    """A benchmark in which each item is one image and several captions, of which one is correct."""

    @abstractmethod
    def read(self, subset: str) -> list[Choice]:
        """Read the items of a subset.

        Raises:
            ConfigError: its files are missing or malformed.
        """

    @cached_property
    def choices(self) -> list[Choice]:
        """All items; they are read once.

        Raises:
            ConfigError: a subset is missing, malformed or empty, or an item cannot be scored.
        """
        choices = []
        for subset in self.choice_subsets():
            items = self.read(subset)
            if not items:
                raise ConfigError(f"benchmark.{self.name}: {subset} holds no items; {self.download_hint}")
            choices += self._without_repeats([self._checked(choice) for choice in items])
        return choices

    def choice_subsets(self) -> Sequence[str]:
        """Return the subsets that ``read`` knows; all by default."""
        return self.subsets

    def list_images(self) -> Iterable[ImageRef]:
        """Return every image of the items."""
        return dict.fromkeys(choice.image for choice in self.choices)

    def list_texts(self) -> Iterable[str]:
        """Return every caption, correct or wrong."""
        return dict.fromkeys(caption for choice in self.choices for caption in choice.captions)

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every item: correct where the image is closer to the correct caption than to every other."""
        return choice_outcomes(self.choices, features, self.tie_is_correct)

    def tie_is_correct(self, subset: str) -> bool:
        """Return whether a tie counts as correct in a subset."""
        return self.ties == "original" and subset in self.ties_count_as_correct

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of items of a subset, and their images."""
        choices = self.read(part)
        return len(choices), (choice.image for choice in choices)

    def _checked(self, choice: Choice) -> Choice:
        # A string is a sequence too: its letters would be scored as captions.
        if isinstance(choice.captions, str) or not all(isinstance(caption, str) for caption in choice.captions):
            raise ConfigError(f"benchmark.{self.name}: {_where(choice)}: captions {choice.captions!r} must be strings")
        if len(choice.captions) < 2:
            raise ConfigError(f"benchmark.{self.name}: {_where(choice)} has {len(choice.captions)} captions, not 2")
        return choice

    def _without_repeats(self, choices: list[Choice]) -> list[Choice]:
        """Keep the first item of each name; the other ones are reported in ``problems``."""
        counts = Counter((choice.subset, choice.item) for choice in choices)
        for (subset, item), count in counts.items():
            if count > 1:
                self.problems.append(
                    Problem(f"{subset}/{item}", f"{count} items of this name, the first is used", True)
                )
        return list({(choice.subset, choice.item): choice for choice in reversed(choices)}.values())[::-1]


def _where(choice: Choice) -> str:
    return f"{choice.subset}/{choice.item}"


def _never(subset: str) -> bool:
    return False


def choice_outcomes(
    choices: Sequence[Choice], features: FeatureSource, tie_is_correct: Callable[[str], bool] = _never
) -> list[Outcome]:
    """Answer every choice whose image can be decoded.

    Args:
        choices: the items; they may differ in their number of captions.
        features: holds all their images and captions.
        tie_is_correct: subset -> whether a tie counts as correct there.
    """
    outcomes: list[Outcome | None] = [None] * len(choices)
    by_count: dict[int, list[int]] = {}
    for i, choice in enumerate(choices):
        if features.is_readable(choice.image):
            by_count.setdefault(len(choice.captions), []).append(i)
    for indices in by_count.values():
        for start in range(0, len(indices), _BLOCK):
            block = indices[start : start + _BLOCK]
            answers = _answer([choices[i] for i in block], features, tie_is_correct)
            for i, outcome in zip(block, answers, strict=True):
                outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _answer(
    choices: Sequence[Choice], features: FeatureSource, tie_is_correct: Callable[[str], bool]
) -> Iterable[Outcome]:
    """Answer choices that have the same number of captions."""
    num_captions = len(choices[0].captions)
    texts = features.text_features([caption for choice in choices for caption in choice.captions])
    images = features.image_features([choice.image for choice in choices])
    margins, rivals = choice_margins(images, texts.view(len(choices), num_captions, -1))
    correct, tied = correct_and_tied(margins)
    columns = zip(choices, correct.tolist(), tied.tolist(), margins.tolist(), rivals.tolist(), strict=True)
    for choice, is_correct, is_tie, margin, rival in columns:
        yield Outcome(
            subset=choice.subset,
            item=choice.item,
            correct=is_correct or (is_tie and tie_is_correct(choice.subset)),
            tie=is_tie,
            margin=margin,
            chance=1 / num_captions,
            image=choice.image.name,
            caption=choice.captions[0],
            rival=choice.captions[rival],
            group=choice.group,
        )
