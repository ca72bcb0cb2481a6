"""What faults do to scflow, and the same ones to scvi-tools: how many tries, how they end, what is lost.

python tests/benchmarks/faults.py --tries 20 --out faults.csv

The faults are made for real, each round of them in a process of its own: files are cut and bytes flipped, disks filled,
processes interrupted and killed (`faults_made.py`). A try ends in one of three ways. *clear*: nothing was lost, and
where something was refused, the error is the library's own and tells in a few lines what is wrong; *unclear*: nothing
was lost, but the error is one from deep inside, or a warning is all there is; *lost*: a file, a model or a run is gone,
a wrong result came back as if it were right, a stranger's code ran, or the process hung or crashed. scvi-tools is tried
where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from faults_made import OUTCOMES
from resumed import done, read, tell, write

FAULTS = {
    "flipped byte": "a byte of a saved model is another one",
    "cut file": "a saved model ends early",
    "other file": "a picture, a text, nothing at all, in the place of a model",
    "pickle": "a model file that holds a program",
    "full disk": "the disk is full while a model is saved over an older one",
    "interrupted save": "the process is killed while a model is saved over an older one",
    "ctrl-c": "Ctrl-C during training",
    "sigterm": "SIGTERM during training, as a cluster sends it before its limit",
    "sigkill": "the process is killed during training, and the run started again",
    "callback": "a user's callback raises during training",
    "nan": "a loss that is not finite",
    "csr_array": "counts as a scipy.sparse.csr_array",
    "bad counts": "NaN, negative, fractional or infinite counts",
    "repeated genes": "two genes of one name",
    "other order": "a trained model is used on cells with the genes in another order",
    "missing genes": "a trained model is used on cells without some of the genes",
    "missing labels": "cells without a label",
}
MANY = ("flipped byte", "cut file")
"""Faults of which a round holds 50 tries."""
ROUNDS = (*MANY, "full disk", "interrupted save", "ctrl-c", "sigterm", "sigkill")
"""Faults that strike at another place each time; of the others one round tries every kind there is."""
LIBRARIES = ("scflow", "scvi")
KEY = ["library", "fault", "round"]
COLUMNS = [*KEY, *OUTCOMES, "said"]
_LIMIT = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the file does not hold yet, and print the table; 1 where scflow lost anything."""
    options = parse(arguments)
    table = read(options.out, COLUMNS)
    for row in tried(options, table):
        ways = ", ".join(f"{row[outcome]} {outcome}" for outcome in OUTCOMES if row[outcome])
        print(f"{row['library']:7} {row['fault']:17} {row['round']:3}: {ways}; {row['said']}", flush=True)
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True) if len(table) else pd.DataFrame([row])
        if options.out:
            write(table, options.out)
    table = table[table.fault.isin(options.faults) & table.library.isin(options.libraries)]
    tell(table, markdown, options.out)
    return int((table[table.library == "scflow"].lost > 0).any())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faults", nargs="+", default=list(FAULTS), choices=list(FAULTS), metavar="FAULT", help=", ".join(FAULTS))
    add("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES, help="(%(default)s)")
    add("--rounds", type=int, default=20, help="of each fault that strikes at another place each time (%(default)s)")
    add("--out", type=Path, help="keep every try in this .csv as soon as it is over, and the table as .md")
    return parser.parse_args(arguments)


def tried(options: argparse.Namespace, known: pd.DataFrame) -> Iterator[dict[str, object]]:
    """One try after another that is not known yet."""
    finished = done(known, KEY)
    for library in options.libraries:
        if importlib.util.find_spec(library) is None:
            print(f"{library}: not installed; pip install scflow-tools[benchmarks]")
            continue
        for fault in options.faults:
            for i in range(options.rounds if fault in ROUNDS else 1):
                if (library, fault, i) not in finished:
                    yield {"library": library, "fault": fault, "round": i} | ended(library, fault, i)


def ended(library: str, fault: str, i: int) -> dict[str, object]:
    """How the tries of a round ended, and what was said in the worst."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("faults_made.py"))]
        command += [library, fault, "--round", str(i), "--tries", "50" if fault in MANY else "1", "--folder", folder]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return {**dict.fromkeys(OUTCOMES, 0), "lost": 1, "said": f"hung for {_LIMIT:.0f} s"}
    try:
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        said = f"ended with status {ran.returncode}: {last}"[:300]
        return {**dict.fromkeys(OUTCOMES, 0), "lost": 1, "said": said}


def markdown(table: pd.DataFrame) -> str:
    """Tries and how they ended, a fault a line, the libraries beside each other."""
    libraries = [library for library in LIBRARIES if library in set(table.library)]
    lines = ["| fault | " + " | ".join(f"{name}: tries | {' | '.join(OUTCOMES)}" for name in libraries) + " |"]
    lines += ["|---|" + "---|" * (4 * len(libraries))]
    for fault, words in FAULTS.items():
        of = table[table.fault == fault]
        if of.empty:
            continue
        cells = []
        for library in libraries:
            ways = of[of.library == library][list(OUTCOMES)].sum()
            cells += [int(ways.sum()), *map(int, ways)]
        lines.append(f"| {words} | " + " | ".join(str(n) for n in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
