"""What a codec is: the way from counts to the space the flow lives in, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from scflow.codecs.entries import Entries

__all__ = ["Codec", "LibrarySize", "branch", "design", "design_width"]

Settings = dict[str, Any]


class Codec(nn.Module, ABC):
    """Counts to states and back.

    States are close to standardised, so that unit noise fits them. Encoding draws anew each time where a codec is
    random. Some codecs summarise a cell once (`summarize`) and draw its state from the summary in every batch (`draw`);
    the others leave `summarizes` false and are asked to `encode` each batch of counts; `random` says whether that is
    random.

    Attributes
    ----------
    n_genes, dim
        Length of a row of counts, and of a state.

    Examples
    --------
    >>> class Identity(Codec):
    ...     name = "identity"
    ...
    ...     def __init__(self, n_genes):
    ...         super().__init__()
    ...         self.n_genes = self.dim = n_genes
    ...
    ...     def settings(self):
    ...         return {"n_genes": self.n_genes}
    ...
    ...     def encode(self, counts, condition, *, rng):
    ...         return counts
    ...
    ...     def decode(self, state, condition, *, rng):
    ...         return state.round().clamp_min(0)
    >>> codec = Identity(3)
    >>> codec.decode(torch.tensor([[0.2, 1.6, -1.0]]), None, rng=rng).tolist()
    [[0.0, 2.0, 0.0]]
    """

    name: ClassVar[str]
    summarizes: ClassVar[bool] = False
    random: ClassVar[bool] = False
    has_counts: ClassVar[bool] = True
    n_genes: int
    dim: int

    @abstractmethod
    def settings(self) -> Settings:
        """What the constructor needs to build the codec anew, as JSON types; tensors follow in the state dict."""

    @abstractmethod
    def decode(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Counts ``[n, n_genes]`` (whole numbers, float32) of the states ``[n, dim]``."""

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
        """Counts of cells that had `counts` ``[n, n_genes]`` in the states `before`, and are now in `after`.

        A codec that knows how its counts scatter changes those of each cell as little as it has to; others decode.
        `condition` is that of the target, and `shares` say how far on the way from source to target both states are.
        """
        return self.decode(after, condition, rng=rng)

    def rank(self, state: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """Whole numbers ``[n, n_genes]`` that order cells as their counts should be ordered; counts unless finer."""
        return self.decode(state, condition, rng=rng)

    def decode_between(
        self, state: Tensor, ends: tuple[Tensor | None, Tensor | None], share: Tensor, *, rng: torch.Generator
    ) -> Tensor:
        """Counts of states `share` ``[n]`` of the way from one condition to another, both encoded.

        Only a codec whose way back knows conditions has to say what lies between them.
        """
        return self.decode(state, ends[0], rng=rng)

    def log_volume(self) -> float:
        """Log of the volume that one unit of states' volume has in the user's own coordinates; 0 without such."""
        return 0.0

    def mean_state(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """The mean ``[n, dim]`` of what `encode` draws, to stand for the cells where nothing is to be drawn.

        A codec that draws nothing has it from any generator.
        """
        return self.encode(counts, condition, rng=torch.Generator(counts.device))

    def encode(self, counts: Tensor, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """States ``[n, dim]`` of the counts ``[n, n_genes]``."""
        return self.draw(self.summarize(counts, condition), rng=rng)

    def encode_entries(self, counts: Entries, condition: Tensor | None, *, rng: torch.Generator) -> Tensor:
        """The same of counts as they are stored; a codec that maps each by itself need not make them dense first."""
        return self.encode(counts.dense(), condition, rng=rng)

    def summarize(self, counts: Tensor, condition: Tensor | None) -> Tensor:
        """What has to be kept of each cell to draw its state."""
        raise NotImplementedError(f"{type(self).__name__} encodes counts without a summary.")

    def draw(self, summary: Tensor, *, rng: torch.Generator) -> Tensor:
        """States drawn from summaries."""
        raise NotImplementedError(f"{type(self).__name__} encodes counts without a summary.")


class LibrarySize(nn.Module):
    """The log library size as one standardised coordinate, so that depth is drawn and not assumed.

    Parameters
    ----------
    mean, sd, largest
        Of the log of the training cells' total counts.
    """

    mean: Tensor
    sd: Tensor
    largest: Tensor

    def __init__(self, mean: float = 0.0, sd: float = 1.0, largest: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("sd", torch.tensor(max(float(sd), 1e-3)))
        self.register_buffer("largest", torch.tensor(float(largest)))

    @classmethod
    def of(cls, sizes: Any) -> LibrarySize:
        """Fitted on the training cells' library sizes ``[n_cells]``."""
        log = torch.as_tensor(sizes, dtype=torch.float64).log()
        return cls(log.mean().item(), log.std(correction=0).item(), log.max().item())

    def encode(self, sizes: Tensor) -> Tensor:
        """Total counts ``[n, 1]`` to the coordinate ``[n, 1]``."""
        return (sizes.clamp_min(1.0).log() - self.mean) / self.sd

    def decode(self, coordinate: Tensor) -> Tensor:
        """The coordinate ``[n, 1]`` to total counts ``[n, 1]``, at most twice the largest seen in training."""
        log = coordinate * self.sd + self.mean
        return torch.minimum(log.clamp_min(0.0), self.largest + 0.69).exp()


def branch(rng: torch.Generator) -> torch.Generator:
    """A generator of its own, seeded from `rng`.

    How many random numbers a gamma or Poisson draw uses up depends on its parameters. Where one follows on another, a
    cell's second draw would depend on the cells that come after it.
    """
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
    return torch.Generator(rng.device).manual_seed(seed)


def design(condition: Tensor | None, cardinalities: Sequence[int], n: int, device: torch.device) -> Tensor:
    """Conditions ``[n, k]`` as columns of a linear model: one-hot categories, continuous values; "none" is zeros."""
    if condition is None or not cardinalities:
        return torch.zeros(n, design_width(cardinalities), device=device)
    columns = []
    for j, k in enumerate(cardinalities):
        value, none = condition[:, j], condition[:, j].isnan()
        if k:
            code = torch.where(none, k, value).long()
            columns.append(functional.one_hot(code, k + 1)[:, :k].to(torch.float32))
        else:
            columns.append(torch.where(none, 0.0, value)[:, None])
    return torch.cat(columns, dim=1)


def design_width(cardinalities: Sequence[int]) -> int:
    """How many columns `design` makes."""
    return sum(k or 1 for k in cardinalities)
