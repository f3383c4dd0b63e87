"""ARO's four ways of spoiling the order of words (Yuksekgonul et al. 2023, section 2), made once and kept."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from degla.artifacts import atomic_write
from degla.errors import ConfigError
from degla.evaluation.caption_files import Captioned

_SPACY = "en_core_web_sm"  # what ARO's code uses
_MAX_WORDS = 30

Tag = Callable[[str], tuple[list[str], list[str]]]  # text -> tokens, and "noun", "adjective" or "other" for each


def frozen_order(path: Path, captioned: Captioned, seed: int = 1) -> dict:
    """The spoilt captions in ``path``; made from ``captioned`` and written there where the file is missing.

    The perturbations are random and depend on a tagger, so two machines that make their own measure two
    benchmarks: the file is what makes numbers comparable.

    Returns:
        ``tagger``, ``seed`` and ``items``: ``image`` and five ``captions``, the true one first.

    Raises:
        ConfigError: the file was made from other captions, or is missing and there is no tagger to make it.
    """
    made_from = hashlib.sha256(json.dumps([(name, captions) for name, _, captions in captioned]).encode()).hexdigest()
    if not path.is_file():
        tagger, tag, words = _tagger()
        rng = random.Random(seed)
        items = [
            {"image": name, "captions": [cleaned(text) for text in (caption, *perturbed(caption, rng, tag, words))]}
            for name, _, captions in tqdm(captioned, desc=f"Spoiling the order of words ({path.name})", disable=None)
            for caption in captions
        ]
        content = {"tagger": tagger, "seed": seed, "made_from": made_from, "items": items}
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(content, indent=0), encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("made_from") != made_from:
        raise ConfigError(f"{path} was made from other captions than those that are read now: delete it or move it")
    return content


def perturbed(caption: str, rng: random.Random, tag: Tag, words: Callable[[str], list[str]]) -> list[str]:
    """Nouns and adjectives shuffled among their own places; everything else shuffled; the words within each three
    shuffled; the threes shuffled.

    Args:
        caption: as it was written.
        rng: the source of chance.
        tag: splits into tokens and classes, for the first two.
        words: splits into words, for the last two.
    """
    tokens, classes = tag(caption)
    both = _permuted(_permuted(tokens, classes, "noun", rng), classes, "adjective", rng)
    others = _permuted(tokens, ["other" if kind == "other" else "kept" for kind in classes], "other", rng)
    threes = [split[i : i + 3] for split in [words(caption)] for i in range(0, len(split), 3)]
    within = [word for three in threes for word in rng.sample(three, len(three))]
    between = [word for three in rng.sample(threes, len(threes)) for word in three]
    return [" ".join(part) for part in (both, others, within, between)]


def cleaned(caption: str) -> str:
    """What ARO does to every caption, true or spoilt: lower case, no marks, at most 30 words."""
    caption = re.sub(r"[.!\"()*#:;~]", " ", caption.lower())
    return " ".join(re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ").split(" ")[:_MAX_WORDS])


def _permuted(tokens: Sequence[str], classes: Sequence[str], which: str, rng: random.Random) -> list[str]:
    members = [token for token, kind in zip(tokens, classes, strict=True) if kind == which]
    replacement = iter(rng.sample(members, len(members)))
    return [next(replacement) if kind == which else token for token, kind in zip(tokens, classes, strict=True)]


def _tagger() -> tuple[str, Tag, Callable[[str], list[str]]]:
    """ARO's own tagger where it is installed, else one that can be had from a package registry; by name."""
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ConfigError(
            "benchmark.aro: the word orders are spoilt by a tagger: pip install 'degla[order]'"
        ) from error
    words = NLTKWordTokenizer().tokenize
    try:
        import spacy

        nlp = spacy.load(_SPACY, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError):
        return (*_hanta(words), words)
    kinds = dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "noun") | dict.fromkeys(("JJ", "JJR", "JJS"), "adjective")

    def tag(text: str) -> tuple[list[str], list[str]]:
        doc = nlp(text)
        return [token.text for token in doc], [kinds.get(token.tag_, "other") for token in doc]

    return f"spaCy {_SPACY} {nlp.meta['version']}", tag, words


def _hanta(words: Callable[[str], list[str]]) -> tuple[str, Tag]:
    try:
        from HanTa import HanoverTagger
    except ImportError as error:
        raise ConfigError(
            "benchmark.aro: the word orders are spoilt by a tagger: pip install 'degla[order]'"
        ) from error
    tagger = HanoverTagger.HanoverTagger("morphmodel_en.pgz")

    def tag(text: str) -> tuple[list[str], list[str]]:
        tokens = words(text)
        tags = [entry[2] for entry in tagger.tag_sent(tokens)]
        return tokens, ["noun" if t[:1] == "N" else "adjective" if t[:2] == "AJ" else "other" for t in tags]

    return "HanTa morphmodel_en (not ARO's spaCy: another benchmark)", tag
