"""The recipes of two papers, with their flaws, so that numbers can be laid beside published ones.

What was read: the evaluation scripts of theislab/CFGen (`experiments/compute_metrics.py`,
`experiments/compute_metrics_per_cell_type.py`, `cfgen/eval/`) and of EperLuo/scDiffusion
(`exp_script/script_static_eval.ipynb`, `exp_script/script_random_forest.ipynb`). No code of theirs is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scflow.errors import InputError, nearest
from scflow.metrics.catalogue import Better
from scflow.metrics.classifiers import threads
from scflow.metrics.estimate import Estimate
from scflow.metrics.kernels import biased_mmd, mean_square
from scflow.metrics.lisi import lisi
from scflow.metrics.protocol import Clouds, clouds_of
from scflow.metrics.rows import Figures, Row, rows_of
from scflow.metrics.sides import MIN_CELLS, conditions_of
from scflow.metrics.space import log_normalised, variable_genes
from scflow.metrics.transport import wasserstein
from scflow.metrics.trivial import trivial

__all__ = ["PRESETS", "Figure", "Preset", "judge_as", "preset_named"]

Rows = Mapping[str, NDArray[np.int64]]

_MOST_TRANSPORT = 3000
_MOST_KERNEL = 5000
_TREES = 1000


@dataclass(frozen=True)
class Figure:
    """One number of a recipe: which direction is good (as in :class:`Metric`), and what it tells."""

    better: Better
    about: str


@dataclass(frozen=True)
class Preset:
    """A paper's recipe.

    Attributes
    ----------
    figures
        Its numbers by name.
    measure
        From counts of the cells judged, counts of the real cells, the rows of each condition (the same on both sides)
        and a seed to the figures of each condition.
    """

    figures: Mapping[str, Figure]
    measure: Callable[[sparse.csr_matrix, sparse.csr_matrix, Rows, int], Figures]


def cfgen(x: sparse.csr_matrix, y: sparse.csr_matrix, rows: Rows, seed: int) -> Figures:
    """The recipe of CFGen (Palma et al. 2025, ICLR): MMD and Wasserstein distances of principal components.

    Log1p of counts per 10,000 over all genes, then the most variable genes of the test cells, then 30 principal
    components *of the test cells*. Exact Wasserstein distances with powers 1 and 2, and the biased squared MMD with a
    sum of five Gaussian kernels of lengths 0.01, 0.1, 1, 10 and 100. At most 3,000 cells a condition; types with fewer
    than 20 are left out. The paper's conditional numbers are means over types: average the rows of the conditions.

    Its flaws, kept here: the axes are fitted on the cells that are scored. Test cells are centred but generated ones
    are projected without centring, so one constant, the length of the mean's projection, swamps all distances. Of the
    kernels only those of lengths 10 and 100 are not 0 between cells. The biased MMD grows where cells are few.

    Where this differs: genes are chosen by the variance of log1p counts per 10,000, the scripts' by `seurat_v3`, which
    needs a package more. What could not be verified: how many components a published table has (the stored script for
    conditions has 10 in one version, the notebook's successor 30); the text of the paper was not at hand.
    """
    expression, real = log_normalised(x), log_normalised(y)
    chosen = variable_genes(real, 2000)
    mean, axes = _axes(sparse.csr_matrix(real[:, chosen]), 30, seed)
    mine = np.asarray(expression[:, chosen] @ axes)
    theirs = np.asarray(real[:, chosen] @ axes) - mean @ axes
    found: Figures = {name: {} for name in PRESETS["cfgen"].figures}
    for name, which in rows.items():
        a, b = mine[which[:_MOST_TRANSPORT]], theirs[which[:_MOST_TRANSPORT]]
        found["cfgen_wasserstein_1"][name] = wasserstein(a, b, p=1, interval=False)
        found["cfgen_wasserstein_2"][name] = wasserstein(a, b, interval=False)
        # Lengths h are variances 2 h^2 in the exponent.
        found["cfgen_mmd"][name] = Estimate(5 * biased_mmd(a, b, [2 * h**2 for h in (0.01, 0.1, 1.0, 10.0, 100.0)]))
    return found


def scdiffusion(x: sparse.csr_matrix, y: sparse.csr_matrix, rows: Rows, seed: int) -> Figures:
    """The recipe of scDiffusion (Luo et al. 2024, Bioinformatics).

    Log1p of counts per 10,000 of all genes. Spearman's and Pearson's correlation of genes' means. The rest on 50
    principal components of real and generated cells *together*: the biased squared MMD with a sum of five kernels
    ``exp(-d^2 / b)``, b the mean squared distance of all pairs times 1/4, 1/2, 1, 2 and 4, of 5,000 cells a side; the
    AUC of a random forest (1,000 trees of depth 5, balanced weights) on a quarter of the cells held back; the median
    LISI (Korsunsky et al. 2019; 90 neighbours, perplexity 30) on the first 20 components, scaled to 0 for cells apart
    and 1 for cells mixed.

    Its flaws, kept here: correlations of means are close to 1 for almost anything. Axes fitted on both clouds turn
    towards their difference. The biased MMD grows where cells are few. A forest of depth 5 sees less than a full one,
    and one split has no interval. LISI sees density only.

    Where this differs: genes with few cells are not filtered out. LISI takes Euclidean neighbours, not the paths on a
    graph of 10 neighbours that scib's `ilisi_graph` follows. The repository's stored scripts have no Wasserstein
    distance; here it is the exact one with power 2, on the 50 components, of 3,000 cells a side at most, so that this
    number has no published counterpart that could be verified.
    """
    expression, real = log_normalised(x), log_normalised(y)
    both = sparse.csr_matrix(sparse.vstack([expression, real], format="csr"))
    mean, axes = _axes(both, 50, seed)
    mine, theirs = (np.asarray(side @ axes) - mean @ axes for side in (expression, real))
    found: Figures = {name: {} for name in PRESETS["scdiffusion"].figures}
    for name, which in rows.items():
        means = [np.asarray(side[which].mean(axis=0)).ravel() for side in (expression, real)]
        a, b = mine[which[:_MOST_KERNEL]], theirs[which[:_MOST_KERNEL]]
        width = mean_square(np.vstack([a, b]))
        found["scdiffusion_pearson"][name] = Estimate(float(np.corrcoef(means[0], means[1])[0, 1]))
        found["scdiffusion_spearman"][name] = Estimate(_spearman(means[0], means[1]))
        found["scdiffusion_mmd"][name] = Estimate(5 * biased_mmd(a, b, [width * s for s in (0.25, 0.5, 1.0, 2.0, 4.0)]))
        found["scdiffusion_lisi"][name] = Estimate(lisi(a[:, :20], b[:, :20]) - 1)
        found["scdiffusion_forest_auc"][name] = Estimate(_forest_auc(a, b, seed))
        a, b = a[:_MOST_TRANSPORT], b[:_MOST_TRANSPORT]
        found["scdiffusion_wasserstein"][name] = wasserstein(a, b, interval=False)
    return found


PRESETS: dict[str, Preset] = {
    "cfgen": Preset(
        {
            "cfgen_wasserstein_1": Figure("floor", "1-Wasserstein distance, generated cells uncentred"),
            "cfgen_wasserstein_2": Figure("floor", "2-Wasserstein distance, generated cells uncentred"),
            "cfgen_mmd": Figure("less", "biased MMD, fixed kernels, generated cells uncentred"),
        },
        cfgen,
    ),
    "scdiffusion": Preset(
        {
            "scdiffusion_spearman": Figure("more", "rank correlation of genes' means"),
            "scdiffusion_pearson": Figure("more", "correlation of genes' means"),
            "scdiffusion_mmd": Figure("less", "biased MMD, axes of both clouds"),
            "scdiffusion_lisi": Figure("more", "how mixed neighbourhoods are, 1 is fully"),
            "scdiffusion_forest_auc": Figure("less", "whether a shallow forest can tell cells by components"),
            "scdiffusion_wasserstein": Figure("floor", "2-Wasserstein distance, axes of both clouds"),
        },
        scdiffusion,
    ),
}
"""The recipes by the name that :func:`scflow.tl.score` takes; :func:`cfgen` and :func:`scdiffusion` tell of each."""


def preset_named(name: object) -> Preset:
    """The preset of that name.

    Raises
    ------
    InputError
        Where there is none.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(
            f"There is no preset {name!r}.{nearest(name, PRESETS)} Choose one of {', '.join(map(repr, PRESETS))}, or "
            "preset=None for scflow's own metrics."
        )
    return PRESETS[str(name)]


def judge_as(
    preset: str,
    real: sparse.csr_matrix,
    generated: sparse.csr_matrix,
    reference: sparse.csr_matrix | None = None,
    *,
    real_labels: NDArray[Any] | None = None,
    generated_labels: NDArray[Any] | None = None,
    reference_labels: NDArray[Any] | None = None,
    max_cells: int = 10_000,
    seed: int = 0,
) -> list[Row]:
    """Score generated cells by a paper's recipe, on arrays; parameters as in :func:`judge`.

    The recipes compare with all held-out cells, not with one half, and their spaces are fitted on these or on both
    sides. So the floor is as many training cells, which are as new to such a space as generated ones; the trivial
    generator stands beside it. All three have the same composition and size.

    Returns
    -------
    list of Row
        For all cells, and for each category with at least 20 cells a side. Without intervals: the recipes have none.

    Raises
    ------
    InputError
        As :func:`judge`, and where the preset is not known.

    Examples
    --------
    >>> import numpy as np
    >>> real, new = (sparse.csr_matrix(x) for x in np.random.default_rng(0).poisson(2.0, size=(2, 100, 50)))
    >>> rows = judge_as("cfgen", real, new)
    >>> rows[0].condition, len({row.metric for row in rows})
    ('all', 3)
    """
    recipe = preset_named(preset)
    given = (real_labels, generated_labels, reference_labels)
    clouds = clouds_of(real, generated, reference, given, seed)
    rows = _aligned(clouds, max_cells, seed)
    labels = clouds.real_labels[rows[0]]
    where = conditions_of(labels, within=real_labels is not None)
    others = {
        "value": clouds.generated[rows[1]],
        "floor": clouds.reference[rows[2]],
        "trivial": trivial(clouds.reference, clouds.reference_labels, labels, seed),
    }
    found = {role: recipe.measure(cells, clouds.real[rows[0]], where, seed) for role, cells in others.items()}
    with_ratio = [name for name, figure in recipe.figures.items() if figure.better != "more"]
    return rows_of(list(recipe.figures), [found], with_ratio)


def _aligned(clouds: Clouds, max_cells: int, seed: int) -> list[NDArray[np.int64]]:
    """Rows of real, generated and training cells, as many of each category and in the same order of categories."""
    rng = np.random.default_rng(seed)
    sides = (clouds.real_labels, clouds.generated_labels, clouds.reference_labels)
    parts: list[list[NDArray[np.int64]]] = [[np.zeros(0, dtype=np.int64)] for _ in sides]
    for label in np.unique(clouds.real_labels):
        found = [rng.permutation(np.flatnonzero(side == label)) for side in sides]
        n = min(map(len, found))
        for part, rows in zip(parts, found, strict=True):
            part.append(rows[:n])
    aligned = [np.concatenate(part) for part in parts]
    n = len(aligned[0])
    if n < MIN_CELLS:
        raise InputError(
            f"{', '.join(str(len(side)) for side in sides)} real, generated and training cells leave {n} a side of the "
            f"same conditions. Expected at least {MIN_CELLS}: hold out and generate more cells, or compare them as one "
            "with condition=None."
        )
    order = rng.permutation(n)[:max_cells]
    return [side[order] for side in aligned]


def _axes(x: sparse.csr_matrix, k: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean ``[d]`` and the `k` principal axes ``[d, k]`` of the cells of `x`, without making it dense."""
    from sklearn.decomposition import PCA

    model = PCA(min(k, min(x.shape) - 1), svd_solver="arpack", random_state=seed).fit(x.astype(np.float64))
    return np.asarray(model.mean_).ravel(), np.asarray(model.components_).T


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _forest_auc(x: NDArray[Any], y: NDArray[Any], seed: int) -> float:
    """On the quarter of the cells that the forest did not see."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    cells, real = np.vstack([x, y]), np.repeat([0, 1], [len(x), len(y)])
    parts = train_test_split(cells, real, test_size=0.25, stratify=real, random_state=seed)
    seen, held_back, real_seen, real_held_back = parts
    forest = RandomForestClassifier(_TREES, max_depth=5, class_weight="balanced", n_jobs=threads(), random_state=seed)
    scores = forest.fit(seen, real_seen).predict_proba(held_back)[:, 1]
    # Threads add up the trees in any order.
    return float(roc_auc_score(real_held_back, np.round(scores, 10)))
