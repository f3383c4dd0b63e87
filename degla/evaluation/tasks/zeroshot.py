"""Zero-shot classification by prompts (Radford et al. 2021, section 3.1) on the eleven sets of DeGLA's Table 5."""

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from degla.errors import ConfigError
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.labelled import DATASETS, Labelled, read_torchvision, read_webdataset
from degla.evaluation.scoring import Ties, class_margins, correct_and_tied, prompt_classifier
from degla.evaluation.task import FeatureSource, Task, mean

_PER_CLASS = ("caltech101", "pets", "flowers102", "aircraft")  # OpenAI reports the mean over classes for these
_BLOCK = 4096  # images whose features are in memory at once


class ZeroShot(Task):
    """Top-1 and mean-per-class accuracy.

    Args:
        root: folder of the data sets, in the layout of torchvision or of ``clip-benchmark``.
        source: ``torchvision``, or ``webdataset`` for ``<root>/wds_<name>/test/*.tar``.
        prompts: ``ensemble``, the templates of CLIP and CLIP_benchmark; ``single``, "a photo of a {class}.". The
            class names are CLIP_benchmark's for both sources (``zeroshot_classes.yaml``).
        metric: which accuracy is the headline; ``clip`` takes the mean over classes for Caltech101, Pets, Flowers
            and Aircraft as OpenAI does. Both are in the results. DeGLA does not say which it used.
        name: its name in results.
        subsets: the sets to measure; None measures all.
        ties: ``lost``; there is no other rule.
    """

    def __init__(
        self,
        root: str = "data/zeroshot",
        source: Literal["torchvision", "webdataset"] = "torchvision",
        prompts: Literal["ensemble", "single"] = "ensemble",
        metric: Literal["top1", "mean_per_class", "clip"] = "top1",
        name: str = "zeroshot",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        per_class = {"top1": (), "mean_per_class": tuple(DATASETS), "clip": _PER_CLASS}
        super().__init__(
            name,
            subsets,
            ties,
            official_counts={subset: dataset.num_test for subset, dataset in DATASETS.items()},
            download_hint=(
                "torchvision.datasets downloads most; ImageNet and Cars by hand; "
                "or huggingface.co/clip-benchmark/wds_<name>"
            ),
            macro_averaged=per_class[metric],
        )
        self.root = Path(root)
        self.source = source
        self.prompts = prompts
        self.metric = metric
        self._labelled: dict[str, Labelled] = {}

    def read(self, subset: str) -> Labelled:
        """Read one set; later calls return the same object.

        Raises:
            ConfigError: the set is missing or malformed.
        """
        if subset not in self._labelled:
            reader = read_torchvision if self.source == "torchvision" else read_webdataset
            try:
                data = reader(subset, self.root)
                data.check()
            except (RuntimeError, OSError, ValueError, tarfile.TarError) as error:
                raise ConfigError(
                    f"benchmark.{self.name}: {subset} is not in {self.root} ({str(error).splitlines()[0]}); "
                    f"{self.download_hint}, or leave it out of benchmark.{self.name}.subsets"
                ) from error
            if self.prompts == "single":
                data = data._replace(templates=["a photo of a {}."])
            wording = repr((data.classes, data.templates, len(data.labels)))
            self.sources[subset] = hashlib.sha256(wording.encode()).hexdigest()[:16]
            self._labelled[subset] = data
        return self._labelled[subset]

    def list_images(self) -> Iterable[ImageRef]:
        """Return every test image."""
        return [image for subset in self.subsets for image in self.read(subset).images]

    def list_texts(self) -> Iterable[str]:
        """Return every prompt of every class."""
        return dict.fromkeys(text for subset in self.subsets for text in self.read(subset).prompts())

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Classify every image: correct where it is closer to its own class than to every other."""
        return [outcome for subset in self.subsets for outcome in class_outcomes(subset, self.read(subset), features)]

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``average`` of the headlines, and the averages of both metrics."""
        both = {
            f"average_{metric}": mean(accuracy[f"{subset}:{kind}"] for subset in self.subsets)
            for metric, kind in (("top1", "micro"), ("mean_per_class", "macro"))
        }
        return super().means(accuracy) | both

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with prompts, metric and source."""
        return super().protocol() | {"prompts": self.prompts, "metric": self.metric, "source": self.source}

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of test images of a set, and the images."""
        data = self.read(part)
        return len(data.labels), data.images


def class_outcomes(subset: str, data: Labelled, features: FeatureSource) -> list[Outcome]:
    """Classify every image that can be decoded.

    Args:
        subset: name of the set.
        data: images, labels and classes.
        features: holds the images and the prompts.
    """
    prompts = features.text_features(data.prompts()).view(len(data.classes), len(data.templates), -1)
    classifier = prompt_classifier(prompts)
    readable = [i for i, image in enumerate(data.images) if features.is_readable(image)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(data.classes))}
    names = torch.tensor([numbers[name] for name in data.classes])
    outcomes = []
    for start in range(0, len(readable), _BLOCK):
        block = readable[start : start + _BLOCK]
        images = features.image_features([data.images[i] for i in block])
        labels = torch.tensor([data.labels[i] for i in block])
        margins, rivals = class_margins(images, labels, classifier, names)
        correct, tied = correct_and_tied(margins)
        columns = zip(block, correct.tolist(), tied.tolist(), margins.tolist(), rivals.tolist(), strict=True)
        outcomes += [
            Outcome(
                subset=subset,
                item=str(i),
                correct=is_correct,
                tie=is_tie,
                margin=margin,
                chance=1 / len(data.classes),
                image=data.images[i].name,
                caption=data.classes[data.labels[i]],
                rival=data.classes[rival],
                group=str(data.labels[i]),
            )
            for i, is_correct, is_tie, margin, rival in columns
        ]
    return outcomes
