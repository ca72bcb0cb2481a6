"""A flow's model card: Markdown with the metadata that a hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from scflow.errors import InputError, listed
from scflow.flow import _facts
from scflow.metrics.words import figure, title

if TYPE_CHECKING:
    from scflow.flow._flow import Flow

__all__ = ["card"]

_COLUMNS = ("condition", "metric", "value", "floor", "trivial", "low", "high")
_TAGS = ("single-cell", "transcriptomics", "flow-matching", "generative-model", "anndata")

_USE = """Drawing cells like those it was trained on: to enlarge rare types for the training of a classifier, to test a
method on cells whose labels are known, to look at what a condition changes. Drawn cells are no measurements: they add
no evidence. Tests between drawn cells, or between drawn and real ones, give p-values that mean nothing, since their
number is free and they repeat what the training cells said."""

_LIMITS = """- Only cells of the conditions above, and of the tissue, protocol and organism of the training cells, can
  be expected to be right. Combinations that no training cell had are predictions.
- A flow can repeat training cells. If those are of persons, drawn cells may tell of them: this file is no means of
  anonymisation. `scflow.pl.neighbours` and the scores `copying` and `duplicates` show whether cells are repeated.
- The file holds the conditions of up to 20,000 training cells and the distributions of their counts, gene by gene.
- It is not made for diagnosis or treatment."""


def card(flow: Flow, *, scores: pd.DataFrame | None, license: str | None, about: str, repo_id: str) -> str:
    """Of :meth:`scflow.Flow.card`."""
    parts = [_metadata(license), f"# {_name(flow, repo_id)}", _summary(flow)]
    parts += [about.strip()] if about.strip() else []
    parts += ["## Use", _code(flow, repo_id), _USE]
    parts += ["## What it learnt", _list(_description(flow)), "## How well", _quality(flow, scores)]
    parts += ["## Limits", _LIMITS, "## How it was trained", _list(_facts.training(flow)), _provenance(flow)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(license: str | None) -> str:
    """YAML; strings are written as JSON, which is YAML."""
    lines = ["library_name: scflow", "tags:", *(f"- {tag}" for tag in _TAGS)]
    if license is not None:
        if not isinstance(license, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
            raise InputError(
                f"license={license!r} is no identifier of a licence. Expected one such as 'cc-by-4.0', 'mit' or "
                "'other'; it is yours to choose, and that of the training data may bind you."
            )
        lines.insert(0, f"license: {json.dumps(license.lower())}")
    return "\n".join(["---", *lines, "---"])


def _name(flow: Flow, repo_id: str) -> str:
    return _plain(repo_id.rpartition("/")[2]) or (
        "A flow of cells" if flow.genes else "A flow in an embedding of cells"
    )


def _summary(flow: Flow) -> str:
    what = "a flow of single cells" if flow.genes else "a flow in an embedding of single cells"
    return (
        f"This is {what}, trained by flow matching with [scflow](https://pypi.org/project/scflow-tools/) on "
        f"{_plain(_facts.origin(flow))}. It draws {_plain(_facts.learnt(flow))}."
    )


def _code(flow: Flow, repo_id: str) -> str:
    load = f"scflow.Flow.from_hub({repo_id!r})" if repo_id else 'scflow.Flow.load("flow.safetensors")'
    install = 'pip install "scflow-tools[hub]"' if repo_id else "pip install scflow-tools"
    line = _facts.drawing(flow)
    result = "new = " if "generate" in line else ""
    return f"```sh\n{install}\n```\n\n```python\nimport scflow\n\nflow = {load}\n{result}{line}\n```"


def _description(flow: Flow) -> dict[str, str]:
    rows = {"learnt": _facts.learnt(flow), "from": _facts.origin(flow)}
    rows |= {f"by {name}": values for name, values in _facts.conditioned(flow, most=50).items()}
    return rows | ({"genes": listed(flow.genes, 10)} if flow.genes else {})


def _quality(flow: Flow, scores: pd.DataFrame | None) -> str:
    told = f"In training: {_plain(_facts.quality(flow))}. A loss says little of cells."
    if scores is None:
        return f"{told} No scores were given: `scflow.tl.score(held_out, new, reference=train)` makes some."
    missing = [name for name in _COLUMNS if name not in scores]
    if missing or scores.empty:
        raise InputError(
            f"scores has {len(scores)} rows and lacks {len(missing)} of {len(_COLUMNS)} columns "
            f"({listed(missing) or 'none'}). Expected what scflow.tl.score returns."
        )
    rows = [
        (row["condition"], title(row["metric"]), *_figures(row))
        for row in scores.astype({"condition": str, "metric": str}).to_dict("records")
    ]
    head = ("condition", "score", "value [95 %]", "floor: real cells", "trivial generator")
    words = (
        "Each score beside its floor, which other real cells have, and beside what a trivial generator has "
        "(independent Poisson counts from each condition's mean profile)."
    )
    return f"{told}\n\n{words}\n\n{_table(head, rows)}"


def _figures(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    value, low, high, floor, trivial = (float(row[name]) for name in ("value", "low", "high", "floor", "trivial"))
    return f"{figure(value)} [{figure(low)}, {figure(high)}]", figure(floor), figure(trivial)


def _provenance(flow: Flow) -> str:
    """Everything that the flow knows of its training, to the letter."""
    text = json.dumps(dict(flow.provenance), indent=1, sort_keys=True, default=str)
    # No label can end the block: a fence is longer than any run of its sign within.
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}json\n{text}\n{fence}"


def _list(rows: Mapping[str, str]) -> str:
    return "\n".join(f"- **{_plain(name)}**: {_plain(value)}" for name, value in rows.items())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text of others as text: on one line, and none of it Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(str(text).split()))
