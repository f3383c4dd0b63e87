"""How much of a benchmark its texts alone give away (after SugarCrepe, Hsieh et al. 2023, section 3)."""

from collections.abc import Sequence

import numpy as np

Choices = Sequence[tuple[str, Sequence[str]]]  # correct caption, wrong ones


def text_only_accuracy(train: Choices, test: Choices) -> float:
    """Return the accuracy of a classifier of texts that never sees an image.

    Logistic regression on words and pairs of neighbouring words learns which texts of ``train`` are correct, and
    chooses the most likely text of each item of ``test``. Equal scores share the point, so that a classifier that
    cannot decide is at chance.

    Args:
        train: items of the same kind as ``test``, but no item of it.
        test: the items to answer.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [text for caption, foils in train for text in (caption, *foils)]
    labels = [number == 0 for _, foils in train for number in range(1 + len(foils))]
    model = make_pipeline(
        CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", binary=True),
        LogisticRegression(max_iter=1000, class_weight="balanced"),
    ).fit(texts, labels)
    points = []
    for caption, foils in test:
        scores = model.decision_function([caption, *foils]).round(9)
        winners = scores == scores.max()
        points.append(winners[0] / winners.sum())
    return float(np.mean(points))
