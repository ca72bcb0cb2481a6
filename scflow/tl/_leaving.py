"""What training leaves in an AnnData: all of it, once it is done, or nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scflow import _anndata
from scflow.codecs.statistics import gene_statistics
from scflow.errors import InputError
from scflow.flow import Flow
from scflow.tl._given import Given
from scflow.training.interrupts import shielded
from scflow.training.workers import CALLER

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Prepared", "leave", "warn_interrupted"]

_CLIP = 10.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """How counts become the network's input, and whether that was found just now and is to be written."""

    how: _anndata.Preprocessing
    new: bool

    @classmethod
    def of(cls, adata: AnnData, layer: str | None, key_added: str) -> Prepared:
        """What is in `adata`, if it is of this layer; else what :func:`scflow.pp.log1p_standardize` would write."""
        done = _anndata.read_preprocessing(adata, key_added)
        if done is not None and done.layer == layer:
            return cls(done, new=False)
        statistics = gene_statistics(_anndata.read_counts(adata, layer))
        return cls(_anndata.Preprocessing(statistics, _CLIP, layer, adata.n_obs), new=True)


def leave(given: Given, prepared: Prepared | None, flow: Flow, key_added: str) -> None:
    """Write statistics and flow, unless a noise, path or field of the user's own has no name to be kept by."""
    cells, refused = given.cells, None
    try:
        content = flow.to_content()
    except InputError as error:
        content, refused = None, error
    with shielded():
        if prepared is not None and prepared.new:
            how = prepared.how
            _anndata.write_preprocessing(cells, how.statistics, clip=how.clip, layer=how.layer, key_added=key_added)
        if content is not None:
            _anndata.write_flow(cells, content, key_added)
        given.leave(key_added)
    if refused is not None:
        message = f"The flow is returned, but not kept in adata.uns[{key_added!r}]. {refused}"
        warnings.warn(message, stacklevel=CALLER)


def warn_interrupted(flow: Flow, folder: Path | None = None, *, caller: int = CALLER) -> None:
    """Say that the training of a flow was interrupted, which one that is, and, of a run in a folder, how to go on."""
    facts = flow.provenance
    if not facts.get("interrupted"):
        return
    best = int(facts["best_step"])
    kept = f"the best flow until then, of step {best:,}, is kept." if best else "its field has learnt nothing yet."
    mend = "" if folder is None else f" Go on with it: checkpoint='{folder}', resume=True."
    where = f"after the look at step {facts['steps']:,} of {facts['steps_planned']:,}"
    warnings.warn(f"The training was interrupted {where}: {kept}{mend}", stacklevel=caller)
