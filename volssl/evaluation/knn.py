"""Nearest neighbours on frozen features: what they tell without any training (Wu et al. 2018; Caron et al. 2021).

scikit-learn finds the neighbours and counts the votes; the weights are those of DINO, so that figures can be set beside
those of other papers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from volssl.evaluation.metrics import Floats, checked_labels, roc_auc

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's


def knn_scores(
    train: npt.ArrayLike,
    y: npt.ArrayLike,
    features: npt.ArrayLike,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Floats:
    """The share of the positives among the votes of the nearest, each weighing exp(cosine similarity / temperature).

    Args:
        train: (N, dim) labelled features.
        y: (N,) of 0, 1 and NaN; cases with NaN have no vote.
        features: (M, dim) to be scored.
        neighbours: that vote; all where there are fewer.
        temperature: divides the similarities; smaller gives the very nearest more.

    Returns:
        (M,) in [0, 1].

    Raises:
        ValueError: where no case is labelled.
    """
    labels = checked_labels(y)
    known = ~np.isnan(labels)
    if not known.any():
        raise ValueError("no case has a label: there is no neighbour to ask")

    def weights(distances: Floats) -> Floats:
        """Cosine distances, 1 minus similarity; a factor exp(1 / T) of all votes cancels."""
        votes: Floats = np.exp(-distances / temperature)
        return votes

    classifier = KNeighborsClassifier(
        n_neighbors=min(neighbours, int(known.sum())), weights=weights, metric="cosine", algorithm="brute"
    )
    classifier.fit(np.asarray(train, dtype=np.float64)[known], labels[known].astype(int))
    votes = classifier.predict_proba(np.asarray(features, dtype=np.float64))
    scores: Floats = votes[:, classifier.classes_ == 1].sum(axis=1)
    return scores


def knn_auc(
    train: npt.ArrayLike,
    y: npt.ArrayLike,
    validation: npt.ArrayLike,
    y_validation: npt.ArrayLike,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """AUC of `knn_scores` on validation; NaN where its labels lack a class."""
    scores = knn_scores(train, y, validation, neighbours=neighbours, temperature=temperature)
    return float(roc_auc(checked_labels(y_validation), scores))
