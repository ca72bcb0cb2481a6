"""The core on pictures: digits learnt and drawn, and recognised by a classifier that has seen real ones only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scflow import nn
from scflow.matching import FlowMatching, noises, solvers
from scflow.training import Run, fit_field
from scflow.training.fit import spread_of
from scflow.training.run import seeded


class Pictures:
    """Pictures in memory, as the states that a field learns."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def states(self, rows: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.images[rows]


def digits() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits ``[1797, 1, 8, 8]`` in [-1, 1], and their labels ``[1797, 1]``."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    return images, torch.from_numpy(found.target).float()[:, None]


def test_the_spread_of_pictures_is_a_number_a_channel() -> None:
    """A corner that is always -1 has no deviation; the channel's root mean square leaves the network a way to it."""
    images = digits()[0]
    assert images[:, 0, 0, 0].std() == 0
    torch.testing.assert_close(spread_of(images), images.square().mean().sqrt().reshape(1, 1, 1))
    flat = images.flatten(1)
    torch.testing.assert_close(spread_of(flat), flat.std(0, correction=0))


@pytest.mark.slow
def test_digits_that_are_drawn_are_recognised() -> None:
    from sklearn.linear_model import LogisticRegression

    images, labels = digits()
    cpu = torch.device("cpu")
    run = Run(torch.arange(100, 1797), torch.arange(100), 64, seed=0, device=cpu, progress=False)
    network = seeded(lambda: nn.UNet2d(1, cardinalities=(10,), width=16, multipliers=(1, 2), depth=1), run.generator(0))
    steps = 250
    field, _ = fit_field(
        network, Pictures(images), labels, noises.Gaussian(), FlowMatching(), run, steps=steps, lr=2e-3
    )
    asked = torch.arange(10).repeat(10)
    noise = noises.Gaussian().sample(100, 64, rng=torch.Generator().manual_seed(1)).reshape(100, 1, 8, 8)
    with torch.no_grad():
        drawn = solvers.Midpoint().integrate(
            lambda x, t: field(x, t.expand(len(x)), asked[:, None].float()), noise, solvers.grid(12)
        )
    judge = LogisticRegression(C=0.1, max_iter=2000).fit(images.flatten(1).numpy(), labels[:, 0].numpy())
    said = judge.predict(drawn.flatten(1).numpy())
    accuracy = np.mean(said == asked.numpy())
    assert accuracy > 0.8, accuracy
    # Digits, and not the mean of each: they differ among themselves as real ones do.
    real = torch.stack([images[labels[:, 0] == d].std(0).mean() for d in range(10)])
    new = torch.stack([drawn[asked == d].std(0).mean() for d in range(10)])
    assert ((new / real - 1).abs() < 0.3).all(), new / real
