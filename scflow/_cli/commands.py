"""What each command does: files in, one verb, files out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scflow._cli.files import check_input, check_output, read_cells, write_cells, write_whole
from scflow._cli.parser import for_verb
from scflow._cli.tables import tables_of
from scflow.errors import InputError, listed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scflow.flow import Flow

__all__ = ["SHARED", "augment", "check_alone", "distill", "generate", "reflow", "score", "train", "transport"]

SHARED = ("train", "generate", "score")
"""Commands that several processes do together."""

_CELLS = ".h5ad"
_FLOW = ".safetensors"
_STORE = ".zarr"


def train(options: argparse.Namespace) -> None:
    """Train, and save the flow or the cells that carry it; for the flow alone, cells are read as they are needed."""
    source = check_input(options.adata, _CELLS, _STORE)
    target = _target(options.out, _FLOW, _CELLS, overwrite=options.overwrite)
    if source.suffix == _STORE and target.suffix == _CELLS:
        raise InputError(f"cells of {options.adata!r} stay where they are: give a file for the flow, --out flow{_FLOW}")
    adata = read_cells(source) if target.suffix == _CELLS else None
    from scflow.tl import train as verb

    populations = {name: _values(getattr(options, name), f"--{name}") for name in ("source", "target")}
    flow = verb(source if adata is None else adata, **(for_verb(options) | populations))
    if not _is_first():
        return
    if adata is not None:
        write_cells(adata, target)
        _say_saved(target, f"{adata.n_obs:,} cells with the flow in .uns[{options.key_added!r}]")
        _stop_where_interrupted(flow)
    else:
        _save(flow, target, options)


def reflow(options: argparse.Namespace) -> None:
    """Read a flow, straighten it, and save the new one."""
    source, target = check_input(options.flow, _FLOW, _CELLS), _flow_target(options)
    cells = None if options.adata is None else check_input(options.adata, _CELLS)
    given = for_verb(options) | {"guidance": _guidance(options.guidance)}
    from scflow.tl import reflow as verb

    _save(verb(_flow(source), adata=None if cells is None else read_cells(cells), **given), target, options)


def distill(options: argparse.Namespace) -> None:
    """Read a flow, distil it, and save the flow map."""
    source, target = check_input(options.flow, _FLOW, _CELLS), _flow_target(options)
    given = for_verb(options) | {"guidance": _guidance(options.guidance)}
    from scflow.tl import distill as verb

    _save(verb(_flow(source), **given), target, options)


def generate(options: argparse.Namespace) -> None:
    """Read a flow, draw cells, and write them as they come."""
    source = check_input(options.flow, _FLOW, _CELLS)
    target = _target(options.out, _CELLS, _STORE, overwrite=options.overwrite)
    cells = None if options.adata is None else check_input(options.adata, _CELLS)
    given = for_verb(options) | {"condition": _request(options.condition), "guidance": _guidance(options.guidance)}
    n_obs = _n_obs(options.n_obs, given["condition"])
    from scflow.tl import generate as verb
    from scflow.tl._following import flow_of

    carrier = _flow(source)
    adata = None if cells is None else read_cells(cells)
    verb(carrier, n_obs, adata=adata, out=target, overwrite=options.overwrite, **given)
    if not _is_first():
        return
    flow = flow_of(carrier, carrier, options.key_added)
    what = f"{len(flow.genes):,} genes" if flow.genes else f"{flow.codec.dim:,} coordinates, without counts"
    _say_saved(target, f"{n_obs:,} cells of {what}")


def transport(options: argparse.Namespace) -> None:
    """Read cells and a flow, carry them, and write them."""
    source = check_input(options.adata, _CELLS)
    target = check_output(options.out, _CELLS, overwrite=options.overwrite)
    path = None if options.flow is None else check_input(options.flow, _FLOW, _CELLS)
    asked = _values(options.target, "--target")
    for column, values in (asked or {}).items():
        if len(values) > 1:
            raise InputError(
                f"--target has {len(values)} values of {column!r} ({listed(values)}), and cells are carried to one. "
                "Give one, and call again for another."
            )
    alone = None if asked is None else {column: values[0] for column, values in asked.items()}
    given = for_verb(options) | {"target": alone, "guidance": _guidance(options.guidance)}
    from scflow.tl import transport as verb

    cells = read_cells(source)
    verb(cells, **(given | {"flow": None if path is None else _flow(path)}))
    write_cells(cells, target)
    _say_saved(target, f"{cells.n_obs:,} cells and where they were carried")


def augment(options: argparse.Namespace) -> None:
    """Read cells, add synthetic ones, and write them all."""
    source = check_input(options.adata, _CELLS)
    target = check_output(options.out, _CELLS, overwrite=options.overwrite)
    flow = None if options.flow is None else check_input(options.flow, _FLOW, _CELLS)
    given = for_verb(options) | {"n_obs": _amounts(options.n_obs)}
    from scflow.tl import augment as verb

    made = verb(read_cells(source), flow=None if flow is None else _flow(flow), **given)
    write_cells(made, target)
    n = int(made.obs[f"{options.key_added}_synthetic"].sum())
    _say_saved(target, f"{made.n_obs - n:,} real and {n:,} synthetic cells")


def score(options: argparse.Namespace) -> None:
    """Read cells, score them, write the table and print it with its verdict; a page too, where one is asked for."""
    names = ["real", "generated"] + ([] if options.reference is None else ["reference"])
    sources = {name: check_input(getattr(options, name), _CELLS) for name in names}
    target = _target(options.out, ".csv", overwrite=options.overwrite)
    page = None if options.report is None else _target(options.report, ".html", overwrite=options.overwrite)
    given = for_verb(options) | {
        "condition": None if options.condition == ["none"] else _alone(options.condition),
        "metrics": _alone(options.metrics),
    }
    cells = {name: read_cells(path) for name, path in sources.items()}
    from scflow import tl

    table = tl.score(**cells, **given)
    if not _is_first():
        return
    write_whole(target, lambda path: table.to_csv(path, index=False))
    print(f"{tables_of(table)}\n\n{tl.verdict(table)}\n")
    _say_saved(target, f"{len(table)} rows")
    if page is not None:
        same = {name: given[name] for name in ("condition", "layer", "seed")}
        tl.report(**cells, **same, scores=table, path=page, overwrite=options.overwrite)
        _say_saved(page, "the verdict, scores and pictures")


def check_alone(command: str) -> None:
    """Raise where several processes were started for what one does."""
    from scflow.training.workers import Workers

    size = Workers.launched().size
    if size > 1:
        raise InputError(
            f"{command} is work for one process, and torchrun has started {size}. Start it without: scflow {command}. "
            f"{listed(SHARED)} are shared."
        )


def _is_first() -> bool:
    """Whether this process writes and speaks, of those that were started."""
    from scflow.training.workers import Workers

    return Workers.launched().first


def _target(path: str, *suffixes: str, overwrite: bool) -> Path:
    """Where a result goes; of several processes the one that writes looks whether it can."""
    return check_output(path, *suffixes, overwrite=overwrite) if _is_first() else Path(path)


def _flow_target(options: argparse.Namespace) -> Path:
    """Where a flow goes."""
    return check_output(options.out, _FLOW, overwrite=options.overwrite)


def _save(flow: Flow, target: Path, options: argparse.Namespace) -> None:
    """Save a flow, and say so."""
    flow.save(target, overwrite=options.overwrite)
    _say_saved(target, repr(flow))
    _stop_where_interrupted(flow)


def _stop_where_interrupted(flow: Flow) -> None:
    """What is saved is the best until Ctrl-C, and not what was asked for: whoever called is to know."""
    if flow.provenance.get("interrupted"):
        raise KeyboardInterrupt


def _flow(path: Path) -> Flow | AnnData:
    """The flow of a file, or the cells that carry one."""
    if path.suffix == _CELLS:
        return read_cells(path)
    from scflow.flow import Flow

    return Flow.load(path)


def _request(asked: list[str] | None) -> dict[str, str] | pd.DataFrame | None:
    """The conditions asked for: `COLUMN=VALUE` pairs, or the rows of a CSV file.

    Values stay text, which conditions understand whatever they hold; only an empty one is missing.
    """
    if asked is None:
        return None
    files = [text for text in asked if text.endswith(".csv")]
    if files:
        if len(asked) > 1:
            raise InputError(
                f"--condition was given the file {files[0]!r} and {len(asked) - 1} more values. Give the file alone, "
                "with a column for each condition."
            )
        return _table(check_input(files[0], ".csv"))
    pairs: dict[str, str] = {}
    for text in asked:
        column, sign, value = text.partition("=")
        if not (sign and column and value):
            raise InputError(
                f"--condition was given {text!r}; expected COLUMN=VALUE, such as 'cell_type=B', or a file that ends in "
                "'.csv' with one row a cell."
            )
        if column in pairs:
            raise InputError(
                f"--condition names {column!r} twice, with {pairs[column]!r} and {value!r}. For a mixture give a CSV "
                "file with one row a cell."
            )
        pairs[column] = value
    return pairs


def _values(asked: list[str] | None, option: str) -> dict[str, list[str]] | None:
    """`COLUMN=VALUE` pairs; a column that comes again has several values."""
    if asked is None:
        return None
    found: dict[str, list[str]] = {}
    for text in asked:
        column, sign, value = text.partition("=")
        if not (sign and column and value):
            raise InputError(f"{option} was given {text!r}; expected COLUMN=VALUE, such as 'condition=ctrl'.")
        found.setdefault(column, []).append(value)
    return found


def _guidance(asked: float | list[str]) -> float | str | dict[str, str]:
    """One weight, or `COLUMN=WEIGHT` pairs; the verb says what is no number."""
    if not isinstance(asked, list):
        return asked
    if len(asked) == 1 and "=" not in asked[0]:
        return asked[0]
    weights: dict[str, str] = {}
    for text in asked:
        column, sign, weight = text.rpartition("=")
        if not (sign and column) or column in weights:
            raise InputError(
                f"--guidance was given {listed(asked)}; expected one number, or one COLUMN=WEIGHT for each condition, "
                "such as 'cell_type=2'."
            )
        weights[column] = weight
    return weights


def _amounts(asked: list[str] | None) -> int | dict[str, int] | None:
    """How many cells in all, or `CATEGORY=N` pairs."""
    if asked is None:
        return None
    found: dict[str, int] = {}
    for text in asked:
        category, sign, number = text.rpartition("=")
        if not number.isdecimal() or category in found or (not sign and len(asked) > 1):
            raise InputError(
                f"--n-obs was given {listed(asked)}; expected one whole number, or one CATEGORY=N for each category, "
                "such as 'Delta=200'."
            )
        if not sign:
            return int(number)
        found[category] = int(number)
    return found


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise InputError(
            f"{str(path)!r} cannot be read as CSV ({error}). Expected a header and one row a cell."
        ) from error
    # The first column of adata.obs.to_csv(path) holds the names of the cells, under no name of its own.
    unnamed = [column for column in table.columns[:1] if column.startswith("Unnamed: ")]
    return table.drop(columns=unnamed)


def _n_obs(n_obs: int | None, condition: Any) -> int:
    """The number of cells asked for: as many as the table of conditions has rows, where it is left out."""
    if n_obs is not None:
        return n_obs
    if condition is None or isinstance(condition, dict):
        raise InputError("the number of cells is missing. Give it, such as --n-obs 1000.")
    if condition.empty:
        raise InputError(
            f"the CSV of conditions has {len(condition)} rows and the columns {listed(condition.columns) or 'none'}. "
            "Expected one row a cell."
        )
    return len(condition)


def _alone(values: str | list[str]) -> str | list[str]:
    """One value as itself: "auto" and "default" are words, not names."""
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def _say_saved(path: Path, what: str) -> None:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    print(f"saved {path}: {what} ({sum(file.stat().st_size for file in files) / 1e6:.2f} MB)")
