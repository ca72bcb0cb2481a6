"""The judge's mathematics: two clouds of cells in, a number with its interval out."""

from __future__ import annotations

from scflow.metrics.catalogue import DEFAULT, METRICS, Metric
from scflow.metrics.classifiers import OutOfFold, auc, out_of_fold, two_sample_auc
from scflow.metrics.copies import copying, duplicates
from scflow.metrics.dropout import dropout_curve
from scflow.metrics.entropic import sinkhorn
from scflow.metrics.estimate import Estimate
from scflow.metrics.fold_changes import fold_change_slope
from scflow.metrics.genes import Profile, gene_correlation, gene_means, gene_variances, ks, profile, zero_fractions
from scflow.metrics.halves import set_aside
from scflow.metrics.kernels import energy_distance, median_distance, mmd
from scflow.metrics.labels import label_accuracy, label_model, train_on_synthetic
from scflow.metrics.neighbours import coverage, density, precision, recall
from scflow.metrics.permutation import mmd_test
from scflow.metrics.presets import PRESETS, judge_as
from scflow.metrics.protocol import judge
from scflow.metrics.rows import Row
from scflow.metrics.sliced import sliced_wasserstein
from scflow.metrics.space import Space, library_sizes, log_normalised
from scflow.metrics.transport import wasserstein
from scflow.metrics.trivial import poisson_cells
from scflow.metrics.yardstick import Yardstick

__all__ = [
    "DEFAULT",
    "METRICS",
    "PRESETS",
    "Estimate",
    "Metric",
    "OutOfFold",
    "Profile",
    "Row",
    "Space",
    "Yardstick",
    "auc",
    "copying",
    "coverage",
    "density",
    "dropout_curve",
    "duplicates",
    "energy_distance",
    "fold_change_slope",
    "gene_correlation",
    "gene_means",
    "gene_variances",
    "judge",
    "judge_as",
    "ks",
    "label_accuracy",
    "label_model",
    "library_sizes",
    "log_normalised",
    "median_distance",
    "mmd",
    "mmd_test",
    "out_of_fold",
    "poisson_cells",
    "precision",
    "profile",
    "recall",
    "set_aside",
    "sinkhorn",
    "sliced_wasserstein",
    "train_on_synthetic",
    "two_sample_auc",
    "wasserstein",
    "zero_fractions",
]
