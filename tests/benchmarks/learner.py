"""One data set in one space, learnt by any recipe and scored: what the benchmarks that compare recipes share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from anndata import AnnData
from cells import CONDITION, counts_of, types

import scflow
from scflow.codecs import Codec, GeneStatistics
from scflow.codecs.statistics import gene_statistics
from scflow.conditions import Conditions
from scflow.flow import Flow, Sampling
from scflow.flow._learning import Recipe, codec_of, default_steps, learn
from scflow.matching import FlowMatching
from scflow.metrics.yardstick import Yardstick
from scflow.tl._recipe import noise_of
from scflow.training import Run
from scflow.training.batches import Cells

CLIP = 10.0
DRAWN = 2000
"""Cells that calibration draws."""


class Learner:
    """Training cells in a space, of which recipe after recipe is learnt with one and the same codec."""

    def __init__(self, train: AnnData, held_out: AnnData, space: str, seed: int) -> None:
        self.train, self.held_out, self.space, self.seed = train, held_out, space, seed
        self.counts = counts_of(train)
        self.statistics: GeneStatistics = gene_statistics(self.counts)
        self.conditions = Conditions.from_frame(train.obs[[CONDITION]])
        self.condition = self.conditions.encode(train.obs[[CONDITION]])
        self.yardsticks: dict[tuple[str, ...], Yardstick] = {}

    def default(self, steps: int | None = None) -> Recipe:
        """What scflow.tl.train does in this space, but for calibration; `steps` are chosen from the data's size."""
        noise = noise_of("auto", self.space)
        return Recipe(
            self.space, FlowMatching(), noise, steps or default_steps(self.train.n_obs), None, calibrate=False
        )

    def codec(self, steps: int | None = None, effects: str = "code") -> Codec:
        """The codec of the space, fitted as scflow.tl.train would in a run of so many steps."""
        run, cells = self._run([]), Cells(self.counts, torch.device("cpu"))
        recipe = replace(self.default(steps), effects=effects)
        return codec_of(self.counts, cells, self.statistics, CLIP, self.conditions, self.condition, recipe, run)

    def learn(self, recipe: Recipe, codec: Codec) -> tuple[Flow, float]:
        """A flow, not yet calibrated, and the seconds of processor time that its field took to train."""
        ticks: list[float] = []
        names = tuple(map(str, self.train.var_names))
        given = (self.counts, self.statistics, CLIP, self.conditions, self.condition, names, recipe, self._run(ticks))
        flow = learn(*given, {}, codec=codec)
        # The first look comes after a share of the steps: what came before it is as much again as any share.
        looks = len(ticks) - 1
        return flow, (ticks[-1] - ticks[0]) * (looks + 1) / looks if looks else 0.0

    def calibrated(self, flow: Flow) -> Flow:
        """The flow with its counts calibrated on the training cells."""
        return flow.calibrated(self.counts, self.condition, n_drawn=DRAWN, sampling=Sampling(seed=self.seed + 1))

    def scores(self, flow: Flow, metrics: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Value and floor of each metric, of as many cells as are held out and of the same types."""
        wanted = self.held_out.obs[[CONDITION]]
        cells = scflow.tl.generate(flow, self.held_out.n_obs, condition=wanted, seed=self.seed, progress=False)
        yardstick = self._yardstick(tuple(metrics))
        found = yardstick.measure(counts_of(cells))
        return {name: (found[name].value, yardstick.floor[name].value) for name in metrics}

    def _yardstick(self, metrics: tuple[str, ...]) -> Yardstick:
        """The held-out cells in halves, and their floor: the same for all recipes, and most of the work of a score."""
        if metrics not in self.yardsticks:
            labels = {"labels": types(self.held_out), "reference_labels": types(self.train)}
            real = counts_of(self.held_out)
            self.yardsticks[metrics] = Yardstick.of(real, self.counts, metrics, **labels, seed=self.seed)
        return self.yardsticks[metrics]

    def _run(self, ticks: list[float]) -> Run:
        """The run of scflow.tl.train; processor time is added to `ticks` at every look."""
        order = torch.from_numpy(np.random.default_rng([self.seed, 0]).permutation(self.train.n_obs))
        held = max(1, round(0.1 * len(order)))
        run = Run(order[held:], order[:held], 256, self.seed, torch.device("cpu"), progress=False)
        return replace(
            run,
            batch_size=min(256, len(run.train)),
            callbacks=[lambda row: ticks.append(time.process_time())],
        )
