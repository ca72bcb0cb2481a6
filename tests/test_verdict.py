"""The verdict says what the figures say: no more, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scflow
from scflow.errors import InputError
from scflow.metrics import METRICS, Row, poisson_cells
from scflow.metrics.symptoms import READINGS, SYMPTOMS, UNSPOKEN
from scflow.metrics.verdict import findings, verdict

NAN = float("nan")


def row(
    metric: str, value: float, floor: float, trivial: float = NAN, half: float = NAN, condition: str = "all"
) -> Row:
    """A row with an interval of `half` to either side."""
    return Row(condition, metric, value, floor, trivial, value - floor, NAN, value - half, value + half)


GOOD = [row("wasserstein", 11.9, 11.8, 14.0, 0.3), row("forest_auc_genes", 0.48, 0.5, 0.9, 0.01)]


def test_every_metric_has_a_reading_and_every_reading_a_meaning() -> None:
    assert set(METRICS) <= set(READINGS) | UNSPOKEN
    told = {name for reading in READINGS.values() for name in (reading.above, reading.below)} - {None}
    assert told | {"other"} == set(SYMPTOMS)


def test_at_the_floor_is_in_the_interval_or_on_the_side_that_is_no_fault() -> None:
    first, second = verdict(GOOD).splitlines()
    assert first == "All 2 figures are at the floor: none of them tells these cells from real ones."
    assert second.startswith("It beats the trivial generator (independent")
    assert second.endswith("in all 2 figures that this one fails.")


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (row("wasserstein", 11.0, 11.8, 11.4, 0.2), "Cells are too smooth: they crowd where real ones spread: wass"),
        (row("wasserstein", 14.0, 11.8, 11.4, 0.2), "As a whole the cells lie apart from the real ones: wasserst"),
        (row("forest_auc_genes", 0.8, 0.5, 0.9, 0.05), "A classifier tells them from real cells: forest AUC genes"),
        (row("zero_fractions", 0.06, 0.03, 0.04, 0.005), "Genes have too many zeros, or too few: zero fractions 0.0"),
        (row("recall", 0.4, 0.8, 0.6, 0.05), "Kinds or states of real cells are missing: recall 0.400 (floor 0.80"),
        (row("coverage", 0.4, 0.8, 0.6, 0.05), "Kinds or states of real cells are missing: coverage"),
        (row("precision", 0.95, 0.8, 0.6, 0.05), "Cells are too smooth"),
        (row("precision", 0.5, 0.8, 0.6, 0.05), "Cells lie where no real ones do"),
        (row("copying", 0.4, 1.0, 1.02), "Training cells are repeated, rather than new ones drawn: copying 0.400"),
        (row("duplicates", 0.02, 0.0, 0.0, 0.01), "Training cells are repeated"),
        (row("library_size_ks", 0.4, 0.05, 0.06, 0.05), "Depth is wrong: too many or too few counts or genes a cell"),
        (row("label_accuracy", 0.5, 0.9, 0.88, 0.05), "Labels are not followed"),
        (row("label_accuracy", 1.0, 0.9, 0.88, 0.01), "Kinds are exaggerated"),
        (row("gene_correlation", 0.09, 0.05, 0.08, 0.01), "Genes do not go together as they do in real cells: gene"),
        (row("train_on_synthetic", 0.4, 0.8, 0.7, 0.05), "What is learnt from them holds less well for real cells"),
        (row("something_new", 2.0, 1.0, 1.5, 0.1), "Figures that are in no table of meanings: something new 2.0"),
    ],
)
def test_a_deviation_is_told_by_its_direction(one: Row, words: str) -> None:
    lines = verdict([*GOOD, one]).splitlines()
    assert lines[0].startswith("2 of 3 figures are at the floor, where other real cells are: wasserstein, forest AUC")
    assert any(line.startswith(words) for line in lines), lines


@pytest.mark.parametrize(
    "one",
    [
        row("mmd", -0.01, 0.0, 0.1, 0.001),
        row("recall", 0.9, 0.8, 0.6, 0.05),
        row("copying", 1.3, 1.0, 1.3, 0.01),
        row("gene_means_r", 1.0, 0.99, 0.9, 0.001),
        row("copying", 0.99, 1.0, 1.02),
    ],
)
def test_better_than_the_floor_is_no_fault(one: Row) -> None:
    assert findings([one])[0].symptom is None


def test_what_is_hardly_off_is_called_close_and_no_more_is_made_of_it() -> None:
    lines = verdict([*GOOD, row("gene_means", 0.101, 0.1, 0.15, 0.0005), row("copying", 0.95, 1.0, 1.0, 0.01)])
    assert lines.splitlines()[-1] == "Close to the floor, but not at it: gene means, copying."


def test_a_p_value_and_a_missing_figure_are_not_read() -> None:
    assert verdict([*GOOD, row("mmd_p", 0.001, 0.6, 0.001), row("energy", NAN, 0.0)]) == verdict(GOOD)
    assert verdict([]) == ""


def test_the_gravest_comes_first_and_the_list_ends() -> None:
    names = ("mmd", "gene_means", "gene_variances", "zero_fractions", "gene_correlation", "library_size_ks")
    rows = [row(name, 1.0 + i, 0.0, 1.0, 0.1) for i, name in enumerate(names)]
    lines = verdict(rows).splitlines()
    assert lines[0] == "None of 6 figures is at the floor, where other real cells are."
    assert lines[2].startswith("Depth is wrong")
    assert lines[-1] == "Also: as a whole the cells lie apart from the real ones."
    assert len(lines) == 8


def test_the_trivial_generator_is_beaten_in_what_it_fails_only() -> None:
    names = ("mmd", "energy", "gene_means", "gene_variances")
    won = [row(name, 0.5, 0.0, 1.0, 0.1) for name in names]
    even = row("library_size_ks", 0.3, 0.1, 0.1, 0.05)
    assert "in all 4 figures that this one fails" in verdict([*won, even])
    lost = won[0]._replace(value=2.0, low=1.9, high=2.1)
    assert "in 3 of 4 figures that this one fails; not in MMD." in verdict([lost, *won[1:]])
    worse = [one._replace(value=2.0, low=1.9, high=2.1) for one in won[:2]]
    text = verdict([*worse, *won[2:]])
    assert "It does not beat the trivial generator" in text
    assert "nearer to the floor in 2 of 4 figures that this one fails; not in MMD, energy." in text


def test_the_worst_conditions_are_named() -> None:
    rows = list(GOOD)
    for name, value in (("a", 0.5), ("b", 0.95), ("c", 0.7), ("d", 0.8), ("e", 0.9)):
        rows += [one._replace(condition=name) for one in GOOD[:1]]
        rows += [row("forest_auc_genes", value, 0.5, 0.9, 0.05, condition=name)]
    last = verdict(rows).splitlines()[-1]
    assert last.startswith("4 of 5 conditions are off the floor; the worst: b (1 of 2 figures, most of all forest AUC")
    assert [last.index(f"{name} (1 of 2") for name in "bed"] == sorted(last.index(f"{name} (1 of 2") for name in "bed")
    assert "; c (" not in last
    fine = [*GOOD, *(one._replace(condition="a") for one in GOOD)]
    assert verdict(fine).splitlines()[-1] == "The one condition is at the floor, or close to it."


def test_real_cells_pass_and_the_trivial_generator_does_not() -> None:
    adata = scflow.datasets.simulate(1600, 50, 3, programme_effect=0.7, dispersion=0.4, seed=3)
    train, rest = scflow.pp.split(adata, stratify="cell_type")
    held_out, new = scflow.pp.split(rest, stratify="cell_type")
    types = [a.obs["cell_type"].astype(str).to_numpy() for a in (train, new)]
    counts = poisson_cells(sparse.csr_matrix(train.X), *types, seed=1).astype(np.float32)
    trivial = AnnData(counts, obs=new.obs[["cell_type"]].copy(), var=new.var[[]].copy())
    metrics = ["wasserstein", "mmd", "gene_variances", "zero_fractions", "logistic_auc_genes"]
    options = {"reference": train, "condition": "cell_type", "metrics": metrics}
    scores = scflow.tl.score(held_out, new, **options)
    text = scflow.tl.verdict(scores)
    assert text.startswith("All 5 figures are at the floor")
    assert scflow.tl.verdict(new) == text
    scflow.tl.score(held_out, trivial, **options)
    bad = scflow.tl.verdict(trivial)
    assert "Genes have too many zeros, or too few" in bad
    assert "A classifier tells them from real cells" in bad
    assert "3 of 3 conditions are off the floor" in bad


def test_a_table_that_went_through_a_file_is_read_alike(tmp_path: Path) -> None:
    table = pd.DataFrame([*GOOD, row("recall", 0.4, 0.8, 0.6, 0.05, condition="a, b")])
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False)
    assert scflow.tl.verdict(pd.read_csv(path)) == scflow.tl.verdict(table)


def test_errors_say_what_mends_it(simulated: AnnData) -> None:
    with pytest.raises(InputError, match=r"no 'scflow_score': these cells were not scored.*scflow.tl.score\("):
        scflow.tl.verdict(simulated)
    with pytest.raises(InputError, match=r"2 rows and lacks 1 of 7 columns \('floor'\)"):
        scflow.tl.verdict(pd.DataFrame(GOOD).drop(columns="floor"))
