"""A plain latent flow, by the recipe of the published ones, and the library sizes that rivals draw.

A deep count autoencoder (Eraslan et al. 2019, 10.1038/s41467-018-07931-2) and then a flow on its codes, as in CFGen
(Palma et al. 2025, ICLR) and, with diffusion, scDiffusion (Luo et al. 2024, 10.1093/bioinformatics/btae518). Layers,
batch norm, learning rate and weight decay are those of CFGen's published configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from scflow.metrics import library_sizes

EPOCHS = 300
BATCH = 128
LR, WEIGHT_DECAY, CLIP = 1e-3, 1e-5, 1.0
HIDDEN, CODE = (512, 256), 50
FIELD_HIDDEN, FIELD_BLOCKS, EMBEDDING = 512, 3, 256
EVALUATIONS = 100
LEAST_BATCHES = 10
"""What the flow's epoch has at least: 300 epochs of a few hundred cells would be few steps."""


class Autoencoder(nn.Module):
    """Counts to a code, and the code to the means of negative binomials; one dispersion a gene."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        sizes = (n_genes, *HIDDEN, CODE)
        self.encoder, self.decoder = perceptron(sizes), perceptron(sizes[::-1])
        self.log_theta = nn.Parameter(torch.zeros(n_genes))

    def encode(self, counts: Tensor) -> Tensor:
        """Codes `[n, 50]` of counts `[n, n_genes]`."""
        codes: Tensor = self.encoder(torch.log1p(counts))
        return codes

    def decode(self, codes: Tensor, library: Tensor) -> Tensor:
        """Expected counts `[n, n_genes]` of cells with so many counts in all `[n, 1]`."""
        return F.softmax(self.decoder(codes), dim=1) * library

    def loss(self, counts: Tensor) -> Tensor:
        """Minus the log-likelihood of a cell, the mean over the batch; without log(x!), which does not depend on it."""
        mean, theta = self.decode(self.encode(counts), counts.sum(dim=1, keepdim=True)), self.log_theta.exp()
        total = torch.log(theta + mean + 1e-8)
        ours = theta * (self.log_theta - total) + counts * (torch.log(mean + 1e-8) - total)
        return -(ours + torch.lgamma(counts + theta) - torch.lgamma(theta)).sum(dim=1).mean()


def perceptron(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Field(nn.Module):
    """The velocity of a code at a time, given its type: a residual perceptron whose blocks see time and type."""

    def __init__(self, n_types: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.kind = nn.Embedding(n_types, EMBEDDING)
        self.first, self.last = nn.Linear(CODE, FIELD_HIDDEN), nn.Linear(FIELD_HIDDEN, CODE)
        blocks = range(FIELD_BLOCKS)
        self.given = nn.ModuleList(nn.Linear(EMBEDDING, FIELD_HIDDEN) for _ in blocks)
        self.before = nn.ModuleList(nn.Linear(FIELD_HIDDEN, FIELD_HIDDEN) for _ in blocks)
        self.after = nn.ModuleList(nn.Linear(FIELD_HIDDEN, FIELD_HIDDEN) for _ in blocks)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Velocities `[n, 50]`."""
        angles = 1000 * t[:, None] * torch.logspace(0, -4, EMBEDDING // 2)
        given = self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.kind(label)
        h = self.first(x)
        for condition, before, after in zip(self.given, self.before, self.after):
            h = h + after(F.silu(before(F.silu(h)) + condition(F.silu(given))))
        velocity: Tensor = self.last(F.silu(h))
        return velocity


@dataclass(frozen=True)
class LatentFlow:
    """Both networks, trained, and where codes lie."""

    autoencoder: Autoencoder
    field: Field
    centre: Tensor
    scale: Tensor

    @torch.no_grad()
    def codes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Codes of types, from noise at t = 1 to data at t = 0 by the midpoint rule."""
        x, h = torch.randn((len(labels), CODE), generator=generator), -2 / EVALUATIONS
        for t in torch.linspace(1, -h, EVALUATIONS // 2):
            here = t.expand(len(labels))
            middle = x + h / 2 * self.field(x, here, labels)
            x = x + h * self.field(middle, here + h / 2, labels)
        return self.centre + self.scale * x

    @torch.no_grad()
    def draw(self, labels: Tensor, library: NDArray[np.float64], seed: int) -> sparse.csr_matrix:
        """Counts of types, negative binomial, around the decoder's means."""
        rng, theta = np.random.default_rng(seed), self.autoencoder.log_theta.exp().numpy().astype(np.float64)
        codes = self.codes(labels, torch.Generator().manual_seed(seed))
        parts = []
        for rows in torch.arange(len(labels)).split(512):
            total = torch.from_numpy(library[rows.numpy()]).float()[:, None]
            mean = self.autoencoder.decode(codes[rows], total).numpy().astype(np.float64)
            parts.append(sparse.csr_matrix(rng.poisson(rng.gamma(theta, mean / theta))))
        return sparse.vstack(parts, format="csr")


def latent_flow(counts: sparse.csr_matrix, labels: Tensor, seed: int, epochs: int = EPOCHS) -> LatentFlow:
    """Train the autoencoder and then the flow on its codes, each to the end.

    The codes are standardised, which the recipe leaves out: it only helps the rival.
    """
    with torch.random.fork_rng(devices=[]):  # The layers' weights come from the global generator.
        torch.manual_seed(seed)
        autoencoder, field = Autoencoder(counts.shape[1]), Field(int(labels.max()) + 1)
    generator, n = torch.Generator().manual_seed(seed), counts.shape[0]
    per_epoch = max(1, n // BATCH)
    rows = islice(batches(n, generator), epochs * per_epoch)
    fit(autoencoder, lambda batch: autoencoder.loss(dense(counts, batch)), rows)
    with torch.no_grad():
        codes = torch.cat([autoencoder.encode(dense(counts, batch)) for batch in torch.arange(n).split(512)])
    centre, scale = codes.mean(dim=0), codes.std(dim=0) + 1e-6
    codes = (codes - centre) / scale

    def flow_loss(batch: Tensor) -> Tensor:
        """The linear path at uniform times: the velocity is noise less data."""
        data, t = codes[batch], torch.rand(len(batch), generator=generator)
        noise = torch.randn(data.shape, generator=generator)
        there = data + t[:, None] * (noise - data)
        return F.mse_loss(field(there, t, labels[batch]), noise - data)

    rows = islice(batches(n, generator), epochs * max(LEAST_BATCHES, per_epoch))
    fit(field, flow_loss, rows)
    return LatentFlow(autoencoder, field, centre, scale)


def batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of batches of one size, for ever; the cells left over come in another epoch."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: max(1, n // BATCH) * BATCH].split(BATCH)


def fit(network: nn.Module, loss: Callable[[Tensor], Tensor], rows: Iterable[Tensor]) -> None:
    """A step for each batch of rows; the network is left ready to be used."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    network.train()
    for batch in rows:
        optimiser.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
    network.eval()


def dense(counts: sparse.csr_matrix, rows: Tensor) -> Tensor:
    """Some rows of the counts, float32."""
    return torch.from_numpy(counts[rows.numpy()].toarray().astype(np.float32))


def sizes_of_type(
    counts: sparse.csr_matrix, labels: NDArray[np.str_], wanted: NDArray[np.str_], seed: int
) -> NDArray[np.float64]:
    """Counts in all for each wanted cell `[n_wanted]`: those of a cell of its type, drawn at random."""
    rng, known = np.random.default_rng([seed, 1]), library_sizes(counts)
    sizes = np.empty(len(wanted))
    for label in np.unique(wanted):
        places = wanted == label
        sizes[places] = rng.choice(known[labels == label], places.sum())
    return sizes
