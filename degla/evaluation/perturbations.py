"""ARO's four perturbations of word order (Yuksekgonul et al. 2023, section 2), made once and kept in a file."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from tqdm import tqdm

from degla.artifacts import atomic_write
from degla.errors import ConfigError, MissingDependencyError
from degla.evaluation.caption_files import CaptionedImage
from degla.evaluation.schemas import ForeignModel, Text, validated

_SPACY_MODEL = "en_core_web_sm"  # the model that ARO's code uses
_MAX_WORDS = 30  # ARO truncates every caption to this length

Words = Callable[[str], list[str]]
Tag = Callable[[str], tuple[list[str], list[str]]]  # text -> tokens, and "noun", "adjective" or "other" for each


class OrderItem(ForeignModel):
    """An image, and its caption in five word orders, the correct one first."""

    image: Text
    captions: Annotated[list[str], Field(min_length=2)]


class FrozenOrder(ForeignModel):
    """The content of a file of perturbed captions."""

    tagger: str
    seed: int
    made_from: str  # hash of the original captions
    items: list[OrderItem]


_FILE = TypeAdapter(FrozenOrder)


def frozen_order(path: Path, captioned: Sequence[CaptionedImage], seed: int = 1) -> FrozenOrder:
    """Read the perturbed captions in a file; make them and write the file where it is missing.

    The perturbations are random and depend on a tagger. Two machines that make their own measure two different
    benchmarks, so numbers are comparable only with the same file.

    Args:
        path: the file.
        captioned: images with their captions.
        seed: seed of the random number generator that makes the perturbations.

    Raises:
        ConfigError: the file was made from other captions, or holds something else.
        MissingDependencyError: the file is missing, and no tagger is installed to make it.
    """
    captions = [(entry.name, entry.captions) for entry in captioned]
    made_from = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    if not path.is_file():
        tagger, tag, words = _tagger()
        rng = random.Random(seed)
        items = [
            {"image": name, "captions": [cleaned(text) for text in (caption, *perturbed(caption, rng, tag, words))]}
            for name, texts in tqdm(captions, desc=f"Perturbing word order ({path.name})", disable=None)
            for caption in texts
        ]
        made = {"tagger": tagger, "seed": seed, "made_from": made_from, "items": items}
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(made, indent=0), encoding="utf-8")
    try:
        content = validated(_FILE, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} does not hold perturbed captions ({error}): delete it or move it") from error
    if content.made_from != made_from:
        raise ConfigError(f"{path} was made from other captions than those that are read now: delete it or move it")
    return content


def perturbed(caption: str, rng: random.Random, tag: Tag, words: Words) -> list[str]:
    """Perturb the word order of a caption in four ways.

    Args:
        caption: the original text.
        rng: the random number generator.
        tag: splits a text into tokens and their classes, for the first two.
        words: splits a text into words, for the last two.

    Returns:
        Nouns and adjectives shuffled among their own positions; everything else shuffled; the words within each
        group of three shuffled; the groups of three shuffled.
    """
    tokens, classes = tag(caption)
    nouns_and_adjectives = _shuffled(_shuffled(tokens, classes, "noun", rng), classes, "adjective", rng)
    others = _shuffled(tokens, classes, "other", rng)
    split = words(caption)
    threes = [split[i : i + 3] for i in range(0, len(split), 3)]
    within = [word for three in threes for word in rng.sample(three, len(three))]
    between = [word for three in rng.sample(threes, len(threes)) for word in three]
    return [" ".join(part) for part in (nouns_and_adjectives, others, within, between)]


def cleaned(caption: str) -> str:
    """Clean a caption as ARO does: lower case, without punctuation marks, at most 30 words."""
    caption = re.sub(r"[.!\"()*#:;~]", " ", caption.lower())
    return " ".join(re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ").split(" ")[:_MAX_WORDS])


def _shuffled(tokens: Sequence[str], classes: Sequence[str], which: str, rng: random.Random) -> list[str]:
    """Shuffle the tokens of one class among their own positions."""
    members = [token for token, kind in zip(tokens, classes, strict=True) if kind == which]
    replacement = iter(rng.sample(members, len(members)))
    return [next(replacement) if kind == which else token for token, kind in zip(tokens, classes, strict=True)]


def _tagger() -> tuple[str, Tag, Words]:
    """Return the name of a tagger, and its functions: ARO's own where it is installed, else HanTa."""
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise _missing_tagger() from error
    words: Words = NLTKWordTokenizer().tokenize
    try:
        import spacy

        nlp = spacy.load(_SPACY_MODEL, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError):
        return (*_hanta(words), words)
    classes = dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "noun") | dict.fromkeys(("JJ", "JJR", "JJS"), "adjective")

    def tag(text: str) -> tuple[list[str], list[str]]:
        doc = nlp(text)
        return [token.text for token in doc], [classes.get(token.tag_, "other") for token in doc]

    return f"spaCy {_SPACY_MODEL} {nlp.meta['version']}", tag, words


def _hanta(words: Words) -> tuple[str, Tag]:
    try:
        from HanTa import HanoverTagger
    except ImportError as error:
        raise _missing_tagger() from error
    tagger = HanoverTagger.HanoverTagger("morphmodel_en.pgz")

    def tag(text: str) -> tuple[list[str], list[str]]:
        tokens = words(text)
        tags = [entry[2] for entry in tagger.tag_sent(tokens)]
        return tokens, ["noun" if t[:1] == "N" else "adjective" if t[:2] == "AJ" else "other" for t in tags]

    return "HanTa morphmodel_en (not ARO's spaCy: another benchmark)", tag


def _missing_tagger() -> MissingDependencyError:
    return MissingDependencyError.for_extra("the word-order items of ARO are made with a tagger", "order")
