"""Coverage-guided fuzzing of `Flow.load` and of flows in `.uns`: python tests/fuzz/load_flow.py -max_total_time=600.

A first byte chooses: raw bytes as a file; steps of mutation of a flow that is kept. Whatever is raised and not
documented ends the run and leaves its input in the folder it was started in.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scflow"]):
    import numpy as np
    import torch
    from anndata import AnnData
    from mutations import mutated, seeds, survived

    from scflow._anndata import read_flow
    from scflow.errors import FileError, InputError
    from scflow.flow import Flow

torch.set_num_threads(1)
SEEDS = seeds()
PLACE = Path(tempfile.mkdtemp()) / "fuzzed.safetensors"


def one(data: bytes) -> None:
    """An input."""
    if len(data) < 2:
        return
    if data[0] % 4 == 0:
        PLACE.write_bytes(data[1:])
        with suppress(FileError):
            Flow.load(PLACE)
        return
    steps = [struct.unpack("<BHH", data[i : i + 5]) for i in range(2, min(len(data) - 4, 22), 5)]
    content = mutated(SEEDS[data[1] % len(SEEDS)], steps)
    if data[0] % 4 == 1:
        adata = AnnData(np.eye(2), uns={"scflow": content})
        try:
            content = read_flow(adata)
        except InputError:
            return
    survived(content)


if __name__ == "__main__":
    atheris.Setup([argument for argument in sys.argv if argument], one)
    atheris.Fuzz()
