"""`Flow`, the value that training returns."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scflow.codecs import Calibration, Codec
from scflow.conditions import Conditions
from scflow.errors import FileError, InputError
from scflow.flow import _card, _facts, _hub, _storage
from scflow.flow._balance import groups_of
from scflow.flow._between import End, Line, between
from scflow.flow._codes import Code, Density, densities, encoded
from scflow.flow._course import Course
from scflow.flow._growth import Growth
from scflow.flow._html import as_html
from scflow.flow._sampling import Drawn, Sampling, blocks, draw
from scflow.matching import Bare, Displaced, FlowMap, Preconditioned, noises, paths, solvers
from scflow.matching.names import SOLVERS

__all__ = ["Flow"]


@dataclass(frozen=True, eq=False)
class Flow:
    """A trained flow: it turns noise into cells.

    Attributes
    ----------
    field
        The velocity field, with the averaged weights; or a flow map, whose diagonal is one.
    codec
        From counts to the field's space, and back.
    path, noise
        What the field was trained on. t = 0 is data, t = 1 is noise.
    conditions
        The schema of what cells are conditioned on.
    seen
        The training cells' conditions ``[n, n_conditions]``, encoded, from which new ones are drawn.
    genes
        Names of the training genes; empty for a flow in an embedding.
    calibration
        Maps from drawn counts to the training cells' distributions, or ``None``.
    history
        One row a look at the validation cells: step, loss, validation_loss, gradient_norm, learning_rate,
        cells_per_second; clipped, the share of steps whose gradient was clipped, and skipped, how many were passed
        over; loss_t0 to loss_t4 and weight_t0 to weight_t4, loss and effective weight in fifths of time from the data
        to the noise; and what was asked for with ``watch=``.
    provenance
        What was trained on, and how: plain numbers and strings.
    raw
        The network's weights at the same step without averaging, by name, or ``None`` where they were not kept. They
        take as much room as the field; ``dataclasses.replace(flow, raw=None)`` leaves them out.
    growth
        Of a flow through a time course, how many descendants cells have; ``None`` for others.

    Examples
    --------
    >>> drawn = flow.draw(5, {"cell_type": "type_0"})
    >>> drawn.counts.shape, drawn.state.shape
    ((5, 40), (5, 21))
    >>> flow.provenance["n_cells"], flow.conditions.names
    (80, ('cell_type',))
    """

    field: Preconditioned | Displaced | Bare | FlowMap
    codec: Codec
    path: paths.Path
    noise: noises.Noise
    conditions: Conditions
    seen: Tensor
    genes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Tensor] | None = None
    growth: Growth | None = None

    def __repr__(self) -> str:
        p = self.provenance
        conditions = ", ".join(self.conditions.names) or "no condition"
        what = f"{len(self.genes)} genes" if self.genes else f"{self.codec.dim} coordinates"
        parameters = sum(w.numel() for w in self.field.parameters())
        made = _facts.made(self)
        return (
            f"Flow(space={self.codec.name!r}, {what}, {conditions}; "
            f"{p.get('n_cells', '?')} cells, {p.get('steps', '?')} steps, {parameters:,} weights"
            f"{f'; {made}' if made else ''})\n  how well: {_facts.quality(self)}\n  draw: {_facts.drawing(self)}"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return as_html(self)

    @property
    def course(self) -> Course | None:
        """The time points that the flow goes through, where it is of a time course."""
        return Course.of(self.provenance)

    @property
    def usual(self) -> Sampling:
        """How its cells are drawn unless one asks otherwise; few steps, where the flow was made for them."""
        if "draw_solver" not in self.provenance:
            return Sampling()
        solver = SOLVERS[str(self.provenance["draw_solver"])]()
        return Sampling(solver=solver, steps=int(self.provenance["draw_steps"]))

    def weighted(self, weights: str) -> Flow:
        """The flow with its averaged or its raw weights as the field.

        Raises
        ------
        InputError
            Where `weights` is neither ``"average"`` nor ``"raw"``, or the raw ones were not kept.
        """
        if weights == "average":
            return self
        if weights != "raw":
            raise InputError(f"weights={weights!r} is not known. Choose 'average' or 'raw'.")
        if self.raw is None:
            raise InputError(
                "This flow holds its averaged weights alone: it was saved before raw ones were kept, or without them. "
                "Use weights='average'."
            )
        raw = copy.deepcopy(self.field)
        raw.load_state_dict({**raw.state_dict(), **self.raw})
        return replace(self, field=raw)

    def draw(self, n: int, request: Any = None, sampling: Sampling | None = None) -> Drawn:
        """Draw `n` cells.

        Parameters
        ----------
        request
            What they are conditioned on: see :meth:`scflow.conditions.Conditions.table`.
        sampling
            Guidance, solver, steps, device and seed.
        """
        sampling = sampling or self.usual
        return draw(self.weighted(sampling.weights), n, self._table(n, request, sampling), sampling)

    def blocks(self, n: int, request: Any = None, sampling: Sampling | None = None) -> Iterator[Drawn]:
        """The cells of `draw`, bit by bit, in blocks whose size does not grow with `n`.

        Where several processes draw, all of them are to take the blocks, and the first one gets them.

        Whatever is wrong with what is asked for is raised at once, before the first block.
        """
        sampling = sampling or self.usual
        told = self._table(n, request, sampling)
        return blocks(self.weighted(sampling.weights), n, told, sampling, everywhere=False)

    def _table(self, n: int, request: Any, sampling: Sampling) -> Tensor | None:
        """The conditions of `n` cells that are asked for."""
        if not len(self.conditions) and request is None:
            return None
        return self.conditions.table(request, n, self.seen, np.random.default_rng([sampling.seed, 1]))

    def encode(
        self, cells: sparse.csr_matrix | NDArray[Any], condition: Tensor | None, sampling: Sampling | None = None
    ) -> Code:
        """Follow the flow from cells to the noise that they come from.

        Parameters
        ----------
        cells
            Counts of the flow's genes ``[n, n_genes]``, whose states are the mean ones (`Codec.mean_state`); or states
            as they are, dense ``[n, dim]``: in an embedding the user's coordinates.
        condition
            Encoded conditions ``[n, n_conditions]``, NaN for none; ``None`` where the flow has none.
        sampling
            Guidance, solver, steps, device, batch size and progress; 16 steps of RK4 unless given.
        """
        sampling = sampling or Sampling(solver=solvers.RK4(), steps=16)
        return encoded(self.weighted(sampling.weights), cells, condition, sampling)

    def log_prob(
        self,
        cells: sparse.csr_matrix | NDArray[Any],
        condition: Tensor | None,
        sampling: Sampling | None = None,
        *,
        probes: int | None = None,
    ) -> Density:
        """The log-density of cells' states, in nats: see :mod:`scflow.matching.likelihood`.

        Parameters
        ----------
        cells, condition
            As in `encode`.
        sampling
            Solver, steps, device and seed; 12 steps of the midpoint rule unless given.
        probes
            Random probes of the divergence, at least two; ``None`` for the exact one.

        Raises
        ------
        InputError
            Where the noise has no density.
        """
        sampling = sampling or Sampling()
        return densities(self.weighted(sampling.weights), cells, condition, sampling, probes)

    def between(self, one: End, other: End, positions: NDArray[Any], sampling: Sampling | None = None) -> Line:
        """Cells on the way from some to others: see ``scflow.flow._between``.

        Parameters
        ----------
        one, other
            As many cells at either end: their noise and conditions.
        positions
            Where between them, ``[n_positions]`` in [0, 1].
        sampling
            Guidance, solver, steps, device and seed; 16 steps of RK4 unless given.
        """
        sampling = sampling or Sampling(solver=solvers.RK4(), steps=16)
        return between(self.weighted(sampling.weights), one, other, positions, sampling)

    def calibrated(
        self,
        counts: sparse.csr_matrix,
        condition: Tensor | None,
        *,
        n_drawn: int,
        shrinkage: float = 20.0,
        sampling: Sampling | None = None,
    ) -> Flow:
        """The same flow with its counts calibrated on the training cells.

        Parameters
        ----------
        counts, condition
            The training cells' counts ``[n, n_genes]`` and conditions ``[n, n_conditions]``.
        n_drawn
            How many cells the flow draws to learn its own distribution.
        shrinkage
            See :class:`scflow.codecs.Calibration`.
        """
        sampling = replace(sampling or Sampling(), ranks=True)
        drawn = self.draw(n_drawn, sampling=sampling)
        assert drawn.counts is not None
        calibration = Calibration.fit(
            drawn.counts,
            groups_of(self.conditions, drawn.condition, n_drawn).numpy(),
            counts,
            groups_of(self.conditions, condition, counts.shape[0]).cpu().numpy(),
            shrinkage=shrinkage,
            seed=sampling.seed,
        )
        return replace(self, calibration=calibration)

    def recalibrated(self, *, n_drawn: int, sampling: Sampling | None = None) -> Flow:
        """The same flow with its calibration made for how it is drawn: its solver, steps and guidance.

        The training cells' distributions are those that the calibration has already; a flow without one stays as it is.

        Parameters
        ----------
        n_drawn
            How many cells the flow draws to learn its own distribution.
        sampling
            How cells will be drawn.
        """
        if self.calibration is None:
            return self
        sampling = replace(sampling or self.usual, ranks=True)
        drawn = self.draw(n_drawn, sampling=sampling)
        assert drawn.counts is not None
        groups = groups_of(self.conditions, drawn.condition, n_drawn).numpy()
        return replace(self, calibration=self.calibration.refitted(drawn.counts, groups, seed=sampling.seed))

    def to_content(self) -> dict[str, Any]:
        """Everything as ``{"config": JSON, "tensors": {name: array}}``, which an AnnData or a file can keep."""
        return _storage.to_content(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Flow:
        """The flow that `to_content` described."""
        return cls(**_storage.parts(content))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write one safetensors file: tensors, the configuration as JSON in its header, and a sha256 of both.

        The file is written beside its place, flushed to the disk and renamed, so that it is there whole or not at all.
        A new file has the permissions that the umask leaves, one that is replaced keeps its own. A link is followed: it
        stays one, and what it leads to is replaced. Devices, fifos and sockets are never replaced.

        Raises
        ------
        FileError
            Where the file exists and `overwrite` is false, or its folder does not; where it is no file; and where the
            disk refuses, for a full one with the space that is needed.
        """
        _storage.checked_place(path, overwrite=overwrite)
        _storage.save(self.to_content(), path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Flow:
        """Read what `save` wrote.

        Raises
        ------
        FileError
            Where the file is missing, damaged, of another kind or of a newer format, or holds what no flow can be.
            Whatever is in it, nothing of it is run, and no more memory taken than its size asks for.
        """
        try:
            return cls.from_content(_storage.load(path))
        except FileError as error:
            if str(path) in str(error):
                raise
            raise FileError(f"'{path}' cannot be loaded. {error}") from error

    def card(
        self, *, scores: pd.DataFrame | None = None, license: str | None = None, about: str = "", repo_id: str = ""
    ) -> str:
        """A model card: what it learnt, from what, how well, what it is for and what it is not.

        Parameters
        ----------
        scores
            What :func:`scflow.tl.score` returned for its cells.
        license
            Of the weights, as an identifier such as ``"cc-by-4.0"``; ``None`` leaves it out.
        about
            A paragraph of your own, such as where the training cells come from; Markdown.
        repo_id
            Where the flow is on a hub, for the lines that load it.

        Returns
        -------
        str
            Markdown, with its metadata as YAML on top.

        Raises
        ------
        InputError
            Where the scores are no such table, or the licence no identifier.
        """
        return _card.card(self, scores=scores, license=license, about=about, repo_id=repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str,
        scores: pd.DataFrame | None = None,
        about: str = "",
        private: bool = True,
        token: str | None = None,
        message: str = "Add a flow",
    ) -> str:
        """Share the flow and its card on the Hugging Face hub; needs ``pip install "scflow-tools[hub]"``.

        The weights, the conditions of up to 20,000 training cells and the distribution of each gene become readable to
        whoever can read the repository. A model can repeat what it was trained on: before cells of persons are shared
        in this way, ask whoever decides about them, and look at ``scflow.pl.neighbours``.

        Parameters
        ----------
        repo_id
            Such as ``"my-lab/pbmc-flow"``; made where it is not there. A flow and a card there are replaced.
        license
            Under which you share the weights, such as ``"cc-by-4.0"``: yours to decide, so there is no default.
        scores, about
            As in `card`.
        private
            Whether a repository that is made is yours alone. One that is there stays as it is.
        token
            ``None`` for the one that ``hf auth login`` left.
        message
            Of the commit.

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        InputError
            Where huggingface_hub is not installed, or a choice is none.
        FileError
            Where the hub refuses.
        """
        card = self.card(scores=scores, license=license or "", about=about, repo_id=repo_id)
        return _hub.push(self.to_content(), card, repo_id, private=private, token=token, message=message)

    @classmethod
    def from_hub(cls, repo_id: str, *, revision: str | None = None, token: str | None = None) -> Flow:
        """Load a flow that `push_to_hub` shared: its one safetensors file, which holds no code.

        Parameters
        ----------
        repo_id
            Such as ``"my-lab/pbmc-flow"``.
        revision
            A branch, tag or commit; a commit gives the same flow for ever.
        token
            ``None`` for the one that ``hf auth login`` left.

        Raises
        ------
        InputError
            Where huggingface_hub is not installed.
        FileError
            Where the hub has no such flow, or its file is damaged or of another kind.
        """
        return cls.load(_hub.fetched(repo_id, revision=revision, token=token))


def seen_conditions(table: Tensor | None, n: int, *, most: int = 20_000) -> Tensor:
    """At most 20,000 of the training cells' conditions, evenly over the table: enough to draw new ones from."""
    if table is None:
        return torch.zeros(n if n < most else most, 0)
    if n <= most:
        return table.cpu()
    order: NDArray[np.int64] = np.lexsort(table.cpu().numpy().T[::-1])
    return table.cpu()[order[np.linspace(0, n - 1, most).round().astype(np.int64)]]
