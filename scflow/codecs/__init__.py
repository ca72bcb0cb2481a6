"""Codecs: from counts to the space the flow lives in, and back to counts."""

from scflow.codecs.base import Codec
from scflow.codecs.calibration import Calibration
from scflow.codecs.counts import Counts
from scflow.codecs.embedding import Embedding
from scflow.codecs.entries import Entries
from scflow.codecs.ordering import coexpression_order
from scflow.codecs.pca import PCA
from scflow.codecs.quantile import Quantile
from scflow.codecs.standardized import Standardized
from scflow.codecs.statistics import GeneStatistics, gene_statistics

__all__ = [
    "PCA",
    "Calibration",
    "Codec",
    "Counts",
    "Embedding",
    "Entries",
    "GeneStatistics",
    "Quantile",
    "Standardized",
    "coexpression_order",
    "gene_statistics",
]
