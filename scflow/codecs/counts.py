"""Count space: a linear-log-linear autoencoder of counts, whose latent code the flow learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from scflow.codecs.base import Codec, LibrarySize, Settings, branch, design, design_width
from scflow.codecs.editing import edited
from scflow.codecs.molecules import negative_binomial_nll, thinned
from scflow.codecs.statistics import library_sizes
from scflow.errors import InputError

__all__ = ["Counts"]

_LEAST_DISPERSION = math.exp(-7.0)
_BORROWED = 5.0
"""A category's shift of the code is that of its cells and of so many more that have none: rare ones borrow strength."""


class Counts(Codec):
    """An encoder network, and a decoder that is a softmax of a linear map, times the library size.

    The decoder's logits are ``bias + W z + l (d + D c)`` for the latent code z, the conditions c and the standardised
    log library size l; counts are negative binomial around softmax(logits) x library size, with a dispersion by gene
    and condition that starts near Poisson. The flow's state is a posterior draw of z, less what the conditions shift
    it by on average, standardised, and l. (Lopez et al. 2018 have the likelihood; Svensson et al. 2020 the linear
    decoder.)

    Neither encoder nor decoder learns effects of the conditions on single genes. With them, a cell that is unlike its
    label (a doublet, one at the border of two types, a wrong label) needs a code far out in the prior, and all cells
    come out more typical of their type than real ones are. What codes leave out of a category's mean, most where it has
    few cells, is found after training (`scflow.training.effects`).

    In training the molecules of a cell are split in two at random, anew each time: the code of one part has to predict
    the other. Noise of the counts is not shared by the parts, so the code cannot carry it, and generated cells do not
    repeat the training cells' noise (count splitting: Batson et al. 2019; Neufeld et al. 2024).

    What the code leaves out is not independent from gene to gene: in deep counts of few cells the residuals share more
    directions than an encoder can be taught. They are found after training (`scflow.codecs.residuals`), and each cell
    that is decoded gets a normal draw along them, so that genes go together as in the training cells.

    Parameters
    ----------
    n_genes, latent, hidden
        Sizes of counts, code and the encoder's layers.
    cardinalities
        Number of categories of each condition, 0 for a continuous one.
    kl
        Weight of the divergence of the posterior from a standard normal.
    thinning
        Share of a cell's molecules that the encoder sees in training; the decoder is scored on the others.
    shared
        Room for so many directions that residuals share; none in codecs of 0.1.0.
    effects
        Where conditions have their effect on expression: ``"code"``, as above, or ``"genes"``, where the decoder learns
        one more term ``C c`` and the encoder knows c, as in codecs of 0.1.0.
    answers
        Of a codec of cells that are carried: number of categories of each condition of the target cells, 0 for a
        continuous one. There is room then for what codes leave out of both populations (`scflow.training.answers`).

    Examples
    --------
    >>> codec = Counts.start(counts, None, latent=4)  # untrained, with the mean profile known
    >>> codec.name, codec.dim  # the latent code and the library size
    ('counts', 5)
    """

    name = "counts"
    summarizes = True
    code_mean: Tensor
    code_sd: Tensor
    code_shift: Tensor
    residuals: Tensor
    answer: Tensor

    def __init__(
        self,
        n_genes: int,
        *,
        latent: int = 20,
        hidden: int = 128,
        cardinalities: Sequence[int] = (),
        kl: float = 0.5,
        thinning: float = 0.5,
        shared: int = 0,
        effects: str = "genes",
        answers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.n_genes, self.latent, self.dim, self.hidden = n_genes, latent, latent + 1, hidden
        self.cardinalities, self.kl, self.thinning, self.shared = tuple(cardinalities), kl, thinning, shared
        if effects not in ("code", "genes"):
            raise InputError(f"effects={effects!r} is not known; use 'code' or 'genes'.")
        self.by_gene = effects == "genes"
        self.answers: tuple[int, ...] | None = None
        width = max(design_width(cardinalities), 1)
        self.first = nn.Linear(n_genes, hidden)
        if self.by_gene:
            self.condition = nn.Linear(width, hidden, bias=False)
        self.encoder = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()
        )
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.loadings = nn.Parameter(torch.randn(latent, n_genes) * 0.05)
        self.bias = nn.Parameter(torch.zeros(n_genes))
        if self.by_gene:
            self.effects = nn.Parameter(torch.zeros(width, n_genes))
        else:
            self.register_buffer("effects", torch.zeros(width, n_genes))
        self.depth = nn.Parameter(torch.zeros(1 + width, n_genes))
        self.dispersion = nn.Parameter(torch.full((n_genes,), -3.0))
        self.dispersions = nn.Parameter(torch.zeros(width, n_genes))
        self.unevenness = nn.Parameter(torch.zeros(latent + 1, n_genes))
        self.library = LibrarySize()
        self.register_buffer("code_mean", torch.zeros(latent))
        self.register_buffer("code_sd", torch.ones(latent))
        if not self.by_gene:
            self.register_buffer("code_shift", torch.zeros(width, latent))
        if shared:
            self.register_buffer("residuals", torch.zeros(shared, n_genes))
        if answers is not None:
            self.answers_to(answers)

    @classmethod
    def start(
        cls, counts: sparse.csr_matrix, condition: Tensor | None, *, pseudocount: float = 1.0, **settings: Any
    ) -> Counts:
        """Untrained, but with the mean profile known, and that of each category where effects are by gene.

        A step moves a weight by the learning rate at most; from zero, a marker gene's effect would take thousands.

        Parameters
        ----------
        counts, condition
            Training counts ``[n_cells, n_genes]`` and conditions ``[n_cells, n_conditions]``.
        pseudocount
            Added to the observed and the expected counts of a category: rare genes start at no effect.
        """
        codec = cls(counts.shape[1], **settings)
        codec.library = LibrarySize.of(library_sizes(counts))
        profile = np.asarray(counts.sum(0, dtype=np.float64)).ravel() + 0.5
        profile /= profile.sum()
        with torch.no_grad():
            codec.bias.copy_(torch.from_numpy(np.log(profile)))
            if not codec.by_gene:
                return codec
            columns = design(condition, codec.cardinalities, counts.shape[0], torch.device("cpu")).numpy()
            for j in codec.categorical_columns():
                observed = np.asarray(counts.T @ columns[:, j], dtype=np.float64)
                ratio = (observed + pseudocount) / (observed.sum() * profile + pseudocount)
                codec.effects[j].copy_(torch.from_numpy(np.log(ratio)))
        return codec

    def answers_to(self, cardinalities: Sequence[int]) -> None:
        """Make room for what codes leave out of source cells, and of target cells of these conditions."""
        self.answers = tuple(cardinalities)
        self.register_buffer("answer", self.bias.new_zeros(2 + design_width(self.answers), self.n_genes))

    def categorical_columns(self) -> list[int]:
        """Which columns of the design are categories, and not continuous values."""
        kinds = [bool(k) for k in self.cardinalities for _ in range(k or 1)]
        return [j for j, is_category in enumerate(kinds) if is_category]

    def settings(self) -> Settings:
        """Sizes and the weights of the loss."""
        return {
            "n_genes": self.n_genes,
            "latent": self.latent,
            "hidden": self.hidden,
            "cardinalities": list(self.cardinalities),
            "kl": self.kl,
            "thinning": self.thinning,
            "shared": self.shared,
            "effects": "genes" if self.by_gene else "code",
            **({} if self.answers is None else {"answers": list(self.answers)}),
        }

    def fast_parameters(self) -> list[nn.Parameter]:
        """Dispersions, which start near Poisson and have far to go, and effects: learnt faster than the rest."""
        effects = [self.effects] if self.by_gene else []
        return [self.dispersion, self.dispersions, self.bias, *effects, self.depth]

    def design(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """Columns of the conditions ``[n, width]``: one for each category, and one for each continuous condition."""
        out = design(condition, self.cardinalities, len(like), like.device)
        return out if out.shape[1] else like.new_zeros(len(like), 1)

    def posterior_of(self, counts: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent code, each ``[n, latent]``."""
        size = counts.sum(1, keepdim=True).clamp_min(1.0)
        x = torch.log1p(counts * (3e3 / size))
        first = self.first(x)
        if self.by_gene:
            first = first + self.condition(self.design(condition, counts))
        h = self.encoder(first)
        mean, log_variance = self.posterior(h).chunk(2, dim=1)
        return mean, (log_variance.clamp(-10.0, 4.0) / 2).exp()

    def likelihood(self, code: Tensor, library: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Expected counts and dispersions, each ``[n, n_genes]``, from code, library coordinate and conditions."""
        return self._likelihood(code, library, self.design(condition, code))

    def _likelihood(self, code: Tensor, library: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The same, from the columns of the conditions."""
        slope = self.depth[0] + c @ self.depth[1:]
        logits = self.bias + code @ self.loadings + library * slope + c @ self.effects
        mean = torch.softmax(logits, dim=1) * self.library.decode(library)
        uneven = torch.cat([code, library], dim=1) @ self.unevenness
        return mean, (self.dispersion + c @ self.dispersions + uneven).clamp(math.log(_LEAST_DISPERSION), 5.0).exp()

    def losses(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and divergence of every cell, each ``[n]``, at one posterior draw.

        In training the likelihood is that of the molecules which the encoder did not see, scaled up to all of them.
        """
        seen = thinned(counts, self.thinning, rng=rng) if self.training else counts
        rest, share = (counts - seen, 1 - self.thinning) if self.training else (counts, 1.0)
        mean, sd = self.posterior_of(seen, condition)
        code = mean + sd * torch.randn(mean.shape, generator=rng, device=rng.device)
        size = counts.sum(1, keepdim=True)
        expected, dispersion = self.likelihood(code, self.library.encode(size), condition)
        expected = expected * (rest.sum(1, keepdim=True) / size.clamp_min(1.0))
        kl = 0.5 * (mean.square() + sd.square() - 1).sum(1) - sd.log().sum(1)
        return negative_binomial_nll(rest, expected, dispersion) / share, kl

    def penalty(self) -> Tensor:
        """Minus the log of the normal priors that shrink conditions' effects: rare conditions borrow strength."""
        squares = self.dispersions.square().sum() + 4.0 * self.unevenness.square().sum()
        if self.by_gene:
            squares = squares + self.effects.square().sum()
        return 0.5 * (squares + 10.0 * self.depth.square().sum())

    @torch.no_grad()
    def standardize(self, means: Tensor, sds: Tensor, condition: Tensor | None) -> None:
        """Set location and scale of the state from training cells' posteriors ``[n_cells, latent]`` and conditions."""
        self.code_mean.copy_(means.mean(0))
        left = means - self.code_mean
        if not self.by_gene:
            self.code_shift.copy_(_shifts(left, self.design(condition, means)))
        left = left - self._shift(self.design(condition, means), means)
        self.code_sd.copy_((left.square().mean(0) + sds.square().mean(0)).sqrt().clamp_min(1e-6))

    def _shift(self, c: Tensor, like: Tensor) -> Tensor:
        """What conditions shift the code by, ``[n, latent]``, in its own units, from their columns."""
        return like.new_zeros(1) if self.by_gene else c @ self.code_shift

    def summarize(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """Posterior mean and standard deviation in standardised units, and the library coordinate."""
        mean, sd = self.posterior_of(counts, condition)
        library = self.library.encode(counts.sum(1, keepdim=True))
        mean = mean - self._shift(self.design(condition, mean), mean)
        return torch.cat([(mean - self.code_mean) / self.code_sd, sd / self.code_sd, library], dim=1)

    def draw(self, summary: Tensor, *, rng: torch.Generator) -> Tensor:
        """A posterior draw, and the library coordinate."""
        mean, sd, library = torch.split(summary, [self.latent, self.latent, 1], dim=1)
        code = torch.addcmul(mean, sd, torch.randn(mean.shape, generator=rng, device=rng.device))
        return torch.cat([code, library], dim=1)

    def mean_state(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """The posterior mean, and the library coordinate."""
        mean, _, library = torch.split(self.summarize(counts, condition), [self.latent, self.latent, 1], dim=1)
        return torch.cat([mean, library], dim=1)

    def expected(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Expected counts ``[n, n_genes]`` at a posterior draw of the cells' codes."""
        mean, sd = self.posterior_of(counts, condition)
        code = torch.addcmul(mean, sd, torch.randn(mean.shape, generator=rng, device=rng.device))
        return self.likelihood(code, self.library.encode(counts.sum(1, keepdim=True)), condition)[0]

    @torch.no_grad()
    def pearson(self, counts: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pearson residuals at the mean code, and by how much they move where a log rate does, each ``[n, n_genes]``.

        A residual is clipped at 8, and its deviation is at least 0.05 counts: single molecules of rare genes would
        otherwise outweigh everything.
        """
        library = self.library.encode(counts.sum(1, keepdim=True))
        mean, dispersion = self.likelihood(self.posterior_of(counts, condition)[0], library, condition)
        deviation = (mean + dispersion * mean.square()).sqrt()
        return ((counts - mean) / deviation.clamp_min(0.05)).clamp(-8.0, 8.0), mean / deviation

    @torch.no_grad()
    def share(self, directions: Tensor) -> None:
        """Set the directions ``[k, n_genes]``, in log rates for a unit normal draw; k is at most `shared`."""
        self.residuals.zero_()
        self.residuals[: len(directions)] = directions

    def edit(
        self,
        counts: Tensor,
        before: Tensor,
        after: Tensor,
        condition: Tensor | None,
        *,
        shares: tuple[float, float] = (0.0, 1.0),
        rng: torch.Generator,
    ) -> Tensor:
        """Molecules taken from each cell, or added, by the ratio of what its two states expect."""
        c = self.design(None, after)
        mean, _ = self._around(before, c)
        moved, dispersion = self._around(after, c)
        if self.answers is not None:
            told = design(condition, self.answers, len(after), after.device)
            ends = self.answer[0], self.answer[1] + told @ self.answer[2:]
            mean, moved = (x * torch.lerp(*ends, share).exp() for x, share in zip((mean, moved), shares, strict=True))
        return edited(counts, mean, moved, dispersion, rng=rng)

    def _around(self, state: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts and dispersions of states, from the columns of the conditions."""
        code = state[:, :-1] * self.code_sd + self.code_mean + self._shift(c, state)
        return self._likelihood(code, state[:, -1:], c)

    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Negative-binomial counts: a gamma draw of the rate, then a Poisson draw."""
        return self._decode(state, self.design(condition, state), rng=rng)

    def decode_between(
        self, state: Tensor, ends: tuple[Tensor | None, Tensor | None], share: Tensor, *, rng: torch.Generator
    ) -> Tensor:
        """Counts between conditions: all their effects, on codes and log rates, are taken in shares."""
        one, other = (self.design(condition, state) for condition in ends)
        return self._decode(state, torch.lerp(one, other, share[:, None]), rng=rng)

    def _decode(self, state: Tensor, c: Tensor, *, rng: torch.Generator) -> Tensor:
        """Counts, from the columns of the conditions."""
        mean, dispersion = self._around(state, c)
        if self.shared:
            draws = torch.randn(len(state), self.shared, generator=rng, device=rng.device)
            mean, dispersion = self._moved(mean, dispersion, draws)
        shape, later = 1.0 / dispersion, branch(rng)
        rate = torch._standard_gamma(shape.expand_as(mean).contiguous(), generator=rng) * dispersion * mean
        return torch.poisson(rate, generator=later)

    def _moved(self, mean: Tensor, dispersion: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Rates moved along the shared directions, whose part of a gene's variance the dispersion then leaves out."""
        variance = self.residuals.square().sum(0)
        moved = mean * torch.exp(draws @ self.residuals - variance / 2)
        size = mean.sum(1, keepdim=True) / moved.sum(1, keepdim=True).clamp_min(1e-20)
        extra = torch.expm1(variance)
        return moved * size, ((dispersion - extra) / (1 + extra)).clamp_min(_LEAST_DISPERSION)


def _shifts(codes: Tensor, columns: Tensor) -> Tensor:
    """Ridge regression of centred codes ``[n, latent]`` on the columns of the conditions ``[n, width]``."""
    d = columns.double()
    scale = d.square().sum(0) / (d != 0).sum(0).clamp_min(1)  # 1 for a category
    gram = d.T @ d + torch.diag(_BORROWED * scale.clamp_min(1e-12))
    shifts: Tensor = torch.linalg.solve(gram, d.T @ codes.double())
    return shifts.to(codes.dtype)
