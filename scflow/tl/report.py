"""Scores, verdict and pictures on one page that can be sent."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scflow import _file
from scflow._anndata import checked, read_scores
from scflow.errors import FileError, path_of
from scflow.metrics.verdict import verdict as in_sentences
from scflow.tl._origin import in_words, now, provenance_of, versions
from scflow.tl._page import Markup, details, facts, page, paragraph, section, sentences
from scflow.tl._report_looks import looks, training
from scflow.tl._report_scores import score_sections
from scflow.tl._rows import rows_of
from scflow.tl.score import score

if TYPE_CHECKING:
    from anndata import AnnData

    from scflow.flow import Flow

__all__ = ["report"]


def report(
    real: AnnData,
    generated: AnnData,
    *,
    reference: AnnData | None = None,
    path: str | os.PathLike[str] = "report.html",
    condition: str | Sequence[str] | None = "auto",
    scores: pd.DataFrame | AnnData | None = None,
    flow: Flow | AnnData | None = None,
    layer: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write one HTML page on how real generated cells are: verdict, scores, pictures, and where the cells come from.

    The page is a single file that fetches nothing and runs nothing: it can be sent, and read on a phone. It is written
    beside its place and renamed, so that it is there whole or not at all.

    Parameters
    ----------
    real
        Held-out real cells: none of them may have been trained on.
    generated
        The cells to judge, as :func:`scflow.tl.generate` makes them.
    reference
        The training cells. Without them half of `real` takes their place in the scores, and the page cannot show
        whether cells are copies.
    path
        Where the page goes.
    condition
        Columns of `.obs` to compare within, as in :func:`scflow.tl.score`; cells are coloured by the first.
    scores
        What :func:`scflow.tl.score` returned for these cells, or cells with that table; None to score them now.
    flow
        The flow, whose training is then shown. Without it one that `reference` or `real` carries in `.uns["scflow"]`.
    layer
        Where the counts are, in each of the three that has such a layer. Otherwise `.X`, or `.layers["counts"]` where
        `.X` holds no counts.
    seed
        Of scores and pictures; the same seed gives the same page, but for its date.
    overwrite
        Replace a file that is there.

    Returns
    -------
    pathlib.Path
        Of the page. Scores that were made for it are also in `generated.uns["scflow_score"]`.

    Raises
    ------
    FileError
        Where the file is there and `overwrite` is False, its folder is not there or cannot be written to, it is a
        device, a fifo or a socket, or the disk refuses.
    InputError
        As :func:`scflow.tl.score` raises it, and where there are fewer than 10 training cells.

    Examples
    --------
    >>> scores = scflow.tl.score(held_out, new, reference=adata, metrics=["mmd", "zero_fractions"])
    >>> scflow.tl.report(held_out, new, reference=adata, scores=scores, flow=flow)
    PosixPath('report.html')
    """
    target = _target(path, overwrite)
    clouds = {"real": real, "generated": generated} | ({} if reference is None else {"reference": reference})
    for name, adata in clouds.items():
        checked(adata, name=name)
    remarks: list[str] = []
    if scores is None:
        options: dict[str, Any] = {"reference": reference, "condition": condition, "layer": layer, "seed": seed}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores = score(real, generated, **options)
        for one in caught:
            warnings.warn(one.message, one.category, stacklevel=2)
        remarks = [str(one.message) for one in caught if one.category is UserWarning]
    rows = rows_of(read_scores(scores))
    body = [
        paragraph(_sizes(clouds), "soft"),
        section("Verdict", sentences(in_sentences(rows)), *(paragraph(remark, "soft") for remark in remarks)),
        *score_sections(rows),
        *looks(clouds, _color(condition, generated), layer, seed),
        *training(flow, clouds),
        _origins(generated, seed),
    ]
    _file.write_bytes(target, page("Generated cells beside real ones", body).encode())
    return target


def _target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Where the page goes, once it is known that it can go there."""
    target = path_of(path, "path")
    if target.is_dir():
        raise FileError(f"Cannot write the report to '{target}': it is a folder. Give the name of a file in it.")
    if not target.parent.is_dir():
        raise FileError(f"Cannot write the report to '{target}': there is no folder '{target.parent}'. Make it first.")
    if target.exists() and not overwrite:
        raise FileError(f"'{target}' exists. Replace it with overwrite=True, or give another path.")
    _file.check_place(target)
    return target


def _sizes(clouds: dict[str, AnnData]) -> str:
    names = {"real": "held-out real", "generated": "generated", "reference": "training"}
    sizes = [f"{clouds[name].n_obs:,} {names[name]}" for name in ("generated", "real", "reference") if name in clouds]
    return f"{', '.join(sizes)} cells; {clouds['real'].n_vars:,} genes. Written on {now()}."


def _color(condition: str | Sequence[str] | None, generated: AnnData) -> str | None:
    """The column that cells are coloured by: the first condition, as `tl.score` finds them."""
    if condition is None:
        return None
    auto = isinstance(condition, str) and condition == "auto"
    names = np.atleast_1d(provenance_of(generated).get("condition", ()) if auto else condition)
    return str(names[0]) if len(names) else None


def _origins(generated: AnnData, seed: int) -> Markup:
    """Provenance, seeds and versions."""
    provenance = {str(name): in_words(value) for name, value in provenance_of(generated).items()}
    told = facts(provenance) if provenance else paragraph("The generated cells carry no provenance of scflow.", "soft")
    return section(
        "Where this comes from",
        details("How the cells were drawn", told),
        details("Versions and seed", facts({"seed of scores and pictures": str(seed), **versions()})),
    )
