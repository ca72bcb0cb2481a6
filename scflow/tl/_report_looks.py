"""The sections of a report that are pictures of cells, of genes and of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from scflow import _keys
from scflow.tl._page import Markup, paragraph, pictures, section
from scflow.tl._pictures import Picture, drawn

if TYPE_CHECKING:
    from anndata import AnnData

    from scflow.flow import Flow

__all__ = ["looks", "training"]

_CELLS = "One UMAP, fitted on the real cells alone. Distances between groups of cells mean little in it."
_GENES = "A dot is a gene, of raw counts. The dashed lines are those of independent Poisson counts."
_TOGETHER = (
    "In the square a point is the correlation of two genes, real below the diagonal and generated above it: a perfect "
    "one is its own mirror image. The other two show the same pairs against one half of the real cells; the last one "
    "is how much scatter chance alone makes."
)
_COPIES = (
    "The share of cells with a training cell, and with one of as many unseen cells, nearer than a distance. Of copies "
    "the lines part on the left. The ratio is that of the medians: 1 is perfect, 0 is what copies have. Compare the "
    "lines of one picture, not the two pictures."
)


def looks(clouds: dict[str, AnnData], color: str | None, layer: str | None, seed: int) -> list[Markup]:
    """The cells, their genes, what goes together, and whether they are copies."""
    from scflow import pl

    real, generated, reference = clouds["real"], clouds["generated"], clouds.get("reference")
    umap = drawn(
        lambda ax: pl.umap(real, generated, color=color, layer=layer, seed=seed, ax=ax),
        [(3.5, 3.5)] * 3,
        ["UMAP of the real cells", "UMAP of the generated cells", "Both in one UMAP"],
    )
    genes = drawn(
        lambda ax: pl.genes(real, generated, layer=layer, ax=ax),
        [(4.8, 4.0)] * 2,
        ["Variance of each gene against its mean", "Fraction of zeros of each gene against its mean"],
    )
    together = drawn(
        lambda ax: pl.correlation(real, generated, layer=layer, seed=seed, ax=ax),
        [(4.9, 4.0), (3.9, 3.9), (3.9, 3.9)],
        ["Correlation of pairs of genes", "Generated against real correlations", "Real against real correlations"],
    )
    copies = [paragraph("Whether cells are copies can be seen beside the training cells only: give reference=train.")]
    if reference is not None:
        copies = [paragraph(_COPIES, "soft"), pictures(_neighbours(real, generated, reference, layer, seed))]
    return [
        section("Cells", paragraph(_CELLS, "soft"), pictures(umap)),
        section("Genes", paragraph(_GENES, "soft"), pictures(genes)),
        section("Genes together", paragraph(_TOGETHER, "soft"), pictures(together)),
        section("Copies of training cells", *copies),
    ]


def _neighbours(real: AnnData, generated: AnnData, reference: AnnData, layer: str | None, seed: int) -> list[Picture]:
    from scflow import pl

    return drawn(
        lambda ax: pl.neighbours(real, generated, reference, layer=layer, seed=seed, ax=ax),
        [(4.8, 3.6)] * 2,
        ["Distances of generated cells to training and held-out cells", "The same of real held-out cells"],
    )


def training(flow: Flow | AnnData | None, clouds: dict[str, AnnData]) -> list[Markup]:
    """The losses, where a flow is at hand."""
    from scflow import pl

    carriers = [clouds[name] for name in ("reference", "real") if name in clouds]
    found = next((adata for adata in carriers if _carries_flow(adata)), None)
    given = found if flow is None else flow
    if given is None:
        return []
    shown = drawn(lambda ax: pl.history(given, ax=ax), [(6.0, 3.6)], ["Loss and validation loss during training"])
    return [section("Training", pictures(shown))]


def _carries_flow(adata: AnnData) -> bool:
    content = adata.uns.get(_keys.FLOW)
    return isinstance(content, Mapping) and "config" in content
