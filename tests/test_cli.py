"""`python -m scflow`: the same results as the functions, options that mirror them, and errors that fit on a line."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scflow
from scflow.__main__ import main
from scflow._cli.parser import build_parser, for_verb
from scflow._cli.tables import table_of, tables_of

FILES = {
    "train": ["x.h5ad"],
    "reflow": ["flow.safetensors"],
    "distill": ["flow.safetensors"],
    "generate": ["flow.safetensors"],
    "transport": ["x.h5ad"],
    "augment": ["x.h5ad"],
    "score": ["a.h5ad", "b.h5ad"],
}
# What a command line cannot hold, the positional data, and an output that a command line always has.
NOT_OPTIONS = {
    "train": {"adata", "callbacks", "optimisation"},
    "reflow": {"flow_or_adata"},
    "distill": {"flow_or_adata"},
    "generate": {"flow_or_adata", "out"},
    "transport": {"adata", "copy"},
    "augment": {"adata"},
    "score": {"real", "generated"},
}
STEPS = ["--steps", "20", "--no-progress"]


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return scflow.datasets.simulate(240, 30, 2, library_size=200, seed=3)


@pytest.fixture(scope="module", autouse=True)
def _short_calibration() -> Iterator[None]:
    """Fewer cells to calibrate on: these tests are not about quality."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scflow.flow._learning._DRAWN", 200)
        yield


@pytest.fixture(scope="module")
def folder(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells as files, and a flow that `scflow train` left."""
    made = tmp_path_factory.mktemp("cli")
    train, held_out = scflow.pp.split(cells, stratify="cell_type", seed=0)
    train.write_h5ad(made / "train.h5ad")
    held_out.write_h5ad(made / "held_out.h5ad")
    out = made / "flow.safetensors"
    assert main(["train", str(made / "train.h5ad"), "--condition", "cell_type", "--out", str(out), *STEPS]) == 0
    assert main(["generate", str(out), "--n-obs", "60", "--out", str(made / "new.h5ad"), "--no-progress"]) == 0
    return made


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that has to fail with status 1, and give its one line on standard error."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 1
        err = capsys.readouterr().err
        assert err.startswith("scflow: error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts to work fails the test."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("work was begun before the paths were checked")

    for verb in FILES:
        monkeypatch.setattr(scflow.tl, verb, fail)
    monkeypatch.setattr(anndata, "read_h5ad", fail)


def same_cells(a: AnnData, b: AnnData) -> bool:
    return bool((a.layers["counts"] != b.layers["counts"]).nnz == 0) and a.obs.astype(str).equals(b.obs.astype(str))


# ---- options


@pytest.mark.parametrize("verb", list(FILES))
def test_options_are_the_parameters_with_their_defaults(verb: str) -> None:
    options = vars(build_parser().parse_args([verb, *FILES[verb]]))
    parameters = inspect.signature(getattr(scflow.tl, verb)).parameters
    for name, parameter in parameters.items():
        if name in NOT_OPTIONS[verb]:
            continue
        assert name in options, f"scflow {verb} lacks --{name.replace('_', '-')}"
        expected = None if parameter.default is inspect.Parameter.empty else parameter.default
        assert options[name] == expected, f"--{name.replace('_', '-')}"
    assert set(for_verb(build_parser().parse_args([verb, *FILES[verb]]))) <= set(parameters)


@pytest.mark.parametrize("verb", list(FILES))
def test_help_lists_every_parameter(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  --(\S+)", text, re.M)
    for name in set(inspect.signature(getattr(scflow.tl, verb)).parameters) - NOT_OPTIONS[verb]:
        assert name.replace("_", "-") in [option.rstrip(",") for option in listed]
    assert text.count("(default:") == len(listed)


@pytest.mark.parametrize(
    "argv",
    [[], ["tain"], ["train"], ["score", "real.h5ad"], ["train", "x.h5ad", "--step-size", "3"]],
    ids=lambda argv: " ".join(argv) or "nothing",
)
def test_a_wrong_command_line_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: scflow")


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--steps", "many", "argument --steps: 'many' is no whole number"),
        ("--batch-size", "1.5", "argument --batch-size: '1.5' is no whole number"),
        ("--lr", "fast", "argument --lr: 'fast' is no number"),
    ],
)
def test_a_wrong_value_is_status_2(option: str, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "x.h5ad", option, text])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_option_with_several_values_may_be_given_again() -> None:
    parse = build_parser().parse_args
    assert parse(["train", "x.h5ad", "--condition", "a", "b", "--condition", "c"]).condition == ["a", "b", "c"]
    assert parse(["score", "a.h5ad", "b.h5ad", "--metrics", "mmd"]).metrics == ["mmd"]


# ---- the verbs


def test_train_says_what_it_saved_and_saves_what_the_function_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[scflow.Flow, dict[str, Any]]] = []
    verb = scflow.tl.train

    def recorded(adata: AnnData, **given: Any) -> scflow.Flow:
        made.append((verb(adata, **given), given))
        return made[-1][0]

    monkeypatch.setattr(scflow.tl, "train", recorded)
    out = folder / "again.safetensors"
    argv = ["train", str(folder / "train.h5ad"), "--condition", "cell_type", "--seed", "5", "--lr", "3e-4"]
    assert main([*argv, "--out", str(out), *STEPS]) == 0
    ((flow, given),) = made
    expected = {"condition": ["cell_type"], "seed": 5, "lr": 3e-4, "steps": 20, "progress": False}
    assert {name: given[name] for name in expected} == expected
    assert capsys.readouterr().out.startswith(f"saved {out}: {flow!r}")
    drawn = [scflow.tl.generate(one, 20, progress=False) for one in (flow, scflow.Flow.load(out))]
    assert same_cells(*drawn)


def test_train_leaves_the_flow_in_an_h5ad_that_generate_reads(folder: Path) -> None:
    out, new = folder / "with_flow.h5ad", folder / "from_h5ad.h5ad"
    argv = ["train", str(folder / "train.h5ad"), "--condition", "cell_type", "--out", str(out), *STEPS]
    assert main(argv) == 0
    assert main(["generate", str(out), "--n-obs", "20", "--out", str(new), "--no-progress"]) == 0
    carrier = anndata.read_h5ad(out)
    assert carrier.n_obs == 120
    assert same_cells(anndata.read_h5ad(new), scflow.tl.generate(carrier, 20, progress=False))


def test_generate_writes_what_the_function_returns(folder: Path) -> None:
    flow = scflow.Flow.load(folder / "flow.safetensors")
    assert same_cells(anndata.read_h5ad(folder / "new.h5ad"), scflow.tl.generate(flow, 60, progress=False))


def test_generate_writes_zarr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", str(folder / "flow.safetensors"), "--n-obs", "60", "--no-progress", "--out"]
    out = folder / "new.zarr"
    assert main([*argv, str(out)]) == 0
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    assert f"saved {out}: 60 cells of 30 genes (" in capsys.readouterr().out
    assert 0 < size < 1
    assert same_cells(anndata.read_zarr(out), anndata.read_h5ad(folder / "new.h5ad"))
    assert main([*argv, str(out)]) == 1
    assert main([*argv, str(out), "--overwrite"]) == 0


def test_generate_takes_pairs(folder: Path) -> None:
    out = folder / "pairs.h5ad"
    argv = ["generate", folder / "flow.safetensors", "--n-obs", 7, "--condition", "cell_type=type_1", "--out", out]
    assert main([str(word) for word in argv]) == 0
    assert anndata.read_h5ad(out).obs["cell_type"].tolist() == ["type_1"] * 7


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--target", "balance"], {"target": "balance"}),
        (["--target", "0.9"], {"target": 0.9}),
        (["--n-obs", "5"], {"n_obs": 5}),
        (["--n-obs", "type_1=5", "type_0=2"], {"n_obs": {"type_1": 5, "type_0": 2}}),
    ],
)
def test_augment_writes_what_the_function_returns(folder: Path, options: list[str], asked: dict[str, Any]) -> None:
    out = folder / "augmented.h5ad"
    argv = ["augment", folder / "train.h5ad", "--flow", folder / "flow.safetensors", "--out", out, "--overwrite"]
    assert main([str(word) for word in [*argv, *options, "--no-progress"]]) == 0
    made, cells = anndata.read_h5ad(out), anndata.read_h5ad(folder / "train.h5ad")
    flow = scflow.Flow.load(folder / "flow.safetensors")
    theirs = scflow.tl.augment(cells, flow=flow, progress=False, **asked)
    assert (made.X != theirs.X).nnz == 0
    assert made.obs["scflow_synthetic"].tolist() == theirs.obs["scflow_synthetic"].tolist()


@pytest.mark.parametrize("amounts", [["5", "6"], ["five"], ["a=1", "a=2"], ["a="]])
def test_amounts_that_are_none_are_refused(refused: Any, folder: Path, amounts: list[str]) -> None:
    message = refused("augment", folder / "train.h5ad", "--n-obs", *amounts, "--out", folder / "never.h5ad")
    assert "expected one whole number, or one CATEGORY=N" in message


def test_generate_takes_a_table_with_one_row_a_cell(folder: Path) -> None:
    out, table = folder / "table.h5ad", folder / "conditions.csv"
    obs = pd.DataFrame({"cell_type": ["type_1", "type_0", "type_1"]}, index=["a", "b", "c"])
    obs.to_csv(table)
    argv = ["generate", folder / "flow.safetensors", "--condition", table, "--out", out, "--no-progress"]
    assert main([str(word) for word in argv]) == 0
    assert anndata.read_h5ad(out).obs["cell_type"].tolist() == ["type_1", "type_0", "type_1"]


def test_score_writes_and_prints_what_the_function_returns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "scores.csv"
    files = {"real": "held_out", "generated": "new", "reference": "train"}
    argv = ["score", folder / "held_out.h5ad", folder / "new.h5ad", "--reference", folder / "train.h5ad"]
    argv += ["--metrics", "mmd", "zero_fractions", "--condition", "none", "--seed", 2, "--out", out]
    assert main([str(word) for word in argv]) == 0
    read = {name: anndata.read_h5ad(folder / f"{file}.h5ad") for name, file in files.items()}
    direct = scflow.tl.score(**read, metrics=["mmd", "zero_fractions"], condition=None, seed=2)
    pd.testing.assert_frame_equal(pd.read_csv(out), direct)
    printed = capsys.readouterr().out
    assert table_of(direct) in printed
    assert f"saved {out}: 2 rows" in printed


def test_a_warning_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["score", folder / "held_out.h5ad", folder / "new.h5ad", "--metrics", "mmd", "--condition", "none"]
    assert main([str(word) for word in [*argv, "--out", folder / "half.csv"]]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("scflow: warning: No reference was given") for line in lines) == 1


def test_demo_tells_the_story_and_writes_everything_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import scflow.pl

    score = scflow.tl.score
    # Quick figures, and no UMAP, which takes long to compile; by its full name, `scflow.pl.umap` is the function.
    monkeypatch.setattr(scflow.tl, "score", lambda *cells, **given: score(*cells, **given, metrics=["mmd"]))
    flat = lambda real, generated, seed: (real[:, :2].toarray(), generated[:, :2].toarray())  # noqa: E731
    monkeypatch.setattr(sys.modules["scflow.pl.umap"], "_embedded", flat)
    out = tmp_path / "new" / "demo"
    counts = []
    for _ in range(2):
        assert main(["demo", "--out", str(out), "--steps", "5", "--seed", "1"]) == 0
        counts.append(anndata.read_h5ad(out / "generated.h5ad"))
    assert same_cells(*counts)
    assert counts[0].shape == (350, 765)
    tables = {"scores.csv", "scores.md"}
    pictures = {"umap.png", "genes.png", "score.png", "history.png"}
    assert {path.name for path in out.iterdir()} == {"generated.h5ad", "flow.safetensors"} | tables | pictures
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    table = pd.read_csv(out / "scores.csv")
    printed = capsys.readouterr().out
    assert table_of(table) in printed
    assert all(f"  {path.name} " in printed for path in out.iterdir())


# ---- what goes wrong


@pytest.mark.usefixtures("no_work")
def test_a_file_that_is_not_there(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "here.h5ad").touch()
    missing, here = tmp_path / "no.h5ad", tmp_path / "here.h5ad"
    for argv in (["train", missing], ["generate", missing], ["score", missing, here], ["score", here, missing]):
        assert f"there is no file '{missing}'" in refused(*argv)
    assert "there is no file" in refused("score", here, here, "--reference", missing)
    assert "there is no file 'no.csv'" in refused(
        "generate", here, "--condition", "no.csv", "--out", tmp_path / "n.h5ad"
    )


@pytest.mark.usefixtures("no_work")
def test_a_file_of_another_kind(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "counts.txt").touch()
    assert "ends in '.txt'; expected a file that ends in '.h5ad'" in refused("train", tmp_path / "counts.txt")
    assert "ends in '.txt'; expected a file that ends in '.safetensors', '.h5ad'" in refused(
        "generate", tmp_path / "counts.txt"
    )
    assert "is a folder; expected a file that ends in '.h5ad'" in refused("train", tmp_path)


def test_a_damaged_file(refused: Callable[..., str], tmp_path: Path) -> None:
    for name, argv in (("bad.h5ad", "train"), ("bad.h5ad", "generate"), ("bad.safetensors", "generate")):
        bad = tmp_path / name
        bad.write_bytes(b"no cells here" * 9)
        outs = {"train": "out.safetensors", "generate": "out.h5ad"}
        assert str(bad) in refused(argv, bad, "--out", tmp_path / outs[argv], *(["--n-obs", 3] * (argv == "generate")))


@pytest.mark.usefixtures("no_work")
def test_an_output_that_exists_is_refused_before_any_work(refused: Callable[..., str], folder: Path) -> None:
    (folder / "old.csv").write_text("old")
    train, flow, new = folder / "train.h5ad", folder / "flow.safetensors", folder / "new.h5ad"
    for argv in (
        ["train", train, "--out", flow],
        ["generate", flow, "--n-obs", 3, "--out", new],
        ["score", train, new, "--out", folder / "old.csv"],
    ):
        assert "exists already. Give another path with --out, or --overwrite to replace it." in refused(*argv)
    assert (folder / "old.csv").read_text() == "old"


@pytest.mark.usefixtures("no_work")
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    refused: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = folder / "train.h5ad"
    assert "Make it: mkdir -p" in refused("train", train, "--out", folder / "nowhere" / "flow.safetensors")
    assert "expected a file that ends in '.safetensors', '.h5ad'" in refused(
        "train", train, "--out", folder / "flow.pt"
    )
    assert "there is no folder" in refused("train", train, "--out", train / "flow.safetensors")

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    message = refused("train", train, "--out", folder / "fresh.safetensors")
    assert "cannot be written to: Permission denied. Give another with --out." in message
    assert "Permission denied" in refused("demo", "--out", folder)
    assert "cannot be made" in refused("demo", "--out", train / "demo")


def test_overwrite_replaces(folder: Path) -> None:
    out = folder / "twice.h5ad"
    for seed in ("0", "1"):
        argv = ["generate", str(folder / "flow.safetensors"), "--n-obs", "60", "--seed", seed, "--out", str(out)]
        assert main([*argv, "--overwrite", "--no-progress"]) == 0
    assert not same_cells(anndata.read_h5ad(out), anndata.read_h5ad(folder / "new.h5ad"))
    assert sorted(path.name for path in folder.glob(".*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--condition", "cell_type=type_9"], "Did you mean 'type_"),
        (["--condition", "cel_type=type_0"], "Did you mean 'cell_type'?"),
        (["--condition", "type_0"], "expected COLUMN=VALUE, such as 'cell_type=B'"),
        (["--condition", "cell_type=type_0", "cell_type=type_1"], "names 'cell_type' twice"),
        (["--solver", "huen"], "Did you mean 'heun'?"),
    ],
    ids=["category", "column", "no pair", "twice", "solver"],
)
def test_what_the_function_refuses(options: list[str], message: str, refused: Callable[..., str], folder: Path) -> None:
    out = folder / "never.h5ad"
    assert message in refused("generate", folder / "flow.safetensors", "--n-obs", 3, "--out", out, *options)
    assert not out.exists()


def test_cells_are_carried_to_one_value(refused: Callable[..., str], folder: Path) -> None:
    out, asked = folder / "never.h5ad", ["--target", "drug=A", "drug=B"]
    said = refused("transport", folder / "train.h5ad", "--out", out, *asked)
    assert "--target has 2 values of 'drug' ('A', 'B'), and cells are carried to one" in said
    assert not out.exists()


def test_a_number_of_cells_is_needed(refused: Callable[..., str], folder: Path) -> None:
    out, flow = folder / "never.h5ad", folder / "flow.safetensors"
    assert "Give it, such as --n-obs 1000" in refused("generate", flow, "--out", out)
    (folder / "empty.csv").write_text("cell_type\n")
    assert "has 0 rows" in refused("generate", flow, "--condition", folder / "empty.csv", "--out", out)


def test_training_refuses_what_is_no_count(refused: Callable[..., str], folder: Path, cells: AnnData) -> None:
    wrong = cells.copy()
    wrong.X = wrong.X * np.float32(0.5)
    wrong.write_h5ad(folder / "wrong.h5ad")
    message = refused("train", folder / "wrong.h5ad", "--out", folder / "never.safetensors")
    assert "values that are not counts" in message


def test_ctrl_c_is_status_130(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scflow.tl, "score", stop)
    argv = ["score", folder / "held_out.h5ad", folder / "new.h5ad", "--out", folder / "never.csv"]
    assert main([str(word) for word in argv]) == 130
    assert capsys.readouterr().err == "scflow: stopped\n"


# ---- as a process


def test_help_of_the_process_comes_without_heavy_imports() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from scflow.__main__ import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['train', '--help'])\n"
        "assert not {'torch', 'numpy', 'anndata'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_process_returns_the_status() -> None:
    argv = [sys.executable, "-m", "scflow", "train", "nowhere.h5ad"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("scflow: error: there is no file 'nowhere.h5ad'")


# ---- tables


def test_tables_are_aligned_markdown_with_one_part_a_condition() -> None:
    rows = [["all", "mmd", 0.012345, 0.0, 0.5, 0.012345, np.nan, 0.005, 0.02]]
    rows += [["B", "wasserstein", 11.256, 10.0, 9.0, 1.256, 1.1256, 11.0, 12.0]]
    columns = ["condition", "metric", "value", "floor", "trivial", "distance", "ratio", "low", "high"]
    text = tables_of(pd.DataFrame(rows, columns=columns))
    assert text.splitlines() == [
        "All cells",
        "",
        "| metric | value |   95 % interval | floor | trivial | ratio |",
        "| ------ | ----: | --------------: | ----: | ------: | ----: |",
        "| mmd    | 0.012 | 0.0050 to 0.020 | 0.000 |   0.500 |       |",
        "",
        "B",
        "",
        "| metric      | value |  95 % interval | floor | trivial | ratio |",
        "| ----------- | ----: | -------------: | ----: | ------: | ----: |",
        "| wasserstein | 11.26 | 11.00 to 12.00 | 10.00 |    9.00 |  1.13 |",
    ]


# ---- one flow of another


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("reflow", ["--n-pairs", "100", "--guidance", "cell_type=2"]),
        ("reflow", ["--n-pairs", "100", "--adata", "train.h5ad", "--share", "0.5"]),
        ("distill", ["--n-trajectories", "100", "--draw-steps", "2"]),
    ],
    ids=["reflow", "reflow with real cells", "distill"],
)
def test_a_flow_is_made_of_another(
    verb: str, options: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.safetensors"
    words = [str(folder / word) if word.endswith(".h5ad") else word for word in options]
    argv = [verb, str(folder / "flow.safetensors"), *words, "--out", str(out), "--steps", "3", "--no-progress"]
    assert main(argv) == 0
    flow = scflow.Flow.load(out)
    assert flow.provenance["made_by"] == verb
    assert flow.provenance.get("real_pairs", 0) == (50 if "--adata" in options else 0)
    assert repr(flow) in capsys.readouterr().out
    assert main(argv) == 1, "it is not written over"
