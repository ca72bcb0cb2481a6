"""What it usually means where a metric is off its floor: rules as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["READINGS", "SYMPTOMS", "UNSPOKEN", "Reading", "Symptom"]


@dataclass(frozen=True)
class Symptom:
    """A fault of generated cells.

    Attributes
    ----------
    meaning
        What is wrong, as a clause.
    look
        What shows it, a name of scflow; empty where nothing does.
    """

    meaning: str
    look: str = ""


@dataclass(frozen=True)
class Reading:
    """How a metric is read.

    Attributes
    ----------
    above, below
        The symptom (a key of `SYMPTOMS`) where the value is above or below its floor; None where that is no fault.
    least
        A deviation smaller than this, in the metric's units, is slight whatever the trivial generator does.
    """

    above: str | None
    below: str | None
    least: float = 0.0


SYMPTOMS: dict[str, Symptom] = {
    "copies": Symptom("training cells are repeated, rather than new ones drawn", "pl.neighbours"),
    "missing": Symptom("kinds or states of real cells are missing", "pl.umap"),
    "stray": Symptom("cells lie where no real ones do", "pl.umap"),
    "smooth": Symptom("cells are too smooth: they crowd where real ones spread", "pl.genes"),
    "apart": Symptom("as a whole the cells lie apart from the real ones", "pl.umap"),
    "labels": Symptom("labels are not followed: cells are not the kinds that they are called"),
    "exaggerated": Symptom("kinds are exaggerated: cells are more like their label than real ones are"),
    "zeros": Symptom("genes have too many zeros, or too few", "pl.genes"),
    "means": Symptom("genes' means are off", "pl.genes"),
    "variances": Symptom("genes vary too much, or too little", "pl.genes"),
    "together": Symptom("genes do not go together as they do in real cells", "pl.correlation"),
    "depth": Symptom("depth is wrong: too many or too few counts or genes a cell"),
    "useless": Symptom("what is learnt from them holds less well for real cells"),
    "telltale": Symptom("a classifier tells them from real cells"),
    "other": Symptom("figures that are in no table of meanings"),
}
"""Symptoms by name; of two that are equally grave, the earlier one is told first."""

READINGS: dict[str, Reading] = {
    # Below the floor is no success: too little spread brings a cloud nearer to any sample in many dimensions.
    "wasserstein": Reading("apart", "smooth"),
    "sliced_wasserstein": Reading("apart", None),
    "sinkhorn": Reading("apart", None),
    "mmd": Reading("apart", None),
    "energy": Reading("apart", None),
    **{
        f"{classifier}_auc_{view}": Reading("telltale", None)
        for classifier in ("forest", "logistic")
        for view in ("genes", "components")
    },
    # Cells in the midst of a population have more real neighbours than real cells at its rim do.
    "precision": Reading("smooth", "stray"),
    "density": Reading("smooth", "stray"),
    "recall": Reading(None, "missing"),
    "coverage": Reading(None, "missing"),
    "gene_means": Reading("means", None),
    "gene_variances": Reading("variances", None),
    "zero_fractions": Reading("zeros", None),
    "gene_means_r": Reading(None, "means"),
    "gene_variances_r": Reading(None, "variances"),
    "zero_fractions_r": Reading(None, "zeros"),
    "dropout_curve": Reading("zeros", None),
    "gene_correlation": Reading("together", None),
    "library_size_ks": Reading("depth", None),
    "detected_genes_ks": Reading("depth", None),
    "label_accuracy": Reading("exaggerated", "labels"),
    "fold_change_slope": Reading("exaggerated", "labels"),
    "train_on_synthetic": Reading(None, "useless"),
    # New cells of a good generator have come out at 0.95: well under 1 is what copies are.
    "copying": Reading(None, "copies", least=0.1),
    "duplicates": Reading("copies", None),
}
"""How each metric is read, by name; what is not here is read as "other" on either side."""

UNSPOKEN = frozenset({"mmd_p"})
"""Not read: a p-value falls with the number of cells, whatever the distance, and its floor is any number up to 1."""
