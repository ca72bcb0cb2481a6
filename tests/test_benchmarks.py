"""The benchmarks measure what they say, and run."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats
from scipy.special import gammaln

import scflow
from scflow.flow._learning import Recipe
from scflow.matching import FlowMatching
from scflow.matching.names import PATHS, TIMES
from scflow.metrics import log_normalised
from scflow.tl._recipe import space_of
from scflow.training import Run, loop, stored

FOLDER = Path(__file__).with_name("benchmarks")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of the benchmarks as Python does when it runs one: with its folder on the path."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def quality(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("quality")


@pytest.fixture
def report(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("quality_report")


def figures(data: str, row: str, metric: str, values: list[float]) -> pd.DataFrame:
    """Figures of all cells, one a seed."""
    seeds = range(len(values))
    return pd.DataFrame(
        {"data": data, "row": row, "metric": metric, "condition": "all", "seed": seeds, "value": values}
        | {"low": np.nan, "high": np.nan}
    )


def test_prepare_keeps_the_genes_that_vary_most_among_training_cells(quality: ModuleType, pbmc: AnnData) -> None:
    train, held_out = quality.prepare(pbmc, seed=3, n_genes=100)
    everything = pbmc[train.obs_names]
    variance = log_normalised(sparse.csr_matrix(everything.X)).toarray().astype(np.float64).var(axis=0)
    assert set(train.var_names) == set(pbmc.var_names[np.argsort(-variance)[:100]])
    assert train.var_names.equals(held_out.var_names)


def test_prepare_halves_every_type(quality: ModuleType, pbmc: AnnData) -> None:
    train, held_out = quality.prepare(pbmc, seed=0)
    assert not set(train.obs_names) & set(held_out.obs_names)
    sizes = train.obs["cell_type"].value_counts(), held_out.obs["cell_type"].value_counts()
    assert (sizes[0] - sizes[1].reindex(sizes[0].index)).abs().max() <= 1


@pytest.mark.filterwarnings("ignore:Some cells have zero counts", "ignore:`n_top_genes`")
@pytest.mark.parametrize("rule", ["variance", "seurat"])
def test_prepare_drops_what_is_empty(quality: ModuleType, simulated: AnnData, rule: str) -> None:
    counts = sparse.lil_matrix(simulated.X)
    counts[:, 7] = 0
    counts[:5] = 0
    simulated.X = counts.tocsr()
    sides = quality.prepare(simulated, seed=0, rule=rule)
    assert sides[0].n_obs + sides[1].n_obs == simulated.n_obs - 5
    assert simulated.var_names[7] not in sides[0].var_names
    assert (sides[0].X.sum(axis=0) > 0).all()


def test_resampled_cells_are_real_cells_of_the_wanted_types(quality: ModuleType, pbmc: AnnData) -> None:
    wanted = np.array(["Dendritic"] * 40 + ["CD14+ Monocyte"] * 30)
    cells = quality.resampled(pbmc, wanted, seed=0)
    assert cells.obs["cell_type"].tolist() == wanted.tolist()
    of_type = {label: pbmc[pbmc.obs["cell_type"] == label].X.toarray() for label in set(wanted)}
    for label, known in of_type.items():
        rows = cells[wanted == label].X.toarray()
        assert all((known == row).all(axis=1).any() for row in rows)
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_resampling_repeats_a_cell_only_when_its_type_is_used_up(quality: ModuleType, simulated: AnnData) -> None:
    few = simulated[:6].copy()
    few.obs["cell_type"] = "a"
    rows = quality.resampled(few, np.array(["a"] * 15), seed=0).X.toarray()
    assert sorted(np.unique(rows, axis=0, return_counts=True)[1].tolist()) == [2, 2, 2, 3, 3, 3]


def test_copying_is_0_for_copies_and_1_for_new_cells(quality: ModuleType) -> None:
    cells = scflow.datasets.simulate(900, 60, 3, seed=0)
    train, held_out, new = (cells[i::3].copy() for i in range(3))
    copying = quality.copying(train, held_out)
    assert copying(train) < 1e-2
    assert copying(new) == pytest.approx(1, abs=0.05)


@pytest.mark.filterwarnings("ignore:.*conditions")
def test_quality_scores_every_row_as_the_package_does(quality: ModuleType, simulated: AnnData) -> None:
    """Although what rows share is figured once; without cells the floor and the trivial generator stand alone."""
    train, held_out = quality.prepare(simulated, seed=0)
    wanted, metrics = quality.types(held_out), ["mmd", "gene_means", "label_accuracy", "copying"]
    score = quality.judged(held_out, train, wanted, 3, metrics)
    alone = score(None)
    trivial = scflow.metrics.poisson_cells(quality.counts_of(train), quality.types(train), wanted, seed=1)
    for cells in (quality.resampled(train, wanted, seed=0), quality.cells_of(trivial, train, wanted)):
        options = {"reference": train, "condition": "cell_type", "metrics": metrics, "seed": 3}
        expected = scflow.tl.score(held_out, cells, **options)
        pd.testing.assert_frame_equal(score(cells), expected, check_exact=True)
        shared = ["condition", "metric", "floor", "trivial"]
        pd.testing.assert_frame_equal(alone[shared], expected[shared], check_exact=True)
    assert alone[["value", "distance", "ratio", "low", "high"]].isna().all(axis=None)


def test_default_space_is_that_of_training(quality: ModuleType) -> None:
    assert space_of("auto", None) == quality.DEFAULT_SPACE


def test_targets_hold_fail_or_are_not_measured(report: ModuleType) -> None:
    genes, labels = "forest_auc_genes", "label_accuracy"
    rows = [
        ("pbmc3k", "counts", genes, [0.52, 0.64]), ("pbmc3k", "floor", genes, [0.5, 0.5]),
        ("pbmc3k", "trivial", genes, [0.9, 0.9]), ("pbmc3k", "counts", labels, [0.80, 0.82]),
        ("pbmc3k", "floor", labels, [0.80, 0.79]), ("pbmc3k", "counts", "copying", [0.9]),
        ("pbmc68k", "counts", genes, [0.95]), ("pbmc68k", "floor", genes, [0.5]), ("pbmc68k", "trivial", genes, [0.9]),
        ("another", "counts", "mmd", [0.1]), ("another", "floor", "mmd", [0.0]), ("another", "trivial", "mmd", [0.2]),
    ]  # fmt: skip
    # A 95 % interval of 1.96 x 0.05 either way: over two seeds the standard error of a mean is 0.035.
    table = pd.concat([figures(*row) for row in rows])
    table = table.assign(low=table["value"] - 0.098, high=table["value"] + 0.098)
    found = {target.text: target.holds for target in report.targets(table, "counts")}
    assert found[f"pbmc3k: {genes} of 'counts' below the trivial generator's: 0.5800 beside 0.9000"] is True
    assert found[f"pbmc68k: {genes} of 'counts' below the trivial generator's: 0.9500 beside 0.9000"] is False
    # Above the bound, and yet as near to the floor as these cells can tell: 0.08 in 0.0707 is not, 0.065 is.
    away = f"pbmc3k: {genes} of 'counts' at most 0.53, or at the floor"
    assert found[f"{away}: 0.5800 beside 0.5000"] is False
    table.loc[(table["row"] == "floor") & (table["metric"] == genes) & (table["data"] == "pbmc3k"), "value"] = 0.515
    again = {target.text: target.holds for target in report.targets(table, "counts")}
    assert again[f"{away}: 0.5800 beside 0.5150"] is True
    assert found[f"pbmc3k: {labels} of 'counts' within 0.02 of the floor: 0.8100 beside 0.7950"] is True
    assert found["pbmc3k: copying of 'counts' between 0.95 and 1.05: 0.9000"] is False
    assert found["another: mmd of 'counts' at the floor: 0.1000 beside 0.0000"] is True
    assert found["kang_ifnb: mmd of 'counts' at the floor"] is None
    assert found["kang_ifnb: copying of 'counts' between 0.95 and 1.05"] is None


def test_markdown_has_means_and_deviations_with_reference_points_first(report: ModuleType) -> None:
    table = pd.concat(
        [
            figures("pbmc3k", "counts", "mmd", [0.001, 0.003]),
            figures("pbmc3k", "floor", "mmd", [0.0, 0.0]),
            figures("pbmc3k", "counts", "train_cpu_seconds", [10.2, 11.0]),
        ]
    )
    lines = report.markdown(table).splitlines()
    assert lines[-4:] == [
        "| | MMD^2 | train CPU s |",
        "|---|---|---|",
        "| floor | 0.0000 ± 0.0000 |  |",
        "| counts | 0.0020 ± 0.0014 | 11 |",
    ]


def test_tables_of_several_runs_are_joined(
    quality: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, value in (("floor", 0.25), ("counts, one by one", 0.5), ("counts", 0.75)):
        figures("pbmc3k", row, "mmd", [value]).to_csv(tmp_path / f"{row}.csv", index=False)
    assert quality.main(["--join", *map(str, tmp_path.glob("*.csv"))]) == 0
    printed = capsys.readouterr().out
    rows = ("| floor | 0.2500 |", "| counts | 0.7500 |", "| counts, one by one | 0.5000 |")
    assert "\n".join(rows) in printed


def test_every_space_has_two_budgets_and_a_rival_is_trained_once(quality: ModuleType) -> None:
    options = quality.parse(["--spaces", "counts", "pca", "--rivals", "dca", "--steps", "40", "--epochs", "7"])
    options.rivals += ["scvi", "scvi-gaussian"]  # Whether it is installed or not.
    found = [(request.rows, request.steps, request.epochs) for request in quality.requests(options, 500, seed=0)]
    assert found == [
        (("counts", "counts, one by one"), 40, None),
        (("counts, small",), 10, None),
        (("pca",), 40, None),
        (("pca, small",), 10, None),
        (("scVI, prior", "scVI, Gaussian"), None, 7),
        (("plain latent flow",), None, 7),
    ]


def test_scvi_is_left_out_where_it_is_missing(
    quality: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert quality.available(["scvi", "dca", "scvi-gaussian"]) == ["dca"]
    assert capsys.readouterr().out == "scVI: not installed; pip install scflow-tools[benchmarks]\n"
    assert quality.available(["none"]) == []
    assert not capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*conditions")
def test_a_run_of_quality_that_was_killed_goes_on_where_it_stopped(
    quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulated: AnnData
) -> None:
    trained: list[tuple[int, tuple[str, ...]]] = []
    dies_after: list[str] = []

    def drawn(request: Any, train: AnnData, wanted: np.ndarray) -> Any:
        trained.append((request.seed, request.rows))
        for row in request.rows:
            cells = quality.resampled(train, wanted, seed=len(row))
            yield row, quality.counts_of(cells), {"train_seconds": 1 / 3}
            if row in dies_after:
                raise KeyboardInterrupt

    monkeypatch.setattr(quality, "drawn", drawn)
    monkeypatch.setattr(quality, "data_sets", lambda names: [(name, simulated) for name in names])
    arguments = ["--data", "simulated", "--spaces", "counts", "pca", "--budgets", "default", "--rivals", "none"]
    arguments += ["--seeds", "0", "1", "--steps", "20", "--metrics", "mmd", "zero_fractions"]
    assert quality.main([*arguments, "--out", str(tmp_path / "whole.csv")]) == 0
    everything = [(seed, rows) for seed in (0, 1) for rows in (("counts", "counts, one by one"), ("pca",))]
    assert trained == everything

    out = tmp_path / "quality.csv"
    dies_after.append("counts")
    with pytest.raises(KeyboardInterrupt):
        quality.main([*arguments, "--out", str(out)])
    assert pd.read_csv(out)["row"].unique().tolist() == ["bootstrap", "floor", "trivial", "counts"]
    dies_after.clear()
    trained.clear()
    assert quality.main([*arguments, "--out", str(out), "--resume"]) == 0
    # Of the training that was interrupted the row that is there is not drawn again.
    assert trained == [(0, ("counts, one by one",)), *everything[1:]]
    assert out.read_text(encoding="utf-8") == (tmp_path / "whole.csv").read_text(encoding="utf-8")

    trained.clear()
    for name in ("judged", "copying"):
        monkeypatch.setattr(quality, name, lambda *_: pytest.fail("There is nothing left to score."))
    text = out.read_text(encoding="utf-8")
    assert quality.main([*arguments, "--out", str(out), "--resume"]) == 0
    assert not trained
    assert out.read_text(encoding="utf-8") == text
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md"}
    with pytest.raises(SystemExit):
        quality.parse(["--resume"])


def test_a_table_is_replaced_at_once(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed, out = script("resumed"), tmp_path / "a.csv"
    table = figures("pbmc3k", "none", "mmd", [0.1 + 0.2, np.nan])
    resumed.write(table, out)
    pd.testing.assert_frame_equal(resumed.read(out, list(table.columns)), table, check_exact=True)

    def killed(self: pd.DataFrame, path: Path, **_: Any) -> None:
        path.write_text("data,row,me")
        raise KeyboardInterrupt

    before = out.read_bytes()
    monkeypatch.setattr(pd.DataFrame, "to_csv", killed)
    with pytest.raises(KeyboardInterrupt):
        resumed.write(table, out)
    assert out.read_bytes() == before


@pytest.mark.slow
def test_quality_runs(quality: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quality.csv"
    arguments = ["--quick", "--spaces", "counts", "genes", "--steps", "20", "--metrics", "mmd", "zero_fractions"]
    arguments += ["--rivals", "dca", "--epochs", "2", "--budgets", "default"]
    assert quality.main([*arguments, "--out", str(out)]) == 0
    table = pd.read_csv(out)
    overall = table[(table["condition"] == "all") & (table["metric"] == "mmd")].set_index("row")["value"]
    ours = ["counts", "counts, one by one", "genes", "plain latent flow"]
    assert overall.index.tolist() == ["bootstrap", "floor", "trivial", *ours]
    assert overall["floor"] < overall["trivial"]
    seconds = table[table["metric"] == "train_seconds"].set_index("row")["value"]
    assert seconds.index.tolist() == ours
    assert (seconds > 0).all()
    printed = capsys.readouterr().out
    assert out.with_suffix(".md").read_text(encoding="utf-8") in printed
    assert "not measured: pbmc3k" in printed
    assert quality.main([*arguments, "--spaces", "counts", "--check"]) == 1


def test_the_picture_of_quality_is_drawn(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    picture = script("quality_figure")
    metrics, rows = picture.METRICS, ("floor", "trivial", "counts", "scVI, prior")
    table = [figures(data, row, metric, [0.5, 0.6]) for data in "ab" for row in rows for metric in metrics]
    picture.figure(pd.concat(table), tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 10_000
    picture.figure(figures("a", "counts", "mmd", [0.1]), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_latent_flow_is_fitted_by_the_negative_binomial(script: Callable[[str], ModuleType]) -> None:
    rivals, rng = script("rivals"), np.random.default_rng(0)
    counts = torch.from_numpy(rng.poisson(3.0, (20, 6)).astype(np.float32))
    network = rivals.Autoencoder(6).eval()
    network.log_theta.data = torch.linspace(-1, 2, 6)
    mean = network.decode(network.encode(counts), counts.sum(dim=1, keepdim=True)).detach().double().numpy()
    theta = network.log_theta.exp().detach().double().numpy()
    likelihood = stats.nbinom.logpmf(counts.numpy(), theta, theta / (theta + mean)) + gammaln(counts.numpy() + 1)
    assert network.loss(counts).item() == pytest.approx(-likelihood.sum(axis=1).mean(), rel=1e-4)


def test_a_latent_flow_integrates_a_known_field_exactly(script: Callable[[str], ModuleType]) -> None:
    """All data at one code: the paths are straight lines to it."""
    rivals = script("rivals")
    there = torch.randn((1, rivals.CODE), generator=torch.Generator().manual_seed(0))

    def field(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (x - there) / t[:, None]

    flow = rivals.LatentFlow(rivals.Autoencoder(6), field, torch.tensor(1.0), torch.tensor(2.0))
    codes = flow.codes(torch.zeros(8, dtype=torch.int64), torch.Generator().manual_seed(1))
    torch.testing.assert_close(codes, (1 + 2 * there).expand(8, -1), atol=1e-4, rtol=1e-4)


def test_a_latent_flow_draws_the_profile_of_each_type(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two types of Poisson cells with different profiles: their means come back, and the global generator is left."""
    rivals, rng = script("rivals"), np.random.default_rng(0)
    labels, rates = np.repeat([0, 1], 256), np.array([[8.0] * 5 + [1.0] * 5, [1.0] * 5 + [8.0] * 5])
    counts, before = sparse.csr_matrix(rng.poisson(rates[labels])), torch.get_rng_state()
    for name, small in (("HIDDEN", (64, 32)), ("CODE", 4), ("FIELD_HIDDEN", 64), ("EVALUATIONS", 20)):
        monkeypatch.setattr(rivals, name, small)
    flow = rivals.latent_flow(counts, torch.from_numpy(labels), seed=0, epochs=30)
    drawn = flow.draw(torch.from_numpy(labels), np.full(512, 45.0), seed=1).toarray()
    assert torch.equal(torch.get_rng_state(), before)
    for label in (0, 1):
        np.testing.assert_allclose(drawn[labels == label].mean(axis=0), rates[label], rtol=0.3, atol=0.5)
    assert np.array_equal(drawn, flow.draw(torch.from_numpy(labels), np.full(512, 45.0), seed=1).toarray())


def test_library_sizes_are_those_of_the_type(script: Callable[[str], ModuleType]) -> None:
    counts, labels = sparse.csr_matrix(np.array([[1, 2], [3, 0], [50, 9]])), np.array(["a", "a", "b"])
    sizes = script("rivals").sizes_of_type(counts, labels, np.array(["b", "a", "a", "b"]), seed=0)
    assert sizes[[0, 3]].tolist() == [59, 59]
    assert set(sizes[[1, 2]]) == {3.0}


def test_a_generator_is_trained_in_a_process_of_its_own(
    script: Callable[[str], ModuleType], quality: ModuleType, pbmc: AnnData
) -> None:
    generators = script("generators")
    train, held_out = quality.prepare(pbmc, seed=0, n_genes=50)
    wanted = quality.types(held_out)
    (found,) = generators.drawn(generators.Request("dca", ("plain latent flow",), epochs=1), train, wanted)
    assert found.row == "plain latent flow"
    assert found.counts.shape == held_out.shape
    assert set(found.costs) == {"train_seconds", "train_cpu_seconds", "train_mb", "generate_seconds"}
    assert 0 < found.costs["train_cpu_seconds"] < 60
    assert 0 < found.costs["train_mb"] < 500


def test_scvi_draws_cells_of_each_type(script: Callable[[str], ModuleType], simulated: AnnData) -> None:
    pytest.importorskip("scvi", reason="scVI is in the extra 'benchmarks'")
    rival = script("scvi_rival").ScVI(simulated, seed=0, epochs=150)
    labels = simulated.obs["cell_type"].astype(str).to_numpy()
    own = np.vstack([simulated.X[labels == label].mean(axis=0) for label in np.unique(labels)])
    for draw in (rival.prior, rival.gaussian):
        counts = draw(labels).toarray()
        assert np.array_equal(counts, np.round(counts))
        assert np.array_equal(counts, draw(labels).toarray())
        for i, label in enumerate(np.unique(labels)):
            like = [np.corrcoef(counts[labels == label].mean(axis=0), np.asarray(row).ravel())[0, 1] for row in own]
            assert int(np.argmax(like)) == i


def test_speed_runs(script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--cells", "400", "--genes", "60", "--batches", "64", "--widths", "32", "--drawn", "50"]
    short = ["--rounds", "2", "--seconds", "0.02", "--precisions", "float32", "--threads", "1"]
    assert script("speed").main([*sizes, *short]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    trained = [line for line in lines if "float32" in line and "|" in line]
    assert [line[0] for line in trained] == ["counts", "genes"]
    for line in trained:
        figures = line[line.index("|") + 1 :]
        assert 0.1 < float(figures[0]) < 10
        assert 0 < float(figures[-3].rstrip("%")) <= float(figures[-2].rstrip("%"))
    drawn = [
        [float(rate.replace(",", "")) for rate in line[3:]]
        for line in lines
        if line[1:3] == ["60", "float32"] and len(line) == 7
    ]
    assert len(drawn) == 2
    assert all(rates[0] > rates[-1] > 0 for rates in drawn)


def test_the_limits_of_a_step_are_counted(script: Callable[[str], ModuleType]) -> None:
    """Of one layer: 2 n a b operations forward, and for the weights' gradient; the input has none."""
    found = script("speed_limits")

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    run = Run(torch.arange(16), torch.arange(1), 16, 0, torch.device("cpu"))
    limits = found.limits(Field(), torch.ones(16, 8), torch.zeros(16, 1), run)
    assert limits.flops == 2 * 2 * 16 * 8 * 4
    assert limits.n_bytes >= found.ADAMW * (8 * 4 + 4)
    assert limits.products > 0
    assert limits.memory > 0


@pytest.mark.slow
def test_memory_runs(script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("resource", reason="the peak size of a process is measured by the resource module")
    arguments = ["--cells", "500", "--genes", "500", "--steps", "2", "--spaces", "counts", "--check"]
    arguments += ["--drawn", "0"]
    assert script("memory").main(arguments) == 0
    assert re.search(r"PASS: space='counts' peaks at [\d,]+ MB", capsys.readouterr().out)


@pytest.mark.slow
def test_memory_of_cells_in_a_file_runs(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("resource", reason="the peak size of a process is measured by the resource module")
    assert script("memory").main(["--genes", "100", "--steps", "2", "--spaces", "--drawn", "600", "--check"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"PASS: generating 600 cells x 100 genes into a file peaks at [\d,]+ MB", printed)


def test_fields_are_given_the_steps_that_fill_their_time(script: Callable[[str], ModuleType]) -> None:
    """A step of 0.1 s and a look of 0.5 s: a run of 60 s has 40 looks, and 400 steps."""
    looks = {20: 20, 80: 40}
    assert script("fields").steps_in(60.0, lambda n: 0.1 * n + 0.5 * looks[n]) == 400


@pytest.mark.usefixtures("small_flows")
def test_a_learner_learns_what_the_product_does(
    script: Callable[[str], ModuleType], quality: ModuleType, simulated: AnnData
) -> None:
    train, held_out = quality.prepare(simulated, seed=0)
    learner = script("learner").Learner(train, held_out, "counts", 3)
    flow = learner.learn(learner.default(20), learner.codec(20))[0]
    exact = {"precision": "float32", "progress": False}
    same = scflow.tl.train(train, condition="cell_type", space="counts", steps=20, seed=3, **exact)
    for ours, theirs in ((flow.codec, same.codec), (flow.field, same.field)):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


def test_an_ablation_has_every_name_of_the_guide_and_one_default_a_choice(script: Callable[[str], ModuleType]) -> None:
    ablation = script("ablation")
    genes = Recipe("genes", FlowMatching(), "dropout", 9, None, calibrate=False)
    default = replace(genes, space="counts", noise="gaussian")
    found = list(ablation.variants(list(ablation.CHOICES), "counts", default))
    assert found[0] == ("default", "default", default)
    sizes = {choice: len(names) for choice, names in ablation.CHOICES.items() if choice != "noise_genes"}
    left = [choice for choice, _, _ in found[1:]]
    assert {choice: left.count(choice) + 1 for choice in sizes} == sizes
    assert [name for _, name, _ in ablation.variants(list(ablation.CHOICES), "counts", genes)] == [
        "default", "gaussian", "sparse", "dropout_by_condition",
    ]  # fmt: skip
    assert not list(ablation.variants(["path"], "counts", genes))
    assert set(ablation.CHOICES["path"]) == set(PATHS)
    assert set(ablation.CHOICES["time"]) == {*TIMES, "importance, corrected"}


@pytest.mark.usefixtures("small_flows")
def test_ablation_goes_on_where_it_stopped(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    simulated: AnnData,
) -> None:
    ablation, drawn = script("ablation"), []

    def scores(self: Any, flow: scflow.Flow, metrics: list[str]) -> dict[str, tuple[float, float]]:
        """How often cells were drawn so far."""
        drawn.append((type(flow.field).__name__, flow.calibration is not None))
        return {metric: (float(len(drawn)), 0.5) for metric in metrics}

    monkeypatch.setattr(script("learner").Learner, "scores", scores)
    monkeypatch.setattr(ablation, "data_sets", lambda names: [(name, simulated) for name in names])
    arguments = ["--data", "simulated", "--steps", "20", "--codec-steps", "20", "--metrics", "mmd", "wasserstein"]
    arguments += ["--out", str(tmp_path / "a.csv"), "--figure", str(tmp_path / "a.png")]
    assert ablation.main([*arguments, "--choices", "preconditioning"]) == 0
    both = [("Preconditioned", False), ("Preconditioned", True)]
    assert drawn == [*both, ("Bare", False), ("Bare", True)]
    assert ablation.main([*arguments, "--choices", "preconditioning", "average"]) == 0
    assert drawn[4:] == 3 * both
    table = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert table["variant"].tolist()[::2] == ["default", "off", "constant", "power", "none"]
    assert table["calibrated"].tolist() == 5 * [False, True]
    assert table["mmd"].astype(float).tolist() == list(range(1, 11))
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert re.search(r"\| floor \| 0\.5000 \| 0\.50 \|  \|  \|\n\| default \| 2\.0000 \| 2\.00 \| \d+ \|", text)
    assert "| average: none | 10.0000 (+8.0000) | 10.00 (+8.00) |" in text
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.usefixtures("small_flows")
def test_where_types_act_is_ablated_with_a_codec_for_each(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, simulated: AnnData
) -> None:
    ablation, drawn = script("ablation"), []

    def scores(self: Any, flow: scflow.Flow, metrics: list[str]) -> dict[str, tuple[float, float]]:
        drawn.append(flow.codec.settings()["effects"])
        return dict.fromkeys(metrics, (0.0, 0.0))

    monkeypatch.setattr(script("learner").Learner, "scores", scores)
    monkeypatch.setattr(ablation, "data_sets", lambda names: [(name, simulated) for name in names])
    arguments = ["--data", "simulated", "--steps", "20", "--codec-steps", "20", "--metrics", "mmd", "wasserstein"]
    assert ablation.main([*arguments, "--choices", "effects"]) == 0
    assert drawn == ["code", "code", "genes", "genes"]  # As drawn, and calibrated.


def test_differences_are_from_the_default_of_the_same_seed(script: Callable[[str], ModuleType]) -> None:
    report = script("ablation_report")
    rows = [
        {"data": "a", "space": "counts", "planned": 9, "codec_steps": 9, "seed": seed, "choice": choice,
         "variant": choice, "calibrated": calibrated, "steps": 9, "seconds": 1.0}
        | {name: luck[seed] + calibrated + more for metric in report.METRICS for name in (metric, f"{metric}_floor")}
        for choice, more in (("default", 0.0), ("path", 0.25)) for luck in [{0: 3.0, 1: 7.0}] for seed in (1, 0)
        for calibrated in (False, True)
    ]  # fmt: skip
    less = report.differences(pd.DataFrame(rows))
    assert less["choice"].tolist() == ["path"] * 4
    assert (less[list(report.METRICS)] == 0.25).all(axis=None)
    text = report.markdown(pd.DataFrame(rows))
    assert "### a, counts, calibrated; 9 steps; seeds 0, 1" in text
    assert "| path: path | 6.250 ± 2.828 (+0.250 ± 0.000) |" in text
    assert "| path (counts): path | +0.250 | +0.250 | +0.250 | +0.250 |" in report.summary(pd.DataFrame(rows))


def test_a_difference_is_certain_where_three_seeds_agree(script: Callable[[str], ModuleType]) -> None:
    difference = script("ablation_report")._difference
    assert difference(pd.Series([0.10, 0.11, 0.12]), 3) == "**+0.110**"
    assert difference(pd.Series([0.10, 0.11, -0.12]), 3) == "+0.030"
    assert difference(pd.Series([0.1, 0.1]), 3) == "+0.100"


def test_guidance_is_judged_by_labels_and_by_variance(
    script: Callable[[str], ModuleType], pbmc: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against itself the held-out half has a ratio of 1; one cell of each type, repeated, has 0; other labels, less."""
    guidance, quality = script("guidance"), script("quality")
    monkeypatch.setattr(guidance, "two_sample_auc", lambda real, cells: SimpleNamespace(value=0.5))  # Takes seconds.
    train, held_out = quality.prepare(pbmc, seed=0, n_genes=100)
    judge, counts, labels = guidance.judged(train, held_out), quality.counts_of(held_out), quality.types(held_out)
    same = judge(counts, labels)
    assert same["variance ratio"] == pytest.approx(1)
    first = {label: int(np.flatnonzero(labels == label)[0]) for label in set(labels)}
    assert judge(counts[[first[label] for label in labels]], labels)["variance ratio"] == pytest.approx(0, abs=1e-6)
    assert same["label accuracy"] > 0.6
    assert judge(counts, np.roll(labels, 1))["label accuracy"] < same["label accuracy"] - 0.2


@pytest.mark.slow
@pytest.mark.usefixtures("small_flows")
def test_guidance_runs(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = script("guidance")
    monkeypatch.setattr(guidance, "two_sample_auc", lambda real, cells: SimpleNamespace(value=0.5))
    assert guidance.main(["--scales", "1", "2", "--interval", "0.2", "0.8", "--steps", "20"]) == 0
    assert "guidance 2 in (0.2, 0.8)" in capsys.readouterr().out


def test_odd_cells_are_odd_as_they_say(script: Callable[[str], ModuleType], pbmc: AnnData) -> None:
    odd, quality = script("odd_cells"), script("quality")
    train, _ = quality.prepare(pbmc, seed=0, n_genes=100)
    cells, kind = odd.planted(train, np.random.default_rng(0))
    before, after = train.X.toarray(), cells.X.toarray()
    relabelled = quality.types(cells) != quality.types(train)
    np.testing.assert_array_equal(relabelled, kind == "wrong label")
    as_they_were = (kind == "") | relabelled
    np.testing.assert_array_equal(before[as_they_were], after[as_they_were])
    dealt, mean = kind == "counts of random genes", kind == "mean profile"
    np.testing.assert_array_equal(np.sort(before[dealt], axis=1), np.sort(after[dealt], axis=1))
    np.testing.assert_array_equal(before[mean].sum(1), after[mean].sum(1))
    assert {k: (kind == k).sum() for k in odd.KINDS} == dict.fromkeys(odd.KINDS, 7)
    found = odd.distances(cells, cells)["neighbours in components"]
    assert odd.auc(found, kind, "counts of random genes") > 0.9
    assert odd.auc(np.where(kind == "doublet", -1.0, 0.0), kind, "doublet") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_flows")
def test_odd_cells_runs(script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    assert script("odd_cells").main(["--steps", "20"]) == 0
    assert "own label less best other" in capsys.readouterr().out


@pytest.fixture
def task(script: Callable[[str], ModuleType], simulated: AnnData) -> Any:
    """Six cells of a type, which are to become twenty."""
    augmentation = script("augmentation")
    halves = scflow.pp.split(simulated, stratify="cell_type", test_size=0.5, seed=0)
    options = augmentation.parse(["--to", "20", "--steps", "20"])
    return augmentation.diminished(*halves, "type_2", 6, 0, options)[0]


@pytest.mark.usefixtures("small_flows")
@pytest.mark.parametrize("method", ["nothing", "class weights", "duplicates", "SMOTE", "noise", "scflow"])
def test_every_remedy_leaves_the_training_cells_and_adds_to_the_rare_type(
    script: Callable[[str], ModuleType], task: Any, method: str
) -> None:
    examples, n = script("oversampling").METHODS[method](task), task.train.n_obs
    assert (task.more, int((task.train.obs["cell_type"] == "type_2").sum())) == (14, 6)
    added = 0 if method in ("nothing", "class weights") else 14
    assert examples.expression.shape[0] == len(examples.labels) == len(examples.weights) == n + added
    np.testing.assert_array_equal(examples.expression[:n].toarray(), task.space.genes(task.train.X))
    assert examples.labels[:n].tolist() == task.train.obs["cell_type"].tolist()
    assert set(examples.labels[n:]) <= {"type_2"}
    if method == "class weights":
        totals = [examples.weights[examples.labels == label].sum() for label in set(examples.labels)]
        np.testing.assert_allclose(totals, n / 3)
    else:
        assert (examples.weights == 1).all()


def test_oversampled_cells_are_made_of_rare_ones(script: Callable[[str], ModuleType], task: Any) -> None:
    methods, n = script("oversampling").METHODS, task.train.n_obs
    few = task.space.genes(task.few)
    again, between, noisy = (methods[m](task).expression[n:].toarray() for m in ("duplicates", "SMOTE", "noise"))
    repeats = [(few == row).all(axis=1).nonzero()[0].tolist() for row in again]
    assert sorted(np.bincount(np.concatenate(repeats)).tolist()) == [2, 2, 2, 2, 3, 3]
    # A point of a segment: its distances to the two ends add up to that between them.
    gaps = np.linalg.norm(few[:, None] - few[None], axis=-1)
    ends = np.linalg.norm(few[None] - between[:, None], axis=-1)
    slack = ends[:, :, None] + ends[:, None, :] - gaps[None] + 1e3 * np.eye(6)
    np.testing.assert_allclose(slack.min(axis=(1, 2)), 0, atol=1e-4)
    assert ends.min(axis=1).max() > 0.1
    assert not noisy[:, (few == 0).all(axis=0)].any()
    assert all(np.abs(few - row).max(axis=1).min() > 0.1 for row in noisy)


@pytest.mark.usefixtures("small_flows")
def test_augmentation_goes_on_where_it_stopped(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    simulated: AnnData,
) -> None:
    augmentation = script("augmentation")
    monkeypatch.setattr(augmentation, "data_sets", lambda names: [(name, simulated) for name in names])
    arguments = ["--data", "simulated", "--rare", "type_2", "--sizes", "5", "999", "--steps", "20", "--to", "50"]
    arguments += ["--out", str(tmp_path / "a.csv"), "--figure", str(tmp_path / "a.png")]
    assert augmentation.main([*arguments, "--seeds", "0", "--methods", "nothing", "scflow"]) == 0
    first = pd.read_csv(tmp_path / "a.csv")
    both = ["logistic", "forest"]
    assert augmentation.main([*arguments, "--seeds", "0", "1", "--methods", "nothing", "--classifiers", *both]) == 0
    table = pd.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(table[: len(first)], first)
    there = int((simulated.obs["cell_type"] == "type_2").sum()) // 2
    assert set(table["n"]) <= {5, there, there + 1}
    assert table["method"].tolist() == ["nothing", "scflow"] * 2 + ["nothing"] * 6
    assert table.loc[4:, "classifier"].tolist() == ["forest"] * 2 + both * 2
    assert table[["f1_rare", "f1_macro"]].stack().between(0, 1).all()
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "### simulated, type_2, forest; 20 steps; seeds 0, 1;" in text
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.usefixtures("small_flows")
def test_a_type_that_is_not_rare_is_passed_over(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    simulated: AnnData,
) -> None:
    augmentation = script("augmentation")
    monkeypatch.setattr(augmentation, "data_sets", lambda names: [("simulated", simulated)])
    assert augmentation.main(["--rare", "type_2", "type_9", "--sizes", "20", "--to", "20", "--seeds", "0"]) == 0
    printed = capsys.readouterr().out
    assert "simulated, type_2, n 20, seed 0: as many as other types have. Skipped; raise --to." in printed
    assert "simulated: no type 'type_9', but 'type_0', 'type_1', 'type_2'. Skipped." in printed
    assert printed.endswith("Nothing was measured.\n")


def test_remedies_are_compared_seed_by_seed(script: Callable[[str], ModuleType]) -> None:
    report = script("augmentation_report")
    rows = [
        {"data": "a", "rare": "b", "classifier": "logistic", "steps": 9, "n": 5, "seed": seed, "method": method}
        | {"tested": 7, "f1_rare": luck + more, "f1_macro": luck}
        for seed, luck in enumerate((0.1, 0.5, 0.3)) for method, more in (("nothing", 0.0), ("scflow", 0.25))
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    np.testing.assert_allclose(report.differences(table)["f1_rare"], 0.25)
    # t(0.975, 2) = 4.3027 times 0.2 / sqrt(3).
    np.testing.assert_allclose(
        report.interval(table.loc[::2, "f1_rare"]), [0.3, 0.3 - 0.49683, 0.3 + 0.49683], rtol=1e-4
    )
    text = report.markdown(table)
    assert "| scflow | 0.550 [0.053, 1.047] |" in text
    assert "| F1 of the rare type, scflow less | 5 |\n|---|---|\n| nothing | +0.250 [+0.250, +0.250] |" in text


@pytest.fixture
def small(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("small")


@pytest.fixture
def sixty(small: ModuleType) -> Any:
    """Sixty cells to learn from, eight of them of one type."""
    cells = scflow.datasets.simulate(400, 50, 3, n_programmes=2, dropout=0.05, seed=1)
    return small.Task.of(cells, 3, small.parse(["--cells", "60", "--drawn", "40"]))


def test_a_small_set_has_few_cells_of_the_rarest_type_and_others_to_spare(small: ModuleType, sixty: Any) -> None:
    sides = [set(side.obs_names) for side in (sixty.train, sixty.held_out, sixty.spare)]
    assert [len(side) for side in sides] == [60, 200, 140]
    assert len(set.union(*sides)) == 400
    assert int((small.types(sixty.train) == sixty.rare).sum()) == 8
    assert sixty.rare == sixty.held_out.obs["cell_type"].value_counts().index[-1]
    assert (small.types(sixty.spare) == sixty.rare).any()
    assert sixty.held_out.var_names.equals(sixty.train.var_names)


def test_nothing_is_measured_where_no_type_can_be_made_rare(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], simulated: AnnData
) -> None:
    monkeypatch.setattr(small, "data_sets", lambda names: [("simulated", simulated)])
    assert small.main(["--cells", "60", "--least", "90"]) == 0
    assert small.main(["--cells", "100"]) == 0
    printed = capsys.readouterr().out
    assert "simulated: not 100 cells to learn from and others, or no type to make rare. Skipped." in printed
    assert printed.count("Nothing was measured.") == 2


def test_fold_changes_are_those_of_the_slope(small: ModuleType, sixty: Any) -> None:
    x = log_normalised(small.counts_of(sixty.held_out))
    rare = small.types(sixty.held_out) == sixty.rare
    found = small.fold_changes(x, rare)
    rates = np.expm1(x.toarray().astype(np.float64))
    np.testing.assert_allclose(found, np.log2((rates[rare].mean(0) + 1) / (rates[~rare].mean(0) + 1)), rtol=1e-5)
    twice = np.log1p(np.where(rare[:, None], np.maximum(4 * (rates + 1) - 1, 0), rates))
    np.testing.assert_allclose(small.fold_changes(sparse.csr_matrix(twice), rare), found + 2, rtol=1e-4)


@pytest.mark.usefixtures("small_flows")
def test_small_tells_copies_and_lost_types_from_new_cells(small: ModuleType, sixty: Any) -> None:
    """Copies of training cells, and cells of a type drawn as another, are found; unseen real cells are perfect."""
    real = small.sources(sixty, 20)
    assert list(real) == [small.REAL, small.OURS, small.TRIVIAL, small.AGAIN]
    swapped = small.resampled(sixty.train, np.where(sixty.wanted == "type_1", "type_2", sixty.wanted), 0)
    swapped.obs["cell_type"] = pd.Categorical(sixty.wanted)
    sets = {small.REAL: real[small.REAL], small.AGAIN: real[small.AGAIN], small.OURS: small.Drawn.cut(swapped, sixty)}
    found = {(row, about, metric): value for row, about, metric, value in small.halvings(sixty, sets)}
    for row, drawn in sets.items():
        found |= {key[:3]: key[3] for key in (*small.repeats(sixty, row, drawn), *small.contrasts(sixty, row, drawn))}
    for about in (small.ALL, sixty.rare):
        assert found[small.REAL, about, "copying"] == pytest.approx(1, abs=0.15)
        assert found[small.AGAIN, about, "copying"] < 1e-2
        assert (found[small.REAL, about, "duplicates"], found[small.AGAIN, about, "duplicates"]) == (0, 1)
    assert found[small.OURS, "type_1", "called"] < 0.5 * found[small.REAL, "type_1", "called"]
    for metric, sign in (("energy", -1), ("correlation", 1), ("error", -1)):
        better, worse = (sign * found[row, sixty.rare, metric] for row in (small.REAL, small.AGAIN))
        assert better > worse


@pytest.mark.usefixtures("small_flows")
def test_small_goes_on_where_it_stopped(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = scflow.datasets.simulate(400, 50, 3, n_programmes=2, dropout=0.05, seed=1)
    monkeypatch.setattr(small, "data_sets", lambda names: [(name, cells) for name in names])
    monkeypatch.setattr(small, "HALVINGS", 2)
    monkeypatch.setattr("scflow.metrics.classifiers._TREES", 2)
    out = tmp_path / "s.csv"
    arguments = ["--data", "simulated", "--cells", "60", "--drawn", "40", "--steps", "20", "--out", str(out)]
    assert small.main([*arguments, "--seeds", "0"]) == 0
    first = pd.read_csv(out)
    assert small.main([*arguments, "--seeds", "0", "1"]) == 0
    table = pd.read_csv(out)
    pd.testing.assert_frame_equal(table[: len(first)], first)
    assert set(table["seed"]) == {0, 1}
    monkeypatch.setattr(small, "measured", lambda *_: pytest.fail("There is nothing left to measure."))
    capsys.readouterr()
    assert small.main([*arguments, "--seeds", "0", "1"]) == 0
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    rare = table.loc[table["seed"] == 0, "rare"].iloc[0]
    assert f"### simulated: 60 cells, 8 of {rare}; 20 steps; seeds 0" in text
    assert re.search(r"\| training cells again \| 0\.00[^|]* \| 1\.000[^|]* \|  \|  \|\n", text)
    assert "Error: nearer to real cells than the training cells in " in text
    asked = table[(table["metric"] == "asked") & (table["row"] == small.OURS) & (table["type"] == rare)]
    assert (asked["value"] == 40).all()
    assert table["value"].notna().all()


def test_training_from_disk_is_measured(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script puts a watch in place of two things of the package, which are put back here."""
    monkeypatch.setattr(stored, "PART", stored.PART)
    monkeypatch.setattr(loop, "_stepped", loop._stepped)
    disk, threads = script("disk"), str(torch.get_num_threads())
    small = ["--cells", "400", "--genes", "60", "--steps", "4", "--batch", "32", "--width", "16", "--part", "200"]
    options = disk.parse([*small, "--file", str(tmp_path / "c.h5ad"), "--sources", "disk", "--threads", threads])
    disk.simulate(options)
    adata = anndata.read_h5ad(tmp_path / "c.h5ad")
    assert (np.diff(adata.X.indptr) == 3).all()
    assert adata.obs["type"].astype(int).is_monotonic_increasing
    found = disk.train(options)
    assert list(found) == ["speed", "cpu", "first", "peak", "loss"]
    assert all(value > 0 for value in found.values())


def test_faults_runs(script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults, out = script("faults"), tmp_path / "faults.csv"
    asked = ["--libraries", "scflow", "--faults", "cut file", "repeated genes", "--rounds", "1", "--out", str(out)]
    assert faults.main(asked) == 0
    table = pd.read_csv(out)
    assert dict(zip(table.fault, table.clear)) == {"cut file": 50, "repeated genes": 1}
    assert table[["unclear", "lost"]].to_numpy().sum() == 0
    assert "| a saved model ends early | 50 | 50 | 0 | 0 |" in capsys.readouterr().out
    assert faults.main(asked) == 0
    assert len(pd.read_csv(out)) == 2  # what is known is not tried again


def test_a_fault_that_ends_the_process_is_counted_as_lost(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = script("faults")
    monkeypatch.setattr(faults.sys, "executable", "false")
    end = faults.ended("scflow", "cut file", 0)
    assert (end["clear"], end["unclear"], end["lost"]) == (0, 0, 1)
    assert "status 1" in end["said"]


def test_silence_is_loss_and_an_error_from_deep_inside_is_unclear(script: Callable[[str], ModuleType]) -> None:
    made, library = script("faults_made"), script("faults_scflow").Adapter()

    def deep() -> None:
        raise KeyError("x")

    assert made.refused(library, lambda: None) == ("lost", "taken without a word")
    assert made.refused(library, deep)[0] == "unclear"
    assert made.refused(library, lambda: scflow.tl.train(None))[0] == "clear"
    assert made.refused(library, lambda: 3, lambda found: found == 3)[0] == "clear"
