"""The judge's mathematics: two clouds of cells in, a number with its interval out."""

from __future__ import annotations

from scflow.metrics.catalogue import DEFAULT, METRICS
from scflow.metrics.classifiers import OutOfFold, auc, out_of_fold, two_sample_auc
from scflow.metrics.estimate import Estimate
from scflow.metrics.genes import Profile, gene_correlation, gene_means, gene_variances, ks, profile, zero_fractions
from scflow.metrics.kernels import energy_distance, median_distance, mmd
from scflow.metrics.protocol import Row, judge
from scflow.metrics.space import Space, library_sizes, log_normalised
from scflow.metrics.transport import wasserstein
from scflow.metrics.trivial import poisson_cells
from scflow.metrics.yardstick import Yardstick

__all__ = [
    "DEFAULT",
    "METRICS",
    "Estimate",
    "OutOfFold",
    "Profile",
    "Row",
    "Space",
    "Yardstick",
    "auc",
    "energy_distance",
    "gene_correlation",
    "gene_means",
    "gene_variances",
    "judge",
    "ks",
    "library_sizes",
    "log_normalised",
    "median_distance",
    "mmd",
    "out_of_fold",
    "poisson_cells",
    "profile",
    "two_sample_auc",
    "wasserstein",
    "zero_fractions",
]
