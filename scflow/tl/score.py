"""How real generated cells are: every figure beside its real-against-real floor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scflow import _keys
from scflow._anndata import checked, obs_column, read_counts
from scflow.conditions import as_column
from scflow.errors import InputError, check_seed, listed, name_of, names_of, nearest
from scflow.metrics.catalogue import MIN_CELLS, known
from scflow.metrics.presets import judge_as, preset_named
from scflow.metrics.protocol import judge
from scflow.metrics.rows import Row
from scflow.training.workers import Workers, together

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["score"]


@dataclass(frozen=True, eq=False)
class _Cloud:
    """One of the three sets of cells."""

    name: str
    adata: AnnData
    counts: sparse.csr_matrix


@together()
def score(
    real: AnnData,
    generated: AnnData,
    *,
    reference: AnnData | None = None,
    condition: str | Sequence[str] | None = "auto",
    metrics: str | Sequence[str] = "default",
    preset: str | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score generated cells against held-out real ones, each figure beside its floor and the trivial generator.

    The space (log1p of counts per 10,000, the 2,000 most variable genes, 50 principal components, their mean) is fitted
    on `reference` alone. The held-out cells are cut in two halves at random, the same in every condition. Three
    comparisons are made against the one half, with equally many cells in every condition:

    - **value**: generated cells, drawn at random from `generated`;
    - **floor**: the other half of the real cells, which is what a perfect generator scores;
    - **trivial**: independent Poisson counts from the mean profile of each condition of `reference`, with resampled
      library sizes. What does not beat this has learnt nothing.

    At most 5,000 cells a side are compared (2,000 by transport, 1,000 by classifiers). Small sets are halved up to
    five times (three for classifiers) and figures averaged, so that about 3,000 cells a side take part (1,500).

    Parameters
    ----------
    real
        Held-out real cells: none of them may have been trained on.
    generated
        The cells to judge, as :func:`scflow.tl.generate` makes them. Needs every gene of `real`.
    reference
        The training cells. Without them half of `real` is set aside as the reference, and a warning says so.
    condition
        Columns of `.obs` (of all three) with categories to compare within; several are taken in combination. "auto":
        the categorical conditions that `generated` was drawn with, where its provenance names some. None: all cells as
        one, and the trivial generator then knows one profile only.
    metrics
        "default", or names out of the table below. Those that compare labels are left out where there are none.
    preset
        "cfgen" or "scdiffusion": that paper's own recipe in place of `metrics`, with its flaws, so that numbers can be
        laid beside published ones (see Notes).
    layer
        Where the counts are, in each of the three that has such a layer. Otherwise `.X`, or `.layers["counts"]` where
        `.X` holds no counts.
    seed
        The same seed gives the same table.

    Returns
    -------
    pandas.DataFrame
        One row a metric, for all cells (condition "all") and for each category with at least 20 cells a side; smaller
        ones have no rows, and a warning names them. Also written to `generated.uns["scflow_score"]`. Columns:

        - `condition`, `metric`;
        - `value`, `floor`, `trivial`: as above;
        - `distance`: `value - floor`. A transport distance *below* its floor is no success: it means too little spread;
        - `ratio`: `value / floor`, 1 is perfect; NaN for metrics whose floor is 0 or 0.5 up to chance;
        - `low`, `high`: 95 % interval of `value`, for other cells of the same two populations. It is on the safe side
          where several halvings were averaged, and near the floor.

    Raises
    ------
    InputError
        Where values are no counts, `generated` or `reference` lacks genes of `real`, a condition, metric or preset is
        not known, metrics are named beside a preset, or fewer than 20 cells a side are left.

    Notes
    -----
    ========================= ============================================================================ ==========
    metric                    what is compared                                                             perfect
    ========================= ============================================================================ ==========
    wasserstein               exact 2-Wasserstein distance of principal components                         the floor
    mmd                       unbiased squared MMD of principal components, Gaussian kernels at the median 0
                              distance x 1/4, 1/2, 1, 2, 4
    energy                    unbiased energy distance of principal components                             0
    forest_auc_genes          out-of-fold AUC of a random forest that tells generated from real cells by   0.5
                              their genes (within a condition: of the one forest of all cells)
    forest_auc_components     the same by principal components                                             0.5
    gene_means                absolute error of genes' mean log1p counts per 10,000, mean over genes       the floor
    gene_variances            the same of genes' variance                                                  the floor
    zero_fractions            absolute error of genes' share of cells without a count, mean over genes     the floor
    gene_correlation          absolute error of Pearson's r, mean over pairs of the 200 most variable      the floor
                              genes
    library_size_ks           Kolmogorov-Smirnov distance of total counts a cell                           the floor
    detected_genes_ks         Kolmogorov-Smirnov distance of genes detected a cell                         the floor
    precision                 share of generated cells within reach (the fifth nearest neighbour's         the floor
                              distance) of a real cell; principal components, as the next three            or more
    recall                    share of real cells within reach of a generated one                          the floor
                                                                                                           or more
    density                   how many real cells have each generated one within reach, over 5             the floor
    coverage                  share of real cells with a generated one within reach                        the floor
                                                                                                           or more
    dropout_curve             absolute error of the share of zeros at a given mean, over 20 bins of genes  the floor
    label_accuracy            accuracy, against what cells were generated as, of a classifier trained on   the floor
                              the real half (logistic regression of that half's own principal components)
    fold_change_slope         slope, generated on real, of log2 fold changes of each condition against     the floor
                              the rest, over its 100 genes of largest real change
    copying                   median distance to the nearest reference cell (of 20,000 at most) over       the floor
                              that to the nearest real one, in principal components of both
    duplicates                share of cells whose every count is that of one reference cell               the floor
    logistic_auc_genes        as forest_auc_genes, by logistic regression; not in "default"                0.5
    logistic_auc_components   as forest_auc_components, by logistic regression; not in "default"           0.5
    gene_means_r              Pearson's r of genes' means; not in "default"                                1
    gene_variances_r          Pearson's r of genes' variances; not in "default"                            1
    zero_fractions_r          Pearson's r of genes' shares of zeros; not in "default"                      1
    sliced_wasserstein        2-Wasserstein distance over 200 random directions of principal components;   the floor
                              not in "default"
    sinkhorn                  debiased Sinkhorn divergence of principal components, regularised by 0.05    the floor
                              of the median squared distance; not in "default"
    mmd_p                     p-value of mmd by 199 permutations, uniform for real cells; not in           above 0.05
                              "default"
    train_on_synthetic        macro F1 on the real half of a classifier trained on generated cells         the floor
                              (within a condition: F1 of its label); not in "default"                      or more
    ========================= ============================================================================ ==========

    `label_accuracy`, `fold_change_slope` and `train_on_synthetic` need a condition; `copying` and `duplicates` tell of
    copies only where `reference` holds the cells that were trained on. `copying` is near 0 for copies; its floor is 1
    where there are as many reference as real cells a side, and less where there are more. `mmd_p` has no interval.

    **Presets.** Generated cells, as many reference cells (the floor: they are as new to the recipe's space) and the
    trivial generator's are compared with all of `real`, up to 10,000. There are no intervals.

    - "cfgen" (Palma et al. 2025): `cfgen_wasserstein_1`, `cfgen_wasserstein_2` and `cfgen_mmd` (biased, fixed kernels)
      on 30 principal components of the real cells, where these are centred and the others are not. The paper's
      conditional numbers are means over the rows of conditions.
    - "scdiffusion" (Luo et al. 2024): `scdiffusion_spearman` and `scdiffusion_pearson` of genes' means, and, on 50
      principal components of both sides together, `scdiffusion_mmd` (biased), `scdiffusion_lisi`,
      `scdiffusion_forest_auc` and `scdiffusion_wasserstein`.

    :func:`scflow.metrics.presets.cfgen` and :func:`scflow.metrics.presets.scdiffusion` say what is done, what is wrong
    with it, and what could not be verified.

    Under torchrun, or in a process group of the caller's own, the processes make the figures in turn, and all of them
    return the table of one process. A preset is the first one's work.

    Genes of `generated` and `reference` are put in the order of `real`, by name. Genes that `real` lacks are dropped,
    so library sizes are sums over the genes of `real`.

    Examples
    --------
    >>> import scflow
    >>> adata = scflow.datasets.pbmc68k()
    >>> train, held_out = scflow.pp.split(adata, stratify="cell_type")
    >>> table = scflow.tl.score(held_out, train[:300].copy(), reference=train, metrics="mmd", condition="cell_type")
    >>> table.loc[0, ["condition", "metric"]].tolist()
    ['all', 'mmd']
    """
    workers, names = Workers.now(), known(metrics)
    check_seed(seed)
    _check_preset(preset, metrics)
    clouds = _read(real, generated, reference, layer)
    labels = _labels(clouds, _columns(condition, generated))
    for remark in _remarks(clouds, labels):
        warnings.warn(remark, UserWarning, stacklevel=3)  # past the frame of together()
    found = {} if labels is None else {c.name: side for c, side in zip(clouds, labels, strict=True)}
    counts = (clouds[0].counts, clouds[1].counts, None if reference is None else clouds[2].counts)
    given: dict[str, Any] = {f"{name}_labels": found.get(name) for name in ("real", "generated", "reference")}
    workers.agree({"cells": [side.shape for side in counts if side is not None], "metrics": names, "seed": seed})
    if preset is None:
        deal = workers.dealt if workers.size > 1 else None
        rows = judge(*counts, **given, metrics=names, seed=seed, deal=deal)
    else:
        rows = workers.once(lambda: judge_as(preset, *counts, **given, seed=seed))
    table = pd.DataFrame(rows, columns=list(Row._fields))
    _write(generated, table)
    return table


def _check_preset(preset: str | None, metrics: str | Sequence[str]) -> None:
    """A preset is a known one, and has its own metrics."""
    if preset is None:
        return
    preset_named(preset)
    if not (isinstance(metrics, str) and metrics == "default"):
        raise InputError(
            f"preset={preset!r} has metrics of its own, and metrics={metrics!r} were named beside it. Leave out one of "
            f"the two: scflow.tl.score(real, generated, reference=train, preset={preset!r})."
        )


def _read(real: AnnData, generated: AnnData, reference: AnnData | None, layer: str | None) -> list[_Cloud]:
    """Counts of real, generated and (where given) reference cells, with the genes of `real` in its order."""
    given = {"real": real, "generated": generated} | ({} if reference is None else {"reference": reference})
    adatas = {name: checked(adata, name=name) for name, adata in given.items()}
    if name_of(layer, "layer") is not None and not any(layer in adata.layers for adata in adatas.values()):
        layers = sorted({str(key) for adata in adatas.values() for key in adata.layers if key is not None})
        raise InputError(
            f"None of {', '.join(adatas)} has a layer {layer!r}.{nearest(layer, layers)} Layers: "
            f"{listed(layers) or 'none'}. Name one of them, or leave layer=None."
        )
    genes = real.var_names
    clouds = []
    for name, adata in adatas.items():
        here = layer if layer in adata.layers else None
        counts = read_counts(adata, here, name=name, for_training=False)
        if not adata.var_names.equals(genes):
            counts = sparse.csr_matrix(counts[:, _places(adata, real, name)])
        clouds.append(_Cloud(name, adata, counts))
    return clouds


def _places(adata: AnnData, real: AnnData, name: str) -> NDArray[np.int64]:
    """The column of `adata` that holds each gene of `real`."""
    places = adata.var_names.get_indexer(real.var_names)
    missing = real.var_names[places < 0]
    if len(missing):
        raise InputError(
            f"{name} lacks {len(missing)} of the {real.n_vars} genes of real ({listed(missing)})."
            f"{nearest(missing[0], adata.var_names)} Compare on the genes that it has: "
            f"real = real[:, real.var_names.isin({name}.var_names)].copy()."
        )
    result: NDArray[np.int64] = places.astype(np.int64)
    return result


def _columns(condition: str | Sequence[str] | None, generated: AnnData) -> tuple[list[str], bool]:
    """The columns to compare within, and whether they were asked for (or found in the provenance)."""
    if condition is None:
        return [], True
    if isinstance(condition, str) and condition == "auto":
        flow = generated.uns.get(_keys.FLOW)
        provenance = flow.get("provenance") if isinstance(flow, Mapping) else None
        found = provenance.get("condition") if isinstance(provenance, Mapping) else None
        return ([] if found is None else [str(column) for column in np.atleast_1d(found)]), False
    return [str(column) for column in names_of(condition, "condition")], True


def _labels(clouds: Sequence[_Cloud], columns: tuple[list[str], bool]) -> list[NDArray[np.str_]] | None:
    """The category of each cell of each cloud, or None where there is nothing to compare within."""
    names, asked = columns
    frames = [{name: _column(cloud, name, asked) for name in names} for cloud in clouds]
    categorical = [name for name in names if all(isinstance(f[name].dtype, pd.CategoricalDtype) for f in frames)]
    numeric = [name for name in names if name not in categorical]
    if asked and numeric:
        raise InputError(
            f"Condition {numeric[0]!r} holds numbers in obs, and cells cannot be compared within each number. Make it "
            f"categorical in all of {', '.join(c.name for c in clouds)}: "
            f"adata.obs[{numeric[0]!r}] = adata.obs[{numeric[0]!r}].astype(str).astype('category')."
        )
    if not categorical:
        return None
    found = []
    for frame in frames:
        texts = [frame[name].astype(str).to_numpy(dtype=str) for name in categorical]
        found.append(np.array([", ".join(parts) for parts in zip(*texts, strict=True)], dtype=np.str_))
    return found


def _column(cloud: _Cloud, name: str, asked: bool) -> pd.Series[Any]:
    """A column of `.obs` as categories or numbers."""
    if not asked and name not in cloud.adata.obs.columns:
        raise InputError(
            f"{cloud.name}.obs has no column {name!r}, a condition that the generated cells were drawn with."
            f"{nearest(name, cloud.adata.obs.columns)} Add it, or compare all cells as one with condition=None."
        )
    return as_column(obs_column(cloud.adata, name, name=cloud.name), name)


def _remarks(clouds: Sequence[_Cloud], labels: Sequence[NDArray[np.str_]] | None) -> Iterator[str]:
    """What a reader of the table has to know."""
    n_real = clouds[0].adata.n_obs
    share = 1 if len(clouds) == 3 else 2
    if share == 2:
        yield (
            f"No reference was given: half of the {n_real} real cells are set aside to fit the space and the trivial "
            "generator. Pass the training cells: scflow.tl.score(real, generated, reference=train)."
        )
    if labels is None:
        return
    real, generated = (dict(zip(*np.unique(side, return_counts=True), strict=True)) for side in labels[:2])
    for one, other, name in ((real, generated, "generated"), (generated, real, "real")):
        lacking = [label for label in one if label not in other]
        if lacking:
            cells = sum(int(one[label]) for label in lacking)
            yield (
                f"{len(lacking)} of {len(one)} conditions ({cells} cells) have no {name} cells and are left out: "
                f"{listed(lacking)}."
            )
    sides = {label: min(int(real[label]) // (2 * share), int(generated[label])) for label in real if label in generated}
    small = [f"{label} ({n})" for label, n in sides.items() if n < MIN_CELLS]
    if small:
        yield (
            f"{len(small)} of {len(sides)} conditions have fewer than {MIN_CELLS} cells a side and no rows of their "
            f"own: {listed(small)}."
        )


def _write(generated: AnnData, table: pd.DataFrame) -> None:
    """Leave the table in `.uns`; a view becomes a copy of its own, as everywhere in AnnData, without the warning."""
    from anndata import ImplicitModificationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        generated.uns[_keys.SCORE] = table.copy()
