"""What the code of counts leaves out: shared directions of residuals, against laws that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from scflow.codecs import Counts
from scflow.codecs.residuals import Shared, shared_directions, spiked
from scflow.training.batches import Cells
from scflow.training.run import Run
from scflow.training.shared import fit_shared


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def planted(n: int, axes: Tensor, sds: Tensor, noise: float, rng: torch.Generator) -> Tensor:
    """Normal rows of white noise and of a few directions."""
    return noise * torch.randn(n, len(axes), generator=rng) + torch.randn(n, len(sds), generator=rng) * sds @ axes.T


@pytest.mark.parametrize(("n", "width"), [(300, 900), (900, 300)])
def test_the_variance_told_is_that_of_new_rows(n: int, width: int, rng: torch.Generator) -> None:
    axes = torch.linalg.qr(torch.randn(width, 3, generator=rng)).Q
    sds, noise = torch.tensor([9.0, 6.0, 4.0]), 1.5
    rows = planted(n, axes, sds, noise, rng)
    found = shared_directions(lambda: iter(rows.split(64)), 20, rng=rng)
    assert found.signal.shape == (3,)
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(3), atol=1e-4, rtol=0)
    new = (planted(20_000, axes, sds, noise, rng) - found.mean) @ found.axes
    torch.testing.assert_close(found.signal, new.var(0) - noise**2, rtol=0.15, atol=0)
    # What the rows themselves vary by is more: they are what the directions were fitted on.
    assert ((rows @ found.axes).var(0) - noise**2 > 1.02 * found.signal).all()
    assert found.excess(planted(5000, axes, sds, noise, rng)) == pytest.approx(1, abs=0.1)
    assert found.excess(planted(5000, axes, 2**0.5 * sds, noise, rng)) == pytest.approx(2, abs=0.2)


def test_the_noise_is_no_excess(rng: torch.Generator) -> None:
    axes = torch.linalg.qr(torch.randn(100, 2, generator=rng)).Q
    sds = torch.tensor([3.0, 2.0])
    told = Shared(torch.ones(100), axes, sds.square())
    assert told.excess(1 + planted(20_000, axes, sds, 4.0, rng)) == pytest.approx(1, abs=0.1)
    assert told.excess(1 + planted(20_000, axes, 2 * sds, 4.0, rng)) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize(("n", "width"), [(200, 1000), (1000, 200)])
def test_noise_has_no_shared_directions(n: int, width: int, rng: torch.Generator) -> None:
    rows = torch.randn(n, width, generator=rng)
    assert shared_directions(lambda: iter(rows.split(64)), 20, rng=rng).axes.shape == (width, 0)


def test_an_eigenvalue_at_the_edge_is_noise() -> None:
    edge = (1 + 0.5**0.5) ** 2
    signal, noise = spiked(torch.tensor([edge * 0.99]), torch.tensor(500.0), 1000, 500)
    assert float(signal) == 0
    assert float(noise) == 1


def codec_of(n_genes: int, depth: float, *, shared: int = 4) -> Counts:
    """An untrained codec of genes that are alike, whose code says nothing and whose counts are all but Poisson."""
    codec = Counts(n_genes, latent=2, hidden=8, shared=shared)
    torch.nn.init.zeros_(codec.loadings)
    torch.nn.init.constant_(codec.dispersion, -6.5)
    codec.library.mean.fill_(np.log(depth))
    codec.library.largest.fill_(np.log(4 * depth))
    return codec.eval().requires_grad_(False)


def test_decoded_cells_vary_along_the_directions_and_genes_keep_their_law(rng: torch.Generator) -> None:
    codec = codec_of(200, 4000.0)
    torch.nn.init.constant_(codec.dispersion, -2.0)
    direction = torch.zeros(200)
    direction[:10] = 0.3
    direction[10:20] = -0.3
    plain = codec.decode(torch.zeros(4000, 3), None, rng=rng)
    codec.share(direction[None])
    moved = codec.decode(torch.zeros(4000, 3), None, rng=rng)
    r = torch.corrcoef(moved.T)
    # Of a variance of mean 20 and dispersion 0.135, the direction is 400 (exp(0.09) - 1).
    expected = 400 * np.expm1(0.09) / (20 + 400 * np.exp(-2.0))
    assert float(r[:10, :10].fill_diagonal_(expected).mean()) == pytest.approx(expected, abs=0.03)
    assert float(r[:10, 10:20].mean()) < -0.8 * expected
    assert float(torch.corrcoef(plain.T).fill_diagonal_(0).abs().mean()) < 0.02
    torch.testing.assert_close(moved.mean(), plain.mean(), rtol=0.01, atol=0)
    torch.testing.assert_close(moved[:, :20].var(0).mean(), plain[:, :20].var(0).mean(), rtol=0.05, atol=0)


def test_what_cells_share_is_found_and_given_to_new_ones() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(0, 0.15, 300)

    def draw(n: int) -> sparse.csr_matrix:
        rates = 20 * np.exp(rng.normal(size=(n, 1)) * direction)
        return sparse.csr_matrix(rng.poisson(rates).astype(np.float32))

    counts, codec = draw(600), codec_of(300, 6000.0)
    order = torch.arange(600)
    run = Run(order[60:], order[:60], 256, 0, torch.device("cpu"), progress=False)
    fit_shared(codec, Cells(counts, run.device), None, run)
    found, second, *_ = codec.residuals
    assert second.norm() < 0.2 * found.norm()
    assert abs(float(torch.corrcoef(torch.stack([found, torch.from_numpy(direction).float()]))[0, 1])) > 0.95
    cells = codec.decode(torch.zeros(2000, 3), None, rng=torch.Generator().manual_seed(0)).numpy()
    real, ours = (np.corrcoef(x.T)[np.triu_indices(300, 1)] for x in (draw(2000).toarray(), cells))
    assert np.corrcoef(real, ours)[0, 1] > 0.9
    assert np.polyfit(real, ours, 1)[0] == pytest.approx(1, abs=0.15)


def test_cells_that_share_nothing_are_drawn_as_they_were() -> None:
    counts, codec = sparse.csr_matrix(np.random.default_rng(0).poisson(20.0, (600, 300))), codec_of(300, 6000.0)
    order = torch.arange(600)
    run = Run(order[60:], order[:60], 256, 0, torch.device("cpu"), progress=False)
    fit_shared(codec, Cells(counts, run.device), None, run)
    assert float(codec.residuals.abs().max()) < 0.1


def test_a_codec_without_room_for_directions_is_one_of_an_earlier_version(rng: torch.Generator) -> None:
    codec = codec_of(20, 400.0, shared=0)
    assert "residuals" not in codec.state_dict()
    settings = {name: value for name, value in codec.settings().items() if name != "shared"}
    Counts(**settings).load_state_dict(codec.state_dict())
    assert codec.decode(torch.zeros(5, 3), None, rng=rng).shape == (5, 20)
