"""The text-only baseline: how well negatives are told from captions without the image.

The method is SugarCrepe's (Hsieh et al. 2023, section 3).

Shapes: P pairs of a caption and a negative, F features.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from degla.hard_negatives.language.words import lower_words

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Pairs = Sequence[tuple[str, str]]  # a caption and its negative

_NUM_FOLDS = 5
_MIN_PAIRS = 40  # with fewer pairs nothing is reported
_NUM_CUES = 8
_NUM_BINS = 10  # bins of certainty, for balancing
_SMOOTHING = 0.1  # added to every count of a bigram


class TextOnlyAccuracy(NamedTuple):
    """The accuracy of the text-only baseline on one kind."""

    kind: str
    num_pairs: int
    accuracy: float  # share of pairs in which it chooses the caption; 0.5 is chance
    low: float  # of the 95 % interval
    high: float
    cues: list[str]  # words and bigrams that give negatives away, the strongest first
    length: float  # mean number of words of the negative minus that of the caption
    plausibility: float  # share of pairs whose caption is the likelier text


def measure_text_only(kind: str, pairs: Pairs) -> TextOnlyAccuracy:
    """Measure the text-only baseline, cross-validated over captions.

    The baseline is a logistic regression on the difference of the two texts: words and bigrams, length, and the
    likelihood of each text under a bigram model of the other captions. No caption is both trained and tested on.

    Args:
        kind: name for the result.
        pairs: (P) captions with their negatives. Every number of the result is NaN for fewer than 40 pairs.
    """
    features = _text_differences(pairs) if len(pairs) >= _MIN_PAIRS else None
    if features is None:
        return TextOnlyAccuracy(kind, len(pairs), math.nan, math.nan, math.nan, [], math.nan, math.nan)
    differences, names = features
    bigrams = _BigramModels(pairs)
    scores = _cross_validated_scores(differences, bigrams, pairs)
    accuracy = float(np.where(np.abs(scores) < 1e-9, 0.5, scores > 0).mean())
    half_width = 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 0.25 / len(pairs)) / len(pairs))
    likelihoods = bigrams.likelihood_differences()
    plausibility = float(np.mean(np.where(np.abs(likelihoods) < 1e-12, 0.5, likelihoods > 0)))
    weights = _fit(_with_likelihoods(differences, likelihoods)).coef_[0][: len(names)]
    cues = [names[i] for i in np.argsort(weights)[:_NUM_CUES] if weights[i] < 0]
    length = float(np.mean([len(lower_words(n)) - len(lower_words(c)) for c, n in pairs]))
    low, high = max(0.0, accuracy - half_width), min(1.0, accuracy + half_width)
    return TextOnlyAccuracy(kind, len(pairs), accuracy, low, high, cues, length, plausibility)


def text_only_scores(train: Pairs, test: Pairs) -> np.ndarray | None:
    """Return the scores of a text-only baseline for pairs that it was not trained on.

    It is the baseline of ``measure_text_only``, for a split that is given. Training pairs whose caption is also tested
    are left out.

    Args:
        train: pairs to train on.
        test: (P) pairs to score.

    Returns:
        ``(P,)`` scores: positive where it chooses the caption, 0 where it cannot decide. None where fewer than 40
        pairs are left to train on.
    """
    tested_captions = {caption for caption, _ in test}
    train = [pair for pair in train if pair[0] not in tested_captions]
    if len(train) < _MIN_PAIRS or not test:
        return None
    pairs = [*train, *test]
    features = _text_differences(pairs)
    if features is None:
        return None
    folds = [*(_fold(caption) for caption, _ in train), *[_NUM_FOLDS] * len(test)]  # the tested pairs are one more fold
    return _scores_of_fold(features[0], _BigramModels(pairs, folds), _NUM_FOLDS)


def select_balanced(pairs: Pairs, seed: int = 0, max_rounds: int = 20) -> list[bool]:
    """Choose pairs on which the text-only baseline is at chance (SugarCrepe's adversarial refinement).

    In each bin of certainty, as many pairs are kept on which the baseline is correct as pairs on which it is wrong.
    This repeats with a newly trained baseline until the interval of its accuracy contains one half.

    Args:
        pairs: (P) captions with their negatives.
        seed: seed of the choice.
        max_rounds: number of repetitions at most.

    Returns:
        (P) whether a pair is kept. No pair is kept where fewer than 40 would be: the kind cannot be balanced.
    """
    kept = list(range(len(pairs)))
    rng = random.Random(seed)
    for _ in range(max_rounds):
        kept_pairs = [pairs[i] for i in kept]
        features = _text_differences(kept_pairs) if len(kept) >= _MIN_PAIRS else None
        if features is None:
            return [False] * len(pairs)
        scores = _cross_validated_scores(features[0], _BigramModels(kept_pairs), kept_pairs)
        accuracy = float((scores > 0).mean())
        if accuracy - 1.96 * math.sqrt(0.25 / len(kept)) <= 0.5:
            break
        kept = [kept[i] for i in _balance_bins(scores, rng)]
    kept_set = set(kept)
    return [i in kept_set for i in range(len(pairs))]


def _balance_bins(scores: np.ndarray, rng: random.Random) -> list[int]:
    """Return the offsets of the pairs to keep, in order. A positive score is a correct choice."""
    edges = np.quantile(np.abs(scores), np.linspace(0, 1, _NUM_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, np.abs(scores))
    kept: list[int] = []
    for number in range(_NUM_BINS):
        correct = [i for i in range(len(scores)) if bins[i] == number and scores[i] > 0]
        wrong = [i for i in range(len(scores)) if bins[i] == number and scores[i] <= 0]
        kept += [*rng.sample(correct, min(len(correct), len(wrong))), *wrong]
    return sorted(kept)


def _fold(caption: str) -> int:
    return hashlib.sha256(caption.encode()).digest()[0] % _NUM_FOLDS


def _text_differences(pairs: Pairs) -> tuple[sparse.csr_matrix, list[str]] | None:
    """Return ``(P, F)`` caption minus negative, and the names of the word features, which are the first columns.

    None where no word occurs three times.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(analyzer=_words_and_bigrams, binary=True, min_df=3, max_features=50_000)
    captions, negatives = ([pair[side] for pair in pairs] for side in (0, 1))
    try:
        vectorizer.fit([*captions, *negatives])
    except ValueError:  # no word is frequent enough
        return None
    counts = vectorizer.transform(captions).astype(np.float64) - vectorizer.transform(negatives)
    lengths = np.array([[len(lower_words(c)) - len(lower_words(n)), (len(c) - len(n)) / 10] for c, n in pairs])
    return sparse.hstack([counts, sparse.csr_matrix(lengths)]).tocsr(), list(vectorizer.get_feature_names_out())


def _with_likelihoods(differences: sparse.csr_matrix, likelihoods: np.ndarray) -> sparse.csr_matrix:
    return sparse.hstack([differences, sparse.csr_matrix(likelihoods[:, None])]).tocsr()


def _words_and_bigrams(text: str) -> list[str]:
    words = lower_words(text)
    return [*words, *(" ".join(pair) for pair in zip(["^", *words], [*words, "$"], strict=True))]


class _BigramModels:
    """Bigram counts of the captions of each fold, from which the likelihood of a text is computed.

    Args:
        pairs: captions with their negatives.
        folds: fold of each pair, from 0; pairs of one caption have the same fold. None divides by the caption.
    """

    def __init__(self, pairs: Pairs, folds: Sequence[int] | None = None):
        self.pairs = pairs
        self.folds = [_fold(caption) for caption, _ in pairs] if folds is None else list(folds)
        self.num_folds = max(self.folds) + 1
        self.word_counts: list[Counter[str]] = [Counter() for _ in range(self.num_folds)]
        self.bigram_counts: list[Counter[tuple[str, str]]] = [Counter() for _ in range(self.num_folds)]
        fold_of_caption = {caption: fold for (caption, _), fold in zip(pairs, self.folds, strict=True)}
        for caption, fold in fold_of_caption.items():
            words = ["^", *lower_words(caption), "$"]
            self.word_counts[fold].update(words)
            self.bigram_counts[fold].update(pairwise(words))
        self.num_words = len(set().union(*self.word_counts)) + 1

    def likelihood_differences(self, tested_fold: int | None = None) -> np.ndarray:
        """Return ``(P,)`` the mean log-probability of the caption's bigrams minus that of the negative's.

        Args:
            tested_fold: a fold that no count may come from. The model of a pair never counts the captions of the
                pair's own fold. While another fold is tested, it must not count that one either: otherwise the
                training pairs would have seen captions that the tested pairs have not.
        """
        models = {}
        for fold in set(self.folds):
            others = [i for i in range(self.num_folds) if i not in (fold, tested_fold)]
            words: Counter[str] = sum((self.word_counts[i] for i in others), Counter())
            bigrams: Counter[tuple[str, str]] = sum((self.bigram_counts[i] for i in others), Counter())
            models[fold] = words, bigrams
        return np.array(
            [
                self._mean_log_probability(caption, *models[fold]) - self._mean_log_probability(negative, *models[fold])
                for (caption, negative), fold in zip(self.pairs, self.folds, strict=True)
            ]
        )

    def _mean_log_probability(self, text: str, words: Counter[str], bigrams: Counter[tuple[str, str]]) -> float:
        tokens = ["^", *lower_words(text), "$"]
        floor = _SMOOTHING * self.num_words
        logs = [math.log((bigrams[a, b] + _SMOOTHING) / (words[a] + floor)) for a, b in pairwise(tokens)]
        return sum(logs) / len(logs)


def _fit(features: sparse.csr_matrix) -> "LogisticRegression":
    """Fit a logistic regression on ``(P, F)`` differences, each also with the opposite sign and label."""
    from sklearn.linear_model import LogisticRegression

    both = sparse.vstack([features, -features])
    labels = np.repeat([1, 0], features.shape[0])
    return LogisticRegression(fit_intercept=False, C=1.0, max_iter=300).fit(both, labels)


def _cross_validated_scores(differences: sparse.csr_matrix, bigrams: _BigramModels, pairs: Pairs) -> np.ndarray:
    """Return ``(P,)`` scores of models of the other folds. Positive: the model chooses the caption."""
    folds = np.array(bigrams.folds)
    scores = np.zeros(len(pairs))
    for fold in set(folds.tolist()):
        if (folds != fold).any():
            scores[folds == fold] = _scores_of_fold(differences, bigrams, fold)
    return scores


def _scores_of_fold(differences: sparse.csr_matrix, bigrams: _BigramModels, fold: int) -> np.ndarray:
    """Return the scores of the pairs of a fold, by a model of the other folds."""
    is_tested = np.array(bigrams.folds) == fold
    features = _with_likelihoods(differences, bigrams.likelihood_differences(tested_fold=fold))
    scores: np.ndarray = _fit(features[~is_tested]).decision_function(features[is_tested])
    return scores
