"""The options of `python -m scflow`: those of a verb carry the names and defaults of the function's parameters.

Nothing heavy is imported here, so that `--help` comes at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["build_parser", "for_verb"]

_OWN = frozenset({"adata", "command", "flow", "generated", "n_obs", "out", "overwrite", "real", "reference", "report"})

_FILES_FIRST = "Files come first, options after them: an option that takes several values takes all that follow."

_CARRIED = "a .safetensors file, or an .h5ad file that carries its flow"

_EXAMPLES = """\
from counts to scores:
  scflow train train.h5ad --condition cell_type --out flow.safetensors
  scflow generate flow.safetensors --n-obs 1000 --out new.h5ad
  scflow score held_out.h5ad new.h5ad --reference train.h5ad --out scores.csv

exit status:
  0    done
  1    something in the input, the files or the memory has to be mended; one line says what
  2    the command line was not understood
  130  stopped by Ctrl-C; train, reflow and distill save the best flow until then
  143  stopped by SIGTERM, which schedulers send; with --checkpoint the state is kept
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` holds the chosen subcommand's name."""
    from scflow import __version__

    parser = argparse.ArgumentParser(
        prog="scflow",
        description="Learn a population of single cells, draw new ones as counts, and score them beside their floor.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scflow {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_demo, _train, _reflow, _distill, _generate, _transport, _augment, _score):
        add(commands)
    return parser


def for_verb(options: argparse.Namespace) -> dict[str, Any]:
    """The options that are parameters of the verb, by name; files, and what to do with them, are the command's own."""
    return {name: value for name, value in vars(options).items() if name not in _OWN}


class _Several(argparse.Action):
    """Collects the values of an option that takes several and may be given again; its default may be a string."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add `values` to those of an earlier mention."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else []), *(values or [])])


class _Options:
    """Adds options whose help ends in their default."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __call__(self, flag: str, text: str, *, shown: str = "%(default)s", **settings: Any) -> None:
        self._group.add_argument(flag, help=f"{text} (default: {shown})", **settings)

    def several(self, flag: str, text: str, *, shown: str = "%(default)s", **settings: Any) -> None:
        """An option with one or more values."""
        self(flag, text, shown=shown, nargs="+", action=_Several, **settings)


def _command(commands: Any, name: str, files: str, text: str) -> argparse.ArgumentParser:
    """A subcommand, with its files first in the usage line."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"scflow {name} {files}[options]",
        help=text,
        description=f"{text}\n\n{_FILES_FIRST}" if files else text,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
    )
    return made


def _demo(commands: Any) -> None:
    text = "Learn 350 real blood cells, draw 350 new ones, score and plot them: a few minutes."
    add = _Options(_command(commands, "demo", "", text))
    add("--out", "where cells, flow, scores and pictures go", default="demo", metavar="FOLDER")
    add("--steps", "training steps", type=_whole, metavar="N", shown="chosen from the data's size")
    add("--seed", "the same seed gives the same cells", type=_whole, default=0, metavar="N")


def _train(commands: Any) -> None:
    parser = _command(commands, "train", "COUNTS.h5ad ", "Learn a population of cells, and save the flow.")
    parser.add_argument("adata", metavar="COUNTS.h5ad", help="cells with raw counts; or a .zarr store of them")
    _output(parser, "flow.safetensors", "the flow; with the ending .h5ad, the cells with the flow in .uns")
    add = _Options(parser.add_argument_group("options of scflow.tl.train"))
    add.several("--condition", "columns of .obs to learn the cells by", metavar="COLUMN", shown="none")
    what = "start from cells instead of noise, those that have this value (or several) in the column"
    add.several("--source", what, metavar="COLUMN=VALUE", shown="none")
    add.several("--target", "and carry them to those that have that", metavar="COLUMN=VALUE", shown="all others")
    add.several("--group", "columns that a cell keeps on its way, such as its type", metavar="COLUMN", shown="none")
    add("--course", "the column with the times of a time course to carry cells through", metavar="COLUMN", shown="none")
    _layer(add)
    add("--space", "where the flow lives: genes, quantile, pca or counts", default="auto", metavar="NAME")
    add("--use-rep", "learn .obsm[KEY], an embedding of your own, without counts", metavar="KEY", shown="none")
    add("--path", "how data and noise are mixed", default="linear", metavar="NAME")
    add("--noise", "the law that cells are made from", default="auto", metavar="NAME")
    add("--time", "the law of training times", default="stratified", metavar="NAME")
    add("--weight", "the weight of the loss at each time", default="uniform", metavar="NAME")
    add("--coupling", "how cells and noise are paired", default="auto", metavar="NAME")
    add("--field", "the network that is trained", default="mlp", metavar="NAME")
    add("--steps", "training steps", type=_whole, metavar="N", shown="chosen from the data's size")
    add("--batch-size", "cells a step", type=_whole_or_auto, default="auto", metavar="N")
    add("--lr", "the highest learning rate", type=_number_or_auto, default="auto", metavar="RATE")
    what = "share of cells that decide when to stop; groups for whole groups of cells that are carried"
    add("--validation", what, type=_share, default="auto", metavar="SHARE")
    add("--precision", "of the network's arithmetic", default="auto", metavar="NAME")
    _device(add)
    _seed(add)
    add("--checkpoint", "where to keep the state of the run, to go on after a break", metavar="FOLDER", shown="nowhere")
    add("--resume", "go on with the run in the checkpoint's folder", action="store_true", shown="start anew")
    trace: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "metavar": "TRACE.json"}
    add("--profile", "write a trace of some steps, for ui.perfetto.dev", shown="none", **trace)
    add("--watch", "draw and score a few cells at every N-th look", type=_whole, metavar="N", shown="never")
    _progress(add)
    add("--key-added", "the slot in .uns of an .h5ad output", default="scflow", metavar="NAME")


def _reflow(commands: Any) -> None:
    text = "Straighten a flow on pairs of its own, so that few steps draw its cells."
    parser = _command(commands, "reflow", "FLOW ", text)
    parser.add_argument("flow", metavar="FLOW", help=_CARRIED)
    _output(parser, "reflowed.safetensors", "the new flow")
    add = _Options(parser.add_argument_group("options of scflow.tl.reflow"))
    add("--iterations", "rounds", type=_whole, default=1, metavar="N")
    add("--n-pairs", "pairs a round", type=_whole_or_auto, default="auto", metavar="N")
    _guidance(add)
    add("--adata", "the training cells, to mix in real pairs", metavar="FILE.h5ad", shown="those of FLOW, if any")
    _layer(add)
    add("--share", "of real pairs", type=_number_or_auto, default="auto", metavar="SHARE")
    add("--time", "the law of training times", default="u_shaped", metavar="NAME")
    _training(add, steps=2000, draw_steps=4)


def _distill(commands: Any) -> None:
    text = "Distil a flow to a flow map, so that one step draws its cells."
    parser = _command(commands, "distill", "FLOW ", text)
    parser.add_argument("flow", metavar="FLOW", help=_CARRIED)
    _output(parser, "distilled.safetensors", "the new flow")
    add = _Options(parser.add_argument_group("options of scflow.tl.distill"))
    add("--method", "the loss: trajectory or lagrangian", default="trajectory", metavar="NAME")
    add("--n-trajectories", "how many to learn from", type=_whole_or_auto, default="auto", metavar="N")
    _guidance(add)
    _training(add, steps=2000, draw_steps=1)


def _training(add: _Options, *, steps: int, draw_steps: int) -> None:
    add("--steps", "training steps", type=_whole, default=steps, metavar="N")
    add("--batch-size", "pairs a step", type=_whole_or_auto, default="auto", metavar="N")
    add("--lr", "the highest learning rate", type=_number_or_auto, default="auto", metavar="RATE")
    add("--draw-steps", "steps that cells will be drawn in", type=_whole, default=draw_steps, metavar="N")
    _device(add)
    _seed(add)
    _progress(add)


def _generate(commands: Any) -> None:
    parser = _command(commands, "generate", "FLOW ", "Draw new cells as integer counts.")
    parser.add_argument("flow", metavar="FLOW", help=_CARRIED)
    _output(parser, "generated.h5ad", "the new cells, which are written as they are drawn; .h5ad or .zarr")
    add = _Options(parser.add_argument_group("options of scflow.tl.generate"))
    add("--n-obs", "number of cells", type=_whole, metavar="N", shown="the rows of the CSV of conditions")
    what = "'cell_type=B' for all cells, one pair a column; or a CSV file with one row a cell"
    add.several("--condition", what, metavar="COLUMN=VALUE", shown="as in the data")
    add("--at", "a time of a time course, to draw cells of it", type=_number, metavar="TIME", shown="none")
    add("--adata", "cells of the course, some of which become them", metavar="FILE.h5ad", shown="those of FLOW, if any")
    _guidance(add)
    add("--solver", "euler, midpoint, heun, rk4, adams, jump or dopri5", default="auto", metavar="NAME")
    add("--steps", "steps of the solver", type=_whole_or_auto, default="auto", metavar="N")
    add("--shift", "above 1 more of the steps are near the noise", type=_number, default=1.0, metavar="A")
    add("--path", "the path to draw along; the cells stay the same", metavar="NAME", shown="the flow's own")
    add("--batch-size", "cells at a time; does not change them", type=_whole_or_auto, default="auto", metavar="N")
    add("--precision", "of the network's arithmetic", default="float32", metavar="NAME")
    _device(add)
    _seed(add)
    _progress(add)
    add("--weights", "the field's weights: average or raw", default="average", metavar="NAME")
    add("--calibration", "of counts: balanced, independent or none", default="balanced", metavar="NAME")
    add("--key-added", "the slot in .uns of an .h5ad file that the flow is in", default="scflow", metavar="NAME")


def _transport(commands: Any) -> None:
    parser = _command(commands, "transport", "COUNTS.h5ad ", "Carry cells along a flow between populations.")
    parser.add_argument("adata", metavar="COUNTS.h5ad", help="cells of the source population, or of the course")
    _output(parser, "carried.h5ad", "the cells, with where they went")
    add = _Options(parser.add_argument_group("options of scflow.tl.transport"))
    add("--flow", f"what carries them: {_CARRIED}", metavar="FLOW", shown="the one in the cells")
    add.several("--target", "where to, if there are several targets", metavar="COLUMN=VALUE", shown="the only one")
    add("--to", "to when, in a time course", type=_number, metavar="TIME", shown="none")
    _layer(add)
    _guidance(add)
    add("--solver", "euler, midpoint, heun, rk4, adams or dopri5", default="midpoint", metavar="NAME")
    add("--steps", "steps of the solver", type=_whole_or_auto, default="auto", metavar="N")
    _device(add)
    _seed(add)
    _progress(add)
    add("--key-added", "the slots' name", default="scflow", metavar="NAME")


def _augment(commands: Any) -> None:
    parser = _command(commands, "augment", "COUNTS.h5ad ", "Put new cells beside real ones, where types are rare.")
    parser.add_argument("adata", metavar="COUNTS.h5ad", help="real cells with raw counts")
    _output(parser, "augmented.h5ad", "real and synthetic cells")
    add = _Options(parser.add_argument_group("options of scflow.tl.augment"))
    add("--key", "the column of .obs with the categories to add to", default="cell_type", metavar="COLUMN")
    what = "balance: as many cells of each as the largest has; a number: that share of it"
    add("--target", what, type=_share_or_balance, metavar="SHARE", shown="none")
    add.several("--n-obs", "cells to add in all, or of each: Delta=200", metavar="N", shown="by --target")
    add("--flow", f"what to draw from: {_CARRIED}", metavar="FLOW", shown="train one")
    _layer(add)
    add("--space", "where the flow that is trained lives", default="auto", metavar="NAME")
    add("--steps", "training steps", type=_whole, metavar="N", shown="chosen from the data's size")
    add("--calibration", "of counts: balanced, independent or none", default="balanced", metavar="NAME")
    _device(add)
    _seed(add)
    _progress(add)
    add("--key-added", "the slots' name, and what synthetic cells are called", default="scflow", metavar="NAME")


def _score(commands: Any) -> None:
    text = "Score generated cells against held-out real ones."
    parser = _command(commands, "score", "REAL.h5ad GENERATED.h5ad ", text)
    parser.add_argument("real", metavar="REAL.h5ad", help="held-out real cells: none of them may have been trained on")
    parser.add_argument("generated", metavar="GENERATED.h5ad", help="the cells to judge")
    _output(parser, "scores.csv", "the table")
    what = "an HTML page too, with the verdict and pictures"
    _Options(parser)("--report", what, metavar="FILE.html", shown="none")
    add = _Options(parser.add_argument_group("options of scflow.tl.score"))
    add("--reference", "the training cells", metavar="FILE.h5ad", shown="half of the real cells")
    what = "columns of .obs to compare within; auto: those that the cells were drawn with; none: all cells as one"
    add.several("--condition", what, default="auto", metavar="COLUMN")
    add.several("--metrics", "names of metrics, as in the table's first column", default="default", metavar="NAME")
    add("--preset", "the recipe of a paper instead: cfgen or scdiffusion", metavar="NAME", shown="none")
    _layer(add)
    _seed(add)


def _output(parser: argparse.ArgumentParser, path: str, text: str) -> None:
    add = _Options(parser)
    add("--out", text, default=path, metavar="FILE")
    add("--overwrite", "replace an output that is there already", action="store_true", shown="refuse")


def _guidance(add: _Options) -> None:
    what = "above 1 sharpens towards the condition; or a weight for each, such as cell_type=2 batch=1"
    add.several("--guidance", what, default=1.0, metavar="W")


def _layer(add: _Options) -> None:
    add("--layer", "where the counts are", metavar="NAME", shown=".X, or the layer 'counts' where .X holds none")


def _device(add: _Options) -> None:
    add("--device", "cpu, cuda, cuda:1 or mps", default="auto", metavar="NAME")


def _seed(add: _Options) -> None:
    add("--seed", "the same seed gives the same result", type=_whole, default=0, metavar="N")


def _progress(add: _Options) -> None:
    add(
        "--progress", "whether to draw a progress bar", action=argparse.BooleanOptionalAction, default=True, shown="yes"
    )


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _whole_or_auto(text: str) -> int | str:
    return text if text == "auto" else _whole(text)


def _share_or_balance(text: str) -> float | str:
    return text if text == "balance" else _number(text)


def _share(text: str) -> float | str:
    return text if text in ("auto", "groups") else _number(text)


def _number_or_auto(text: str) -> float | str:
    return text if text == "auto" else _number(text)
