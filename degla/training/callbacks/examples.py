"""A few items of the benchmarks, scored before and after training, for the report."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from degla.bounds import bounded
from degla.errors import ConfigError
from degla.evaluation import Encoder, FeatureStore
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice
from degla.models import ClipModel
from degla.report.examples import Example, Examples, encoded_image, read_examples, write_examples
from degla.training.callbacks.evaluate import Evaluate
from degla.training.module import DeGLAModule


class BenchmarkExamples(Callback):
    """Writes ``examples.json``: images with caption, foil and the student's cosines before and after training.

    It shows item n of the n-th sub-task, so the examples are not chosen by their scores.

    Args:
        run_dir: folder of the run.
        subsets: sub-tasks of the benchmarks that ask for a choice among captions; a repeated name shows another item.

    Raises:
        ConfigError: no benchmark has such a sub-task.
    """

    @bounded("callbacks.examples")
    def __init__(self, run_dir: str, subsets: Sequence[str]):
        self.run_dir = Path(run_dir)
        self.subsets = list(subsets)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the items with the model that training starts from; a resumed run keeps those scores."""
        assert isinstance(pl_module, DeGLAModule)
        items = self._items(trainer)
        scores = _cosines(pl_module.student, items)  # on every rank, because FSDP2 needs all of them
        if trainer.is_global_zero and read_examples(self.run_dir) is None:
            examples = [_example(item, before) for item, before in zip(items, scores, strict=True)]
            write_examples(self.run_dir, Examples(items=examples))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the same items with the trained model."""
        assert isinstance(pl_module, DeGLAModule)
        scores = _cosines(pl_module.student, self._items(trainer))
        if trainer.is_global_zero and (examples := read_examples(self.run_dir)) is not None:
            for example, score in zip(examples.items, scores, strict=True):
                example.after = score
            write_examples(self.run_dir, examples)

    def _items(self, trainer: L.Trainer) -> list[Choice]:
        evaluate = next((each for each in trainer.callbacks if isinstance(each, Evaluate)), None)  # type: ignore[attr-defined]
        tasks = evaluate.benchmarks.values() if evaluate else ()
        by_subset: dict[str, list[Choice]] = {}
        for task in tasks:
            if isinstance(task, ChoiceTask):
                for choice in task.choices:
                    by_subset.setdefault(choice.subset, []).append(choice)
        missing = [name for name in self.subsets if name not in by_subset]
        if missing:
            raise ConfigError(
                f"callbacks.examples.subsets={missing[0]} is no sub-task of the run's benchmarks: "
                f"choose among {', '.join(by_subset) or 'none; set benchmark=scenes'}"
            )
        return [by_subset[name][number % len(by_subset[name])] for number, name in enumerate(self.subsets)]


def _cosines(model: ClipModel, items: Sequence[Choice]) -> list[tuple[float, float]]:
    """Return the cosine of each image with its caption, and with its first foil."""
    features = FeatureStore(Encoder(model), progress=False)
    features.add([item.image for item in items], [text for item in items for text in item.captions[:2]])
    images = features.image_features([item.image for item in items])
    texts = features.text_features([text for item in items for text in item.captions[:2]]).view(len(items), 2, -1)
    return [(row[0], row[1]) for row in (texts @ images[:, :, None]).squeeze(-1).tolist()]


def _example(item: Choice, before: tuple[float, float]) -> Example:
    return Example(
        subset=item.subset,
        image=encoded_image(item.image.read()),
        caption=item.captions[0],
        foil=item.captions[1],
        before=before,
    )
