"""Groups of which no target cell was seen: how long is trained for them, and what they get."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scflow
from scflow.errors import InputError
from scflow.flow._generalising import Generalised, enough_groups
from scflow.training.groups import ByTurns
from scflow.training.pairs import Carried, Sources

STARTS = {"a": (0.0, 0.0), "b": (12.0, 0.0), "c": (0.0, 12.0), "d": (12.0, 12.0), "new": (6.0, 6.0)}
MOVE = np.array([3.0, -2.0])
SHARED = {"source": {"state": "ctrl"}, "target": {"state": "stim"}, "group": "type"}


def groups(n: int = 40, *, unseen: tuple[str, ...] = ("new",), kept: int | None = None) -> AnnData:
    """All groups move by the same way; of those that are `unseen` there is no target cell."""
    rng = np.random.default_rng(0)
    rows, xs = [], []
    for name, start in STARTS.items():
        for state in ("ctrl", "stim"):
            if state == "stim" and name in unseen:
                continue
            size = n if kept is None or name == "new" else kept
            xs.append(rng.normal(size=(size, 2)) * 0.4 + start + MOVE * (state == "stim"))
            rows += [(state, name)] * size
    obs = pd.DataFrame(rows, columns=["state", "type"], index=[f"c{i}" for i in range(len(rows))])
    return AnnData(obs=obs, obsm={"X_e": np.vstack(xs).astype(np.float32)})


def learn(adata: AnnData, **options: Any) -> scflow.flow.Flow:
    return scflow.tl.train(adata, use_rep="X_e", progress=False, **(SHARED | options))


@pytest.fixture(scope="module")
def learnt() -> tuple[AnnData, scflow.flow.Flow]:
    adata = groups()
    return adata, learn(adata, steps=160)


def test_a_group_that_was_never_seen_carried_moves_as_the_others_do(learnt: tuple[AnnData, scflow.flow.Flow]) -> None:
    adata, flow = learnt
    own = adata[(adata.obs["type"] == "new") & (adata.obs["state"] == "ctrl")].copy()
    scflow.tl.transport(own, flow, progress=False)
    moved = own.obsm["X_scflow"] - own.obsm["X_e"]
    np.testing.assert_allclose(moved.mean(0), MOVE, atol=0.4)
    np.testing.assert_allclose(own.obsm["X_scflow"].std(0), own.obsm["X_e"].std(0), rtol=0.35)


def test_each_group_was_held_out_and_the_best_number_of_steps_was_taken(
    learnt: tuple[AnnData, scflow.flow.Flow],
) -> None:
    facts = learnt[1].provenance["held_out"]
    assert facts["groups"] == 4
    assert facts["steps"][0] == 0
    assert facts["steps"][-1] == 160
    assert len(facts["steps"]) == len(facts["energy"])
    best = facts["steps"][int(np.argmin(facts["energy"]))]
    assert learnt[1].provenance["steps"] == max(1, best)


def test_what_was_held_out_survives_a_file(learnt: tuple[AnnData, scflow.flow.Flow], tmp_path: Path) -> None:
    learnt[1].save(tmp_path / "flow.safetensors")
    again = scflow.flow.Flow.load(tmp_path / "flow.safetensors")
    assert again.provenance["held_out"] == learnt[1].provenance["held_out"]


def test_without_a_group_of_source_cells_alone_training_is_stopped_on_cells() -> None:
    flow = learn(groups(unseen=()), steps=30)
    assert "held_out" not in flow.provenance


def test_groups_can_be_asked_for_and_steps_given() -> None:
    flow = learn(groups(unseen=()), steps=10, validation="groups")
    assert flow.provenance["held_out"]["groups"] == 5
    assert flow.provenance["held_out"]["steps"][-1] == 10


def test_a_share_is_a_share_though_a_group_is_unseen() -> None:
    assert "held_out" not in learn(groups(), steps=30, validation=0.2).provenance


def test_too_few_groups_are_an_error_where_they_were_asked_for_and_a_warning_where_not() -> None:
    few = groups(kept=19)
    with pytest.raises(InputError, match=r"0 groups have at least 20 cells in both populations, and it takes 3"):
        learn(few, validation="groups")
    with pytest.warns(UserWarning, match="1 groups have source cells alone, but 0 groups have at least 20"):
        flow = learn(few, steps=20)
    assert "held_out" not in flow.provenance


def test_noise_has_no_groups_and_words_are_known_words() -> None:
    adata = groups()
    with pytest.raises(InputError, match="validation='groups'"):
        scflow.tl.train(adata, use_rep="X_e", validation="groups", progress=False)
    with pytest.raises(InputError, match="validation='half' is not known"):
        learn(adata, validation="half")


def test_the_same_seed_gives_the_same_bits_and_global_random_state_stays() -> None:
    adata = groups(25)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = learn(adata, steps=5), learn(adata, steps=5)
    assert torch.equal(before, torch.get_rng_state())
    for x, y in zip(first.field.parameters(), second.field.parameters(), strict=True):
        assert torch.equal(x, y)


def test_small_groups_have_their_turn_as_often_as_large_ones() -> None:
    group = torch.tensor([0] * 5 + [1] * 500 + [0] * 5 + [1] * 500)  # source cells first
    source, target = torch.arange(505), torch.arange(505, 1010)
    states = _Numbers()
    pairs = Carried(states, None, group, Sources.of(source, group[source], 2), dropout=0.0)
    turns = ByTurns(pairs, Sources.of(target, group[target], 2), torch.tensor([0, 1]))
    rng, seen = torch.Generator().manual_seed(0), []
    for _ in range(400):
        pair = turns.draw(torch.arange(8), rng=rng)
        assert pair.group is not None
        assert len(pair.group.unique()) == 1  # one group a step
        assert torch.equal(group[pair.data[:, 0].long()], pair.group)
        assert torch.equal(group[pair.noise[:, 0].long()], pair.group)
        seen.append(int(pair.group[0]))
    assert np.mean(seen) == pytest.approx(0.5, abs=0.1)


def test_what_a_field_starts_from_has_its_conditions_and_a_step_drops_some() -> None:
    group = torch.zeros(20, dtype=torch.int64)
    source, target = torch.arange(10), torch.arange(10, 20)
    told = torch.arange(20.0)[:, None]
    pairs = Carried(_Numbers(), told, group, Sources.of(source, group[source], 1), dropout=1.0)
    turns = ByTurns(pairs, Sources.of(target, group[target], 1), torch.tensor([0]))
    rng = torch.Generator().manual_seed(0)
    known, step = turns.of(0, 8, rng=rng), turns.draw(torch.arange(8), rng=rng)
    assert known.condition is not None
    assert step.condition is not None
    assert torch.equal(known.condition, known.data[:, :1])  # those of the target cells
    assert bool(step.condition.isnan().all())


def test_the_steps_that_are_told_are_those_that_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    scflow.tl.train(groups(20), use_rep="X_e", steps=7, **SHARED)
    assert "at most 7 steps of" in capsys.readouterr().out


def test_a_loss_that_hardly_falls_in_so_few_steps_is_no_trouble(learnt: tuple[AnnData, scflow.flow.Flow]) -> None:
    history = learnt[1].history.assign(loss=1.0)
    assert len(history) >= 4
    cells = dataclasses.replace(learnt[1], history=history, provenance={"lr": 1e-3})
    assert "loss not falling" in set(scflow.tl.diagnose(cells)["trouble"])
    held = dataclasses.replace(learnt[1], history=history)
    assert "loss not falling" not in set(scflow.tl.diagnose(held)["trouble"])


def test_enough_is_twenty_cells_a_side() -> None:
    source, target = torch.tensor([20, 19, 500, 20]), torch.tensor([20, 500, 0, 99])
    assert enough_groups(source, target).tolist() == [0, 3]


def test_the_best_number_of_steps_is_at_least_one() -> None:
    assert Generalised(np.array([0, 12, 24]), np.array([0.5, 0.4, 0.6]), 3).best == 12
    assert Generalised(np.array([0, 12, 24]), np.array([0.1, 0.4, 0.6]), 3).best == 1


def test_the_codec_is_trained_for_as_long_whatever_the_field_is_stopped_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    def noted(*_: Any, steps: int, **__: Any) -> None:
        asked.append(steps)
        raise Stopped

    asked: list[int] = []
    monkeypatch.setattr("scflow.flow._learning.fit_counts", noted)
    cells = scflow.datasets.simulate(n_cells=400, n_genes=30, seed=0)
    cells.obs["state"], cells.obs["type"] = ["ctrl", "stim"] * 200, cells.obs["cell_type"].astype(str)
    for validation in (0.1, "groups"):
        with pytest.raises(Stopped):
            scflow.tl.train(cells, space="counts", validation=validation, progress=False, **SHARED)
    assert asked == [2300, 2300]  # as many as 400 cells have by default, and not those of the field


def test_what_codes_leave_out_of_a_change_is_learnt_from_all_groups() -> None:
    """Three genes answer sixfold; a codec that hardly learnt says nothing of it, and what it leaves out is found."""
    cells = scflow.datasets.simulate(n_cells=400, n_genes=60, seed=0)
    counts = cells.X.toarray()
    stimulated = np.arange(len(counts)) % 2 == 1
    counts[stimulated, :3] *= 6
    state = np.where(stimulated, "stim", "ctrl")
    obs = pd.DataFrame({"state": state, "type": cells.obs["cell_type"].astype(str).to_numpy()}, index=cells.obs_names)
    adata = AnnData(counts.astype(np.float32), obs=obs, var=cells.var[[]].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = scflow.tl.train(adata, space="counts", steps=2, progress=False, **SHARED)
    own = adata[~stimulated].copy()
    scflow.tl.transport(own, flow, progress=False)
    made, before = (np.asarray(x.sum(0)).ravel() for x in (own.layers["scflow"], own.X))
    np.testing.assert_allclose(made[:3] / before[:3], 6, rtol=0.2)
    assert flow.codec.settings()["answers"] == []  # one target alone has no column


class _Numbers:
    """States that are the cells' row numbers."""

    def states(self, rows: torch.Tensor, *, rng: torch.Generator) -> torch.Tensor:
        return rows[:, None].float()
