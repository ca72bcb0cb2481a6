"""scVI as a generator of cells (Lopez et al. 2018, 10.1038/s41592-018-0229-2); needs the extra `benchmarks`."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import scvi
import torch
from anndata import AnnData
from cells import CONDITION, counts_of, types
from numpy.typing import NDArray
from rivals import sizes_of_type
from scipy import sparse


class ScVI:
    """A model with all of scVI's defaults and the type as its batch, so that its decoder knows the type.

    The encoder does not see the batch (scVI's default). The prior is the same for all types, N(0, I): it is the decoder
    that makes a cell of it one of the type.
    """

    def __init__(self, train: AnnData, seed: int, epochs: int | None = None) -> None:
        quiet()
        scvi.settings.seed = seed
        self.counts, self.labels, self.seed = counts_of(train), types(train), seed
        cells = AnnData(self.counts.astype(np.float32), obs=train.obs[[CONDITION]].copy())
        scvi.model.SCVI.setup_anndata(cells, batch_key=CONDITION)
        self.model = scvi.model.SCVI(cells)
        self.model.train(epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
        registry = self.model.adata_manager.get_state_registry(scvi.REGISTRY_KEYS.BATCH_KEY)
        self.places = {str(label): i for i, label in enumerate(registry["categorical_mapping"])}

    def prior(self, wanted: NDArray[np.str_]) -> sparse.csr_matrix:
        """Counts of types whose codes come from N(0, I)."""
        shape = (len(wanted), self.model.module.n_latent)
        return self._counts(np.random.default_rng(self.seed).standard_normal(shape), wanted)

    def gaussian(self, wanted: NDArray[np.str_]) -> sparse.csr_matrix:
        """Counts of types whose codes come from a Gaussian with the mean and covariance of the type's posterior means.

        Of a single cell there is no covariance: its code is used as it is.
        """
        rng, codes = np.random.default_rng(self.seed), self.model.get_latent_representation()
        drawn = np.empty((len(wanted), codes.shape[1]))
        for label in np.unique(wanted):
            places, own = wanted == label, codes[self.labels == label].astype(np.float64)
            spread = np.cov(own, rowvar=False) if len(own) > 1 else np.zeros((codes.shape[1],) * 2)
            # Fewer cells than coordinates have a covariance that is singular, which "svd" allows.
            drawn[places] = rng.multivariate_normal(own.mean(axis=0), spread, places.sum(), method="svd")
        return self._counts(drawn, wanted)

    @torch.inference_mode()
    def _counts(self, codes: NDArray[np.float64], wanted: NDArray[np.str_]) -> sparse.csr_matrix:
        """Counts from the likelihood at codes `[n, n_latent]`, with library sizes of training cells of the type."""
        library = np.log(sizes_of_type(self.counts, self.labels, wanted, self.seed))
        batch = np.array([self.places[label] for label in wanted])
        torch.manual_seed(self.seed)  # Distributions have no generator of their own.
        module, parts = self.model.module.eval(), []
        for rows in np.array_split(np.arange(len(wanted)), -(-len(wanted) // 512)):
            z, total = (torch.from_numpy(x[rows]).float() for x in (codes, library[:, None]))
            found = module.generative(z, total, torch.from_numpy(batch[rows, None]))
            parts.append(sparse.csr_matrix(found["px"].sample().numpy()))
        return sparse.vstack(parts, format="csr")


def quiet() -> None:
    """No banners: a table is what is printed."""
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
