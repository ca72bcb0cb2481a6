"""Cells to start from: real ones that need no download, and simulated ones whose truth is known."""

from __future__ import annotations

# A function and its file share their name; the function is what `scflow.datasets` offers.
from scflow.datasets.pbmc68k import pbmc68k
from scflow.datasets.simulate import simulate

__all__ = ["pbmc68k", "simulate"]
