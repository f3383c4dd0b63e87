"""Zero-shot classification by prompts (Radford et al. 2021, section 3.1) on the eleven sets of DeGLA's Table 5."""

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from degla.errors import ConfigError
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.labelled import DATASETS, Labelled, read_torchvision, read_webdataset
from degla.evaluation.scoring import Ties, class_margins, judged, prompt_classifier
from degla.evaluation.task import Features, Survey, Task, mean, surveyed

# Those for which OpenAI reports the mean over classes.
_PER_CLASS = ("caltech101", "pets", "flowers102", "aircraft")


class ZeroShot(Task):
    """Top-1 and mean-per-class accuracy.

    Args:
        root: folder of the data sets, as torchvision or ``clip-benchmark`` lays them out.
        source: ``torchvision``, or ``webdataset`` for ``<root>/wds_<name>/test/*.tar``.
        prompts: ``ensemble``, those of CLIP and CLIP_benchmark; ``single``, "a photo of a {class}."; with
            ``source=webdataset`` the ensemble is the file of templates beside the shards.
        metric: which of the two is the headline; ``clip`` takes the mean over classes for Caltech101, Pets, Flowers
            and Aircraft as OpenAI does. Both are in the results. DeGLA does not say which it used.
        name: what it is called in results.
        subsets: which sets to measure; None measures all.
        ties: ``lost``; there is no other rule.
    """

    official = {name: dataset.num_test for name, dataset in DATASETS.items()}
    get_it = (
        "torchvision.datasets downloads most; ImageNet and Cars by hand; or huggingface.co/clip-benchmark/wds_<name>"
    )

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
        super().__init__(name, subsets, ties)
        self.root = Path(root)
        self.source = source
        self.prompts = prompts
        self.metric = metric
        self.macro = {"top1": (), "mean_per_class": self.subsets, "clip": _PER_CLASS}[metric]
        self._labelled: dict[str, Labelled] = {}

    def read(self, subset: str) -> Labelled:
        """One set, read once.

        Raises:
            ConfigError: it is not there.
        """
        if subset not in self._labelled:
            reader = read_torchvision if self.source == "torchvision" else read_webdataset
            try:
                data = reader(subset, self.root)
            except (RuntimeError, OSError, ValueError, tarfile.TarError) as error:
                raise ConfigError(
                    f"benchmark.{self.name}: {subset} is not in {self.root} ({str(error).splitlines()[0]}); "
                    f"{self.get_it}, or leave it out of benchmark.{self.name}.subsets"
                ) from error
            if self.prompts == "single":
                data = data._replace(templates=["a photo of a {}."])
            known = repr((data.classes, data.templates, len(data.labels)))
            self.sources[subset] = hashlib.sha256(known.encode()).hexdigest()[:16]
            self._labelled[subset] = data
        return self._labelled[subset]

    def list_images(self) -> Iterable[ImageRef]:
        """Every test image."""
        return [image for subset in self.subsets for image in self.read(subset).images]

    def list_texts(self) -> Iterable[str]:
        """Every prompt of every class."""
        return dict.fromkeys(text for subset in self.subsets for text in self.read(subset).prompts())

    def outcomes(self, features: Features) -> list[Outcome]:
        """Right where the image is closer to its own class than to every other."""
        found = []
        for subset in self.subsets:
            data = self.read(subset)
            prompts = features.text_features(data.prompts()).unflatten(0, (len(data.classes), -1))
            found += class_outcomes(subset, data, prompts, features)
        return found

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """``average`` of the headlines, and both metrics."""
        both = {
            f"average_{metric}": mean(accuracy[f"{subset}:{kind}"] for subset in self.subsets)
            for metric, kind in (("top1", "micro"), ("mean_per_class", "macro"))
        }
        return super().means(accuracy) | both

    def protocol(self) -> dict[str, Any]:
        """Prompts, metric and source besides."""
        return super().protocol() | {"prompts": self.prompts, "metric": self.metric, "source": self.source}

    def survey(self) -> list[Survey]:
        """What is here and what is missing."""
        rows = []
        for subset in self.subsets:
            try:
                data = self.read(subset)
            except ConfigError as error:
                rows.append(Survey(subset, 0, self.official[subset], 0, 0, str(error), self.get_it))
                continue
            rows.append(
                surveyed(subset, len(data.labels), self.official[subset], dict.fromkeys(data.images), self.get_it)
            )
        return rows


def class_outcomes(subset: str, data: Labelled, prompt_features: Tensor, features: Features) -> list[Outcome]:
    """Classify every image that can be shown.

    Args:
        subset: what the set is called.
        data: images, labels and classes.
        prompt_features: ``(C, P, D)``, unit norm.
        features: of the images.
    """
    classifier = prompt_classifier(prompt_features)
    shown = [i for i, image in enumerate(data.images) if features.is_readable(image)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(data.classes))}
    names = torch.tensor([numbers[name] for name in data.classes])
    found = []
    for start in range(0, len(shown), 4096):
        part = shown[start : start + 4096]
        images = features.image_features([data.images[i] for i in part])
        labels = torch.tensor([data.labels[i] for i in part])
        margins, rivals = class_margins(images, labels, classifier, names)
        rights, ties = judged(margins)
        columns = zip(part, rights.tolist(), ties.tolist(), margins.tolist(), rivals.tolist(), strict=True)
        found += [
            Outcome(
                subset,
                str(i),
                right,
                tie,
                margin,
                1 / len(data.classes),
                data.images[i].name,
                data.classes[data.labels[i]],
                data.classes[rival],
                str(data.labels[i]),
            )
            for i, right, tie, margin, rival in columns
        ]
    return found
