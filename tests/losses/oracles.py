"""Slow and simple versions of the losses: plain Python loops over float64 numbers."""

import math


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cross_entropy(positive, others):
    scores = [positive, *others]
    top = max(scores)
    return top + math.log(math.fsum(math.exp(s - top) for s in scores)) - positive


def valid(row_negatives, row_mask):
    return [n for n, m in zip(row_negatives, row_mask, strict=True) if m]


def contrastive(v, t, n, mask, s):
    rows = range(len(v))
    negatives = [neg for i in rows for neg in valid(n[i], mask[i])]
    total = 0.0
    for i in rows:
        others = [s * dot(v[i], t[j]) for j in rows if j != i] + [s * dot(v[i], neg) for neg in negatives]
        total += cross_entropy(s * dot(v[i], t[i]), others) / 2
        total += cross_entropy(s * dot(t[i], v[i]), [s * dot(t[i], v[j]) for j in rows if j != i]) / 2
    return total / len(v)


def igc(v, t, n, mask, s):
    parts = [
        cross_entropy(s * dot(v[i], t[i]), [s * dot(v[i], neg) for neg in valid(n[i], mask[i])]) for i in range(len(v))
    ]
    return math.fsum(parts) / len(parts)


def tgc(t, teacher, n, mask, s):
    parts = [
        cross_entropy(s * dot(t[i], teacher[i]), [s * dot(t[i], neg) for neg in valid(n[i], mask[i])])
        for i in range(len(t))
    ]
    return math.fsum(parts) / len(parts)


def squared(a, b):
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def distillation_sum(v, t, n, tv, tt, tn, mask):
    total = 0.0
    for i in range(len(v)):
        total += squared(v[i], tv[i]) + squared(t[i], tt[i])
        total += sum(squared(a, b) for a, b, m in zip(n[i], tn[i], mask[i], strict=True) if m)
    return total


def released_tgc(t, teacher, n, s):
    """Column c of the flat negatives (row 0's K, row 1's K, ...) belongs to row c mod N."""
    rows = len(t)
    flat = [neg for row in n for neg in row]
    parts = [
        cross_entropy(s * dot(t[i], teacher[i]), [s * dot(t[i], flat[c]) for c in range(len(flat)) if c % rows == i])
        for i in range(rows)
    ]
    return math.fsum(parts) / rows


def imc(v, t, n, mask, s):
    negatives = [neg for i in range(len(v)) for neg in valid(n[i], mask[i])]
    parts = [cross_entropy(s * dot(v[i], t[i]), [s * dot(t[i], neg) for neg in negatives]) for i in range(len(v))]
    return math.fsum(parts) / len(parts)


def cmr(v, t, n, mask, s, thresholds):
    total = 0.0
    for i in range(len(v)):
        for k, threshold in enumerate(thresholds):
            if mask[i][k]:
                total += max(0.0, threshold + s * dot(v[i], n[i][k]) - s * dot(v[i], t[i]))
    return total / (len(v) * len(thresholds))


def thresholds(v, t, n, mask, s, upper):
    captions = math.fsum(s * dot(v[i], t[i]) for i in range(len(v))) / len(v)
    result = []
    for k in range(len(n[0])):
        scores = [s * dot(v[i], n[i][k]) for i in range(len(v)) if mask[i][k]]
        result.append(min(max(captions - math.fsum(scores) / len(scores), 0.0), upper))
    return result
