"""Whether labels mean on generated cells what they mean on real ones: classifiers carried from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scflow.errors import InputError
from scflow.metrics.estimate import Estimate, normal_interval

__all__ = ["label_accuracy", "label_model", "macro_f1", "train_on_synthetic"]

_DRAWS = 200


def label_model(x: NDArray[Any], labels: NDArray[Any]) -> Any:
    """Logistic regression of labels ``[n]`` on standardised columns of `x` ``[n, d]``, with an L2 penalty (C = 1).

    Returns
    -------
    A fitted scikit-learn pipeline.

    Raises
    ------
    InputError
        Where lengths do not fit, or there is only one label.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> label_model(x, np.array(["a", "a", "b", "b"])).predict([[4.0]]).tolist()
    ['b']
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(labels)
    if labels.shape != (len(x),) or len(np.unique(labels)) < 2:
        raise InputError(
            f"{len(x)} cells have labels of shape {labels.shape} with {len(np.unique(labels))} different ones; "
            "expected one label a cell, and at least 2 to tell apart. Leave out metrics of labels where there is one."
        )
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, labels)


def label_accuracy(x: NDArray[Any], labels: NDArray[Any], model: Any, *, interval: bool = True) -> Estimate:
    """The share of cells that a classifier of held-out real cells calls what they were generated as.

    The floor is its accuracy on held-out real cells that it did not learn from either. More than that is no success:
    such cells are too typical. A classifier of the cells that a generator learnt from knows the noise of these, and
    finds whatever repeats it too typical.

    Parameters
    ----------
    x
        Cells ``[n, d]``, in the space that the classifier learnt in.
    labels
        What they were generated as, ``[n]``.
    model
        What :func:`label_model` made of real cells that are new to the generator, or anything with ``predict``.
    interval
        Whether to add the interval, for other cells and the same classifier.

    Returns
    -------
    Estimate
        Between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> labels = np.array(["a", "a", "b", "b"])
    >>> label_accuracy(x, labels, label_model(x, labels)).value
    1.0
    """
    right = np.asarray(model.predict(x)) == np.asarray(labels)
    value = float(right.mean())
    return (
        normal_interval(value, value * (1 - value) / len(right), least=0.0, most=1.0) if interval else Estimate(value)
    )


def train_on_synthetic(
    x: NDArray[Any],
    labels_x: NDArray[Any],
    y: NDArray[Any],
    labels_y: NDArray[Any],
    *,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """Macro F1, on real cells, of a classifier that learnt from generated ones (Esteban, Hyland and Rätsch 2017).

    The floor is what it scores when it learns from as many other real cells.

    Parameters
    ----------
    x, labels_x
        Generated cells ``[n, d]`` and their labels ``[n]``.
    y, labels_y
        Real cells ``[m, d]`` and their labels ``[m]``.
    interval
        Whether to add the interval: 1.96 standard deviations over 200 bootstraps of the real cells, with the
        classifier as it is.
    seed
        Of the bootstrap.

    Returns
    -------
    Estimate
        Between 0 and 1: the mean over labels of `y` of the harmonic mean of precision and recall.

    Raises
    ------
    InputError
        Where lengths do not fit, or `x` has only one label.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> labels = np.array(["a", "a", "b", "b"])
    >>> train_on_synthetic(x, labels, x + 0.2, labels, interval=False).value
    1.0
    """
    guessed = label_model(x, labels_x).predict(y)
    return macro_f1(np.asarray(guessed), np.asarray(labels_y), interval=interval, seed=seed)


def macro_f1(
    guessed: NDArray[Any],
    labels: NDArray[Any],
    *,
    among: NDArray[Any] | None = None,
    interval: bool = True,
    seed: int = 0,
) -> Estimate:
    """The mean F1 over labels, or over those of `among`; the interval as in :func:`train_on_synthetic`."""
    classes = np.unique(labels if among is None else among)
    hit = np.stack([(guessed == c) & (labels == c) for c in classes], axis=1).astype(np.float64)
    # A cell is in the denominator once as guessed and once as labelled.
    seen = np.stack([(guessed == c) * 1.0 + (labels == c) for c in classes], axis=1)
    n = len(labels)
    value = _mean_f1(np.ones((1, n)), hit, seen)[0]
    if not interval:
        return Estimate(float(value))
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    return normal_interval(float(value), float(_mean_f1(draws, hit, seen).var(ddof=1)), least=0.0, most=1.0)


def _mean_f1(weights: NDArray[Any], hit: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value a row of `weights`; a class that is neither there nor guessed counts 0, as in scikit-learn."""
    result: NDArray[np.float64] = (2 * (weights @ hit) / np.maximum(weights @ seen, 1e-12)).mean(axis=1)
    return result
