"""`Flow`: drawing against integration by hand, and files that come back bit for bit or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

import scflow
from scflow.codecs.calibration import group_codes
from scflow.errors import FileError, InputError
from scflow.flow import Flow, Sampling
from scflow.flow import _sampling as sampling_
from scflow.flow._flow import seen_conditions
from scflow.flow._learning import default_lr, default_steps
from scflow.matching import noises, paths, solvers

N_CELLS = 200

pytestmark = pytest.mark.usefixtures("small_flows")


@pytest.fixture(scope="module")
def cells():
    adata = scflow.datasets.simulate(n_cells=N_CELLS, n_genes=30, n_types=3, proportions=[0.6, 0.3, 0.1], seed=0)
    adata.obs["dose"] = np.random.default_rng(0).normal(5, 2, N_CELLS)
    adata.obsm["X_own"] = np.random.default_rng(1).normal([3, -1], [2, 0.5], (N_CELLS, 2))
    return adata


SETTINGS: dict[str, dict[str, Any]] = {
    "counts": {"space": "counts", "condition": "cell_type"},
    "genes": {"space": "genes", "condition": ["cell_type", "dose"]},
    "dropout": {"space": "genes", "noise": "dropout"},
    "quantile": {"space": "quantile"},
    "pca": {"space": "pca", "condition": "dose"},
    "embedding": {"use_rep": "X_own", "condition": "cell_type"},
}


@pytest.fixture(scope="module")
def flows(small_flows: None, cells) -> dict[str, Flow]:
    return {
        name: scflow.tl.train(cells.copy(), steps=20, progress=False, **settings) for name, settings in SETTINGS.items()
    }


@pytest.fixture(params=list(SETTINGS))
def flow(request: pytest.FixtureRequest, flows: dict[str, Flow]) -> Flow:
    return flows[request.param]


@pytest.fixture
def counts_flow(flows: dict[str, Flow]) -> Flow:
    return flows["counts"]


def same_cells(first: Flow, second: Flow, n: int = 70) -> None:
    """Drawn alike, bit for bit."""
    a, b = (f.draw(n, sampling=Sampling(seed=3, steps=3)) for f in (first, second))
    np.testing.assert_array_equal(a.state, b.state)
    np.testing.assert_array_equal(a.noise, b.noise)
    assert (a.counts is None) == (b.counts is None)
    if a.counts is not None and b.counts is not None:
        np.testing.assert_array_equal(a.counts.toarray(), b.counts.toarray())
    assert (a.condition is None) == (b.condition is None)
    if a.condition is not None and b.condition is not None:
        assert torch.equal(a.condition, b.condition)


# Drawing.


def test_a_state_is_the_noise_carried_by_the_field(flow: Flow) -> None:
    drawn = flow.draw(20, sampling=Sampling(steps=4, solver=solvers.Heun()))
    x, h = torch.from_numpy(drawn.noise), 0.25
    for i in range(4):
        t = torch.full((20,), 1 - i * h)
        here = flow.field(x, t, drawn.condition)
        x = x - h / 2 * (here + flow.field(x - h * here, t - h, drawn.condition))
    if not flow.codec.has_counts:
        x = flow.codec.decode(x, None, rng=torch.Generator())
    np.testing.assert_allclose(drawn.state, x, rtol=1e-3, atol=1e-4)


def test_counts_are_whole_numbers_and_the_noise_is_the_flows(flows: dict[str, Flow]) -> None:
    for name in ("counts", "genes", "quantile", "pca"):
        drawn = flows[name].draw(300, sampling=Sampling(steps=2))
        assert drawn.counts is not None
        assert drawn.counts.dtype == np.int32
        assert drawn.counts.shape == (300, 30)
        assert drawn.counts.data.min() > 0
        assert drawn.state.shape == drawn.noise.shape == (300, flows[name].codec.dim)
        np.testing.assert_allclose(drawn.noise.std(0), flows[name].noise.sd(flows[name].codec.dim), rtol=0.25)
    assert isinstance(flows["genes"].noise, noises.Sparse)
    assert isinstance(flows["counts"].noise, noises.Gaussian)


def test_dropout_noise_has_the_genes_rates_and_a_gaussian_library(cells, flows: dict[str, Flow]) -> None:
    noise = flows["dropout"].noise
    assert isinstance(noise, noises.Dropout)
    rate = 1 - np.asarray((cells.X > 0).mean(0)).ravel()
    np.testing.assert_allclose(noise.rate, [*rate, 0.0], atol=1e-6)


def test_an_embedding_is_drawn_in_the_users_own_units(cells, flows: dict[str, Flow]) -> None:
    drawn = flows["embedding"].draw(2000)
    assert drawn.counts is None
    own = cells.obsm["X_own"]
    np.testing.assert_allclose(drawn.state.mean(0), own.mean(0), atol=0.3)
    np.testing.assert_allclose(drawn.state.std(0), own.std(0), rtol=0.2)


def test_calibrated_counts_have_the_training_cells_marginals(cells, flows: dict[str, Flow]) -> None:
    """Also where the flow is hardly trained; the map was learnt from cells drawn with another seed."""
    truth = cells.X.toarray()
    for name in ("counts", "genes", "pca"):
        drawn = flows[name].draw(1500, sampling=Sampling(seed=11))
        plain = flows[name].draw(1500, sampling=Sampling(seed=11, calibration="none"))
        assert drawn.counts is not None
        assert plain.counts is not None
        apart = [
            max(stats.ks_2samp(x.counts.toarray()[:, g], truth[:, g]).statistic for g in range(30))
            for x in (drawn, plain)
        ]
        assert apart[0] < 0.1, name
        assert apart[0] < apart[1], name
        np.testing.assert_array_equal(plain.state, drawn.state)


def test_without_calibration_counts_are_the_codecs(counts_flow: Flow) -> None:
    bare = replace(counts_flow, calibration=None)
    a, b = bare.draw(50), counts_flow.draw(50, sampling=Sampling(calibration="none"))
    assert a.counts is not None
    assert b.counts is not None
    np.testing.assert_array_equal(a.counts.toarray(), b.counts.toarray())


def test_ranks_are_the_codecs(cells, flows: dict[str, Flow]) -> None:
    drawn = flows["genes"].draw(50, sampling=Sampling(ranks=True))
    assert drawn.counts is not None
    ranks = flows["genes"].codec.rank(torch.from_numpy(drawn.state), None, rng=torch.Generator())
    np.testing.assert_array_equal(drawn.counts.toarray(), ranks)
    assert drawn.counts.max() > cells.X.max()  # Sixteenths of a count, not counts.


def test_calibrating_again_uses_groups(cells, counts_flow: Flow) -> None:
    condition = counts_flow.conditions.encode(cells.obs)
    again = counts_flow.calibrated(cells.X, condition, n_drawn=512, shrinkage=5.0)
    assert again.calibration is not None
    size = cells.obs["cell_type"].value_counts().sort_index().to_numpy()
    kept = again.calibration.groups.numpy()
    torch.testing.assert_close(again.calibration.trust, torch.from_numpy(size[kept] / (size[kept] + 5)).float())
    codes = group_codes(condition, counts_flow.conditions.cardinalities, N_CELLS)
    assert set(kept) <= set(codes.tolist())
    assert counts_flow.calibration is not again.calibration


def test_more_cells_leave_the_first_ones_as_they_were(flow: Flow) -> None:
    """With the conditions given, cell by cell: also within a tile, and across its edge at 256."""
    rng = np.random.default_rng(0)
    request: dict[str, Any] = {}
    if "cell_type" in flow.conditions.names:
        request["cell_type"] = [f"type_{i}" for i in rng.integers(3, size=600)]
    if "dose" in flow.conditions.names:
        request["dose"] = rng.normal(5, 2, 600).tolist()
    draws = []
    for n in (3, 100, 256, 257, 600):
        asked = {name: values[:n] for name, values in request.items()}
        draws.append(flow.draw(n, asked or None, Sampling(steps=2, seed=5, calibration="independent")))
    for drawn in draws[:-1]:
        n = len(drawn.state)
        np.testing.assert_array_equal(drawn.noise, draws[-1].noise[:n])
        np.testing.assert_array_equal(drawn.state, draws[-1].state[:n])
        if drawn.counts is not None and draws[-1].counts is not None:
            np.testing.assert_array_equal(drawn.counts.toarray(), draws[-1].counts[:n].toarray())


def test_tiles_computed_together_are_the_tiles_computed_alone(counts_flow: Flow) -> None:
    """As on a GPU, where a batch is many tiles: up to rounding in the products, the cells are the same."""
    condition = torch.arange(600.0)[:, None] % 3
    settings = Sampling(steps=2)
    together = sampling_._batch(counts_flow, 600, 0, 600, condition, settings)
    ends = ((0, 256), (256, 512), (512, 600))
    alone = [sampling_._batch(counts_flow, 600, first, last, condition, settings) for first, last in ends]
    np.testing.assert_array_equal(together[2], np.concatenate([part[2] for part in alone]))
    np.testing.assert_allclose(together[1], np.concatenate([part[1] for part in alone]), rtol=1e-3, atol=1e-4)
    counts = np.concatenate([part[0] for part in alone])
    assert (together[0] == counts).mean() > 0.99


def test_seeds_and_tiles_have_numbers_of_their_own(counts_flow: Flow) -> None:
    a, b = (counts_flow.draw(512, sampling=Sampling(steps=1, seed=s)).noise for s in (0, 1))
    rows = np.concatenate([a, b])
    assert len(np.unique(rows[:, 0])) == 1024


def test_guidance_of_zero_ignores_the_condition(counts_flow: Flow) -> None:
    states = [
        counts_flow.draw(40, {"cell_type": t}, Sampling(guidance=g, steps=3)).state
        for g in (0.0, 1.0)
        for t in ("type_0", "type_1")
    ]
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[2] - states[3]).max() > 1e-4


def test_the_flow_comes_back_to_evaluation_on_the_cpu(flow: Flow) -> None:
    flow.draw(3, sampling=Sampling(steps=1))
    assert not flow.field.training
    assert {p.device.type for p in flow.field.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in flow.field.parameters())
    assert not any(p.requires_grad for p in flow.codec.parameters())


def test_a_flow_says_what_it_is(flows: dict[str, Flow]) -> None:
    text = repr(flows["genes"])
    assert text.startswith("Flow(space='genes', 30 genes, cell_type, dose; 200 cells, ")
    assert f"{sum(p.numel() for p in flows['genes'].field.parameters()):,} weights)" in text
    assert "no condition" in repr(flows["quantile"])
    assert "2 coordinates" in repr(flows["embedding"])


# Files.


@pytest.fixture
def saved(counts_flow: Flow, tmp_path: Path) -> Path:
    path = tmp_path / "flow.safetensors"
    counts_flow.save(path)
    return path


def test_a_saved_flow_draws_the_same_bits(flow: Flow, tmp_path: Path) -> None:
    flow.save(tmp_path / "flow.safetensors")
    loaded = Flow.load(str(tmp_path / "flow.safetensors"))
    same_cells(flow, loaded)
    assert repr(loaded) == repr(flow)
    assert loaded.genes == flow.genes
    assert loaded.conditions == flow.conditions
    assert loaded.provenance == flow.provenance
    assert torch.equal(loaded.seen, flow.seen)
    pd.testing.assert_frame_equal(loaded.history, flow.history, check_exact=True)


def test_saving_what_was_loaded_gives_the_same_content(flow: Flow) -> None:
    first = flow.to_content()
    second = Flow.from_content(first).to_content()
    assert json.loads(first["config"]) == json.loads(second["config"])
    assert first["tensors"].keys() == second["tensors"].keys()
    for name, array in first["tensors"].items():
        np.testing.assert_array_equal(array, second["tensors"][name])
        assert array.dtype == second["tensors"][name].dtype


def test_the_file_is_safetensors_with_json_in_its_header(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="numpy") as file:
        header = file.metadata()
    config = json.loads(header["config"])
    assert config["format"] == 1
    assert config["scflow"] == scflow.__version__
    assert config["time"] == "t=0 is data, t=1 is noise"
    assert len(header["sha256"]) == 64


def test_an_existing_file_is_replaced_only_when_asked(flows: dict[str, Flow], saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(
        FileError, match=r"flow\.safetensors' exists\. Replace it with flow\.save\('.*', overwrite=True\)"
    ):
        flows["quantile"].save(str(saved))
    assert saved.read_bytes() == before
    flows["quantile"].save(saved, overwrite=True)
    same_cells(Flow.load(saved), flows["quantile"])
    assert os.listdir(saved.parent) == [saved.name]


def test_where_nothing_can_be_saved(counts_flow: Flow, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"Cannot save to '.*flow': the folder '.*nowhere' does not exist"):
        counts_flow.save(tmp_path / "nowhere" / "flow")
    with pytest.raises(FileError, match=r"it is a folder\. Give the name of a file in it"):
        counts_flow.save(tmp_path, overwrite=True)


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failure_leaves_nothing_behind(
    step: str, counts_flow: Flow, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, step, full)
    with pytest.raises(FileError, match=r"Cannot save to '.*': No space left on device"):
        counts_flow.save(saved, overwrite=True)
    assert os.listdir(saved.parent) == [saved.name]
    assert saved.read_bytes() == before


def test_an_interruption_leaves_nothing_behind(counts_flow: Flow, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        counts_flow.save(saved, overwrite=True)
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of a POSIX system")
@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(mask: int, expected: int, counts_flow: Flow, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        counts_flow.save(tmp_path / "flow")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "flow").stat().st_mode) == expected


def header_size(raw: bytes) -> int:
    return 8 + int.from_bytes(raw[:8], "little")


def test_a_flipped_byte_anywhere_is_found(saved: Path) -> None:
    """In the header's length, in the header, in the tensors."""
    raw = saved.read_bytes()
    size = header_size(raw)
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, size, 150), *rng.integers(size, len(raw), 50), size, len(raw) - 1]
    for place in places:
        for flip in (0x01, 0x80):
            broken = bytearray(raw)
            broken[place] ^= flip
            saved.write_bytes(broken)
            try:
                loaded = Flow.load(saved)
            except FileError:
                continue
            # Only white space in the header may change unnoticed, and then nothing has changed.
            assert bytes([raw[place]]).isspace(), (place, raw[max(0, place - 20) : place + 20])
            assert loaded.provenance["n_cells"] == N_CELLS


def test_a_damaged_tensor_is_named_as_damage(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    raw[-5] ^= 0xFF
    saved.write_bytes(raw)
    with pytest.raises(FileError, match=r"flow\.safetensors' is damaged: its contents do not match the sha256"):
        Flow.load(saved)


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_a_truncated_file(kept: int, saved: Path) -> None:
    raw = saved.read_bytes()
    saved.write_bytes(raw[:kept])
    with pytest.raises(FileError, match=r"flow\.safetensors' cannot be read as a safetensors file"):
        Flow.load(saved)


def test_files_of_another_kind(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3)}, other)
    with pytest.raises(FileError, match=r"other\.safetensors' is a safetensors file, but no flow that scflow saved"):
        Flow.load(other)
    other.write_text("cells,genes\n")
    with pytest.raises(FileError, match="cannot be read as a safetensors file"):
        Flow.load(other)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileError, match=r"There is no file '"):
            Flow.load(path)


def rewritten(path: Path, /, **changes: Any) -> None:
    """The file with another configuration and a digest that fits it: not damaged, but from elsewhere."""
    from scflow.flow import _storage

    content = _storage.load(path)
    config = json.loads(content["config"])
    config.update(changes)
    content["config"] = json.dumps(config)
    _storage.save(content, path, overwrite=True)


def test_a_newer_format_asks_for_an_upgrade(saved: Path) -> None:
    rewritten(saved, format=2, scflow="9.9")
    with pytest.raises(
        FileError,
        match=r"This flow is of format 2, from scflow 9\.9; this version reads up to 1\. Upgrade: pip install -U "
        r"scflow-tools",
    ):
        Flow.load(saved)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"format": "x"}', "null"])
def test_a_configuration_that_is_none(config: str, counts_flow: Flow) -> None:
    content = {**counts_flow.to_content(), "config": config}
    with pytest.raises(FileError, match="This holds no flow: its configuration cannot be read"):
        Flow.from_content(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"field": {"name": "mlp", "settings": {"dim": 3}}},
        {"codec": {"name": "unheard of", "settings": {}}},
        {"codec": {"name": "counts", "settings": {"n_genes": 7}}},
        {"path": {"name": "curved"}},
        {"conditions": "[{}]"},
    ],
)
def test_parts_that_do_not_fit_together(changes: dict[str, Any], saved: Path) -> None:
    rewritten(saved, **changes)
    with pytest.raises(FileError, match="configuration and tensors do not fit together"):
        Flow.load(saved)


@pytest.mark.parametrize("name", ["codec.bias", "field.network.last.weight", "calibration.trust", "seen"])
def test_a_missing_tensor_is_missed(name: str, counts_flow: Flow) -> None:
    content = counts_flow.to_content()
    tensors = {n: t for n, t in content["tensors"].items() if n != name}
    with pytest.raises(FileError, match="configuration and tensors do not fit together"):
        Flow.from_content({**content, "tensors": tensors})


def test_what_is_of_the_users_own_making_cannot_be_saved(counts_flow: Flow, tmp_path: Path) -> None:
    class Bent(paths.Linear):
        pass

    class Cauchy(noises.Noise):
        def sample(self, n: int, dim: int, *, rng: torch.Generator) -> Tensor:
            return torch.zeros(n, dim)

    target = tmp_path / "flow"
    with pytest.raises(InputError, match=r"whose path is a .*Bent of your own cannot be saved"):
        replace(counts_flow, path=Bent()).save(target)
    with pytest.raises(InputError, match=r"whose noise is a .*Cauchy of your own cannot be saved"):
        replace(counts_flow, noise=Cauchy()).save(target)
    field = scflow.matching.Preconditioned(torch.nn.Identity(), paths.Linear(), torch.ones(1), torch.ones(1))
    with pytest.raises(InputError, match=r"whose field is a Identity cannot be saved; one with nn\.MLP can"):
        replace(counts_flow, field=field).save(target)
    assert not target.exists()


# What is kept of the training cells, and how long to train.


def test_seen_conditions_are_a_spread_of_the_training_cells() -> None:
    assert seen_conditions(None, 30).shape == (30, 0)
    assert seen_conditions(None, 30, most=10).shape == (10, 0)
    table = torch.tensor([[0.0]] * 900 + [[1.0]] * 100)[
        torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    ]
    assert torch.equal(seen_conditions(table, 1000), table)
    few = seen_conditions(table, 1000, most=50)
    assert len(few) == 50
    assert few.sum().item() == pytest.approx(5, abs=1)


def test_the_default_length_grows_with_the_data() -> None:
    lengths = [default_steps(n) for n in (20, 156, 700, 4_000, 10**5, 10**7)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 2000
    assert lengths[-1] == 20_000
    assert default_lr(51) > default_lr(2001)
