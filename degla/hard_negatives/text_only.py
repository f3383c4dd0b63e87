"""Can negatives be told from captions without a picture? After SugarCrepe (Hsieh et al. 2023, section 3)."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from degla.hard_negatives.language.words import words

Pairs = Sequence[tuple[str, str]]  # caption, negative

_FOLDS = 5
_FEWEST = 40  # pairs below which nothing is claimed
_CUES = 8


class BlindRow(NamedTuple):
    """How well a kind is told apart."""

    kind: str
    num_pairs: int
    accuracy: float  # of choosing the caption of a pair; 0.5 is chance
    low: float
    high: float
    cues: list[str]  # words and pairs of words that give negatives away, the strongest first
    length: float  # mean difference in words, negative less caption
    plausibility: float  # share of pairs whose caption is the likelier text


def blind_row(kind: str, pairs: Pairs) -> BlindRow:
    """Cross-validated over captions: no caption is learnt from and judged by at once.

    Logistic regression on the difference of the two texts: words and pairs of words, length, and how likely a bigram
    model of the other captions finds each text.
    """
    if len(pairs) < _FEWEST:
        return BlindRow(kind, len(pairs), math.nan, math.nan, math.nan, [], math.nan, math.nan)
    counted = _counted(pairs)
    if counted is None:
        return BlindRow(kind, len(pairs), math.nan, math.nan, math.nan, [], math.nan, math.nan)
    differences, names = counted
    likelihoods = _Likelihoods(pairs)
    scores = _scores(differences, likelihoods, pairs)
    points = np.where(np.abs(scores) < 1e-9, 0.5, scores > 0)
    accuracy = float(points.mean())
    half = 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 0.25 / len(pairs)) / len(pairs))
    likely = likelihoods.differences()
    likelier = float(np.mean(np.where(np.abs(likely) < 1e-12, 0.5, likely > 0)))
    weights = _fitted(_joined(differences, likely)).coef_[0][: len(names)]
    cues = [names[i] for i in np.argsort(weights)[:_CUES] if weights[i] < 0]
    longer = float(np.mean([len(words(n)) - len(words(c)) for c, n in pairs]))
    return BlindRow(
        kind, len(pairs), accuracy, max(0.0, accuracy - half), min(1.0, accuracy + half), cues, longer, likelier
    )


def balanced(pairs: Pairs, seed: int = 0, rounds: int = 20) -> list[bool]:
    """Which pairs to keep so that the blind model is at chance (SugarCrepe's adversarial refinement).

    In each bin of certainty as many pairs stay in which the model is right as in which it is wrong; what is left is
    learnt anew, until the interval of the accuracy holds one half. Where fewer than 40 pairs would stay, none does:
    the kind cannot be balanced.
    """
    kept = list(range(len(pairs)))
    rng = random.Random(seed)
    for _ in range(rounds):
        some = [pairs[i] for i in kept]
        if len(some) < _FEWEST:
            return [False] * len(pairs)
        counted = _counted(some)
        if counted is None:
            return [False] * len(pairs)
        scores = _scores(counted[0], _Likelihoods(some), some)
        accuracy = float((scores > 0).mean())
        if accuracy - 1.96 * math.sqrt(0.25 / len(some)) <= 0.5:
            break
        edges = np.quantile(np.abs(scores), np.linspace(0, 1, 11)[1:-1])
        bins = np.searchsorted(edges, np.abs(scores))
        staying: list[int] = []
        for number in range(10):
            right = [i for i in range(len(some)) if bins[i] == number and scores[i] > 0]
            wrong = [i for i in range(len(some)) if bins[i] == number and scores[i] <= 0]
            staying += [*rng.sample(right, min(len(right), len(wrong))), *wrong]
        kept = [kept[i] for i in sorted(staying)]
    flags = [False] * len(pairs)
    for i in kept:
        flags[i] = True
    return flags


def _fold(caption: str) -> int:
    return hashlib.sha256(caption.encode()).digest()[0] % _FOLDS


def _counted(pairs: Pairs) -> tuple[sparse.csr_matrix, list[str]] | None:
    """``(P, F)`` caption less negative and names of the first columns; None where no word comes three times."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=_grams, binary=True, min_df=3, max_features=50_000)
    captions, negatives = ([pair[side] for pair in pairs] for side in (0, 1))
    try:
        vectorizer.fit([*captions, *negatives])
    except ValueError:  # no word is left
        return None
    counts = vectorizer.transform(captions).astype(np.float64) - vectorizer.transform(negatives)
    lengths = np.array([[len(words(c)) - len(words(n)), (len(c) - len(n)) / 10] for c, n in pairs])
    return sparse.hstack([counts, sparse.csr_matrix(lengths)]).tocsr(), list(vectorizer.get_feature_names_out())


def _joined(differences: sparse.csr_matrix, likely: np.ndarray) -> sparse.csr_matrix:
    return sparse.hstack([differences, sparse.csr_matrix(likely[:, None])]).tocsr()


def _grams(text: str) -> list[str]:
    tokens = words(text)
    return [*tokens, *(" ".join(pair) for pair in zip(["^", *tokens], [*tokens, "$"], strict=True))]


class _Likelihoods:
    """How likely bigrams of other captions find each text."""

    def __init__(self, pairs: Pairs):
        self.pairs = pairs
        self.folds = [_fold(caption) for caption, _ in pairs]
        self.singles = [Counter() for _ in range(_FOLDS)]
        self.doubles = [Counter() for _ in range(_FOLDS)]
        for caption in dict.fromkeys(caption for caption, _ in pairs):
            tokens = ["^", *words(caption), "$"]
            self.singles[_fold(caption)].update(tokens)
            self.doubles[_fold(caption)].update(pairwise(tokens))
        self.num_words = len(set().union(*self.singles)) + 1

    def differences(self, unseen: int | None = None) -> np.ndarray:
        """``(P,)`` mean log-probability of the caption's bigrams less the negative's.

        By captions of other folds than the pair's own, and never by those of ``unseen``: what is learnt from has
        to know as little of the captions that are judged as they know of themselves.
        """
        models = {}
        for fold in set(self.folds):
            others = [i for i in range(_FOLDS) if i not in (fold, unseen)]
            models[fold] = [sum((parts[i] for i in others), Counter()) for parts in (self.singles, self.doubles)]
        return np.array(
            [
                self._mean(caption, *models[fold]) - self._mean(negative, *models[fold])
                for (caption, negative), fold in zip(self.pairs, self.folds, strict=True)
            ]
        )

    def _mean(self, text: str, singles: Counter, doubles: Counter) -> float:
        tokens = ["^", *words(text), "$"]
        floor = 0.1 * self.num_words
        logs = [math.log((doubles[a, b] + 0.1) / (singles[a] + floor)) for a, b in pairwise(tokens)]
        return sum(logs) / len(logs)


def _fitted(features: sparse.csr_matrix):
    from sklearn.linear_model import LogisticRegression

    both = sparse.vstack([features, -features])
    labels = np.repeat([1, 0], features.shape[0])
    return LogisticRegression(fit_intercept=False, C=1.0, max_iter=300).fit(both, labels)


def _scores(differences: sparse.csr_matrix, likelihoods: _Likelihoods, pairs: Pairs) -> np.ndarray:
    """``(P,)`` positive where a model of the other folds takes the caption for the caption."""
    folds = np.array(likelihoods.folds)
    scores = np.zeros(len(pairs))
    for fold in set(folds.tolist()):
        if (folds != fold).any():
            features = _joined(differences, likelihoods.differences(unseen=fold))
            model = _fitted(features[folds != fold])
            scores[folds == fold] = model.decision_function(features[folds == fold])
    return scores
