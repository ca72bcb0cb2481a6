"""Ways to make more of a rare type's cells, each from the same few: what augmentation.py compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from cells import CONDITION, counts_of, types
from numpy.typing import NDArray
from scipy import sparse

import scflow
from scflow.metrics import Space, library_sizes

NEIGHBOURS = 5
"""Of SMOTE."""


@dataclass(frozen=True, eq=False)
class Task:
    """A training set in which one type has few cells.

    Attributes
    ----------
    train
        Cells with counts in `.X`, of the variable genes.
    space
        Variable genes and components of the training cells.
    rare
        The rare type.
    more
        How many cells to add to it.
    seed, steps
        Of all that is drawn; and of the flow's training.
    """

    train: AnnData
    space: Space
    rare: str
    more: int
    seed: int
    steps: int

    @property
    def rng(self) -> np.random.Generator:
        """A generator in its first state."""
        return np.random.default_rng(self.seed)

    @property
    def few(self) -> sparse.csr_matrix:
        """Counts of the rare type's cells."""
        return counts_of(self.train)[types(self.train) == self.rare]

    def picks(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """`more` of the rare cells, each as often as the others, as nearly as can be."""
        n = self.few.shape[0]
        turns = [rng.permutation(n) for _ in range(-(-self.more // n))]
        return np.concatenate(turns)[: self.more] if turns else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Examples:
    """What a classifier learns from: log1p of counts per 10,000 of the variable genes, types, weights."""

    expression: sparse.csr_matrix
    labels: NDArray[np.str_]
    weights: NDArray[np.float64]


def nothing(task: Task) -> Examples:
    """The training cells."""
    return _with(task, task.space.expression(counts_of(task.train)[:0]))


def class_weights(task: Task) -> Examples:
    """The training cells, every type with the same weight in all."""
    labels = types(task.train)
    known, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights = len(labels) / (len(known) * sizes[places])
    return Examples(task.space.expression(counts_of(task.train)), labels, weights)


def duplicates(task: Task) -> Examples:
    """Rare cells again (random oversampling)."""
    return _with(task, task.space.expression(task.few[task.picks(task.rng)]))


def smote(task: Task) -> Examples:
    """Points between a rare cell and one of its nearest of the type, in log space (Chawla et al. 2002)."""
    from sklearn.neighbors import NearestNeighbors

    rng, few = task.rng, task.space.genes(task.few)
    k = min(NEIGHBOURS, len(few) - 1)
    near = NearestNeighbors(n_neighbors=k + 1).fit(few).kneighbors(few, return_distance=False)
    one = task.picks(rng)
    other = near[one, rng.integers(1, k + 1, size=task.more)]
    points = few[one] + rng.random((task.more, 1), dtype=np.float32) * (few[other] - few[one])
    return _with(task, sparse.csr_matrix(points))


def noise(task: Task) -> Examples:
    """Rare cells again, each count drawn anew from a Poisson distribution with that mean."""
    rng = task.rng
    counts = task.few[task.picks(rng)].astype(np.float64)
    counts.data = rng.poisson(counts.data).astype(np.float64)
    return _with(task, _expressed(task, counts))


def scvi(task: Task) -> Examples:
    """Counts that scVI (Lopez et al. 2018), trained on all cells, draws around rare cells' latent states."""
    import scvi as tools

    tools.settings.seed = task.seed
    cells = AnnData(counts_of(task.train).astype(np.float32), obs=task.train.obs[[CONDITION]].copy())
    tools.model.SCVI.setup_anndata(cells)
    model = tools.model.SCVI(cells)
    model.train(accelerator="cpu", enable_progress_bar=False)
    again = cells[np.flatnonzero(types(task.train) == task.rare)[task.picks(task.rng)]].copy()
    again.obs_names_make_unique()
    drawn = model.posterior_predictive_sample(again, n_samples=1)
    values = drawn.todense() if hasattr(drawn, "todense") else np.asarray(drawn)
    return _with(task, _expressed(task, sparse.csr_matrix(np.asarray(values).reshape(task.more, -1))))


def flow(task: Task) -> Examples:
    """Cells of `scflow.tl.augment`, whose flow is trained on all cells."""
    made = scflow.tl.augment(
        task.train.copy(), CONDITION, n_obs={task.rare: task.more}, steps=task.steps, seed=task.seed, progress=False
    )
    return _with(task, _expressed(task, counts_of(made[made.obs["scflow_synthetic"].to_numpy()])))


METHODS: dict[str, Callable[[Task], Examples]] = {
    "nothing": nothing,
    "class weights": class_weights,
    "duplicates": duplicates,
    "SMOTE": smote,
    "noise": noise,
    "scVI": scvi,
    "scflow": flow,
}


def available(method: str) -> bool:
    """Whether what a method needs is installed."""
    return method != "scVI" or importlib.util.find_spec("scvi") is not None


def _expressed(task: Task, counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log-normalised counts; a cell without counts, which cannot be normalised, is left out."""
    return task.space.expression(sparse.csr_matrix(counts[library_sizes(counts) > 0]))


def _with(task: Task, new: sparse.csr_matrix) -> Examples:
    """The training cells and new ones of the rare type, all with weight 1."""
    real = task.space.expression(counts_of(task.train))
    labels = np.concatenate([types(task.train), np.full(new.shape[0], task.rare)])
    return Examples(sparse.vstack([real, new], format="csr"), labels, np.ones(len(labels)))
