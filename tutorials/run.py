"""Executes the tutorials as a reader would, and fails where one of them does not work any more.

    python tutorials/run.py                       all of them; nothing is written
    python tutorials/run.py --write 01 05         those whose names begin so, with their outputs put into the files

Each runs in a folder of its own that is gone afterwards. What fails: an error, a warning or anything else on standard
error but progress bars, and more than three minutes. Two at a time (--jobs 2) is the fastest on two cores, as scflow
takes half of them.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from PIL import Image

HERE = Path(__file__).resolve().parent
_BAR = ("%|", "it/s", "s/it", "?it", "IProgress", "notebook_tqdm")


@dataclass(frozen=True)
class Outcome:
    """How a notebook went: seconds, those of processors, and what is wrong with it, if anything."""

    name: str
    seconds: float
    processor: float
    fault: str | None


def main() -> int:
    """Execute the notebooks that were asked for, and say how each went."""
    options = _options()
    names = sorted(p for p in HERE.glob("*.ipynb") if not options.begin or p.name.startswith(tuple(options.begin)))
    if not names:
        print(f"no tutorial begins with {' or '.join(options.begin)}", file=sys.stderr)
        return 2
    # Kernels run elsewhere: they find scflow here, and a shell in them this environment's commands.
    _put_first("PYTHONPATH", HERE.parent)
    _put_first("PATH", Path(sys.executable).parent)
    faults = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        each = [options.write] * len(names), [options.limit] * len(names)
        for outcome in pool.map(execute, names, *each):
            faults += outcome.fault is not None
            print(
                f"{outcome.name:45s} {outcome.seconds:5.0f} s, {outcome.processor:5.0f} s of processors  "
                f"{outcome.fault or 'ok'}",
                flush=True,
            )
    return int(faults > 0)


def execute(path: Path, write: bool, limit: int) -> Outcome:
    """Execute one notebook from the top, and write its outputs where that is asked for and no cell fails."""
    notebook = nbformat.read(path, as_version=4)
    start, before = time.monotonic(), _processor()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=limit,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],  # else each kernel says that it is not encrypted
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError) as error:
            return Outcome(path.name, time.monotonic() - start, _processor() - before, f"failed\n{error}")
    seconds = time.monotonic() - start
    fault = _noise(notebook)
    if write:
        _tidy(notebook)
        nbformat.write(notebook, path)
    if fault is None and seconds > limit:
        fault = f"took longer than {limit} s"
    return Outcome(path.name, seconds, _processor() - before, fault)


def _processor() -> float:
    """Processor seconds of all kernels that have ended, and of what they started."""
    return sum(os.times()[2:4])


def _put_first(variable: str, folder: Path) -> None:
    os.environ[variable] = os.pathsep.join([str(folder), *filter(None, [os.environ.get(variable)])])


def _noise(notebook: nbformat.NotebookNode) -> str | None:
    """What stands on standard error and is no progress bar."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr" and not _is_bar(output.text):
                return f"standard error\n{output.text}"
    return None


def _is_bar(text: str) -> bool:
    """Whether each line is of a progress bar, which is redrawn after a carriage return, or misses a prettier one."""
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return all(any(sign in line for sign in _BAR) for line in lines)


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs from run to run and tells nobody anything (bars, times, versions); shrink pictures."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            for data in (output.data for output in cell.outputs if "data" in output):
                if "image/png" in data:
                    data["image/png"] = _smaller(data["image/png"])
    notebook.metadata["language_info"] = {"name": "python"}


def _smaller(picture: str) -> str:
    """A picture in 256 colours, which is half as large and looks the same."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        packed, format="PNG", optimize=True
    )
    return min(base64.b64encode(packed.getvalue()).decode(), picture.replace("\n", ""), key=len)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Execute the tutorials.")
    parser.add_argument("begin", nargs="*", help="beginnings of names, such as 01; all unless given")
    parser.add_argument("--write", action="store_true", help="put the outputs into the files")
    parser.add_argument("--limit", type=int, default=180, help="seconds that one may take (180), for a busy machine")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (1)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
