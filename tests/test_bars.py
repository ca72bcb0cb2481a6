"""Progress bars."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import tqdm
import tqdm.auto

from scflow.training.bars import bar_class


def test_a_notebook_without_widgets_gets_a_bar_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    # What tqdm does there: it warns as soon as its bar is asked for, and hands out the plain one.
    without = types.ModuleType("tqdm.autonotebook")

    def asked(name: str) -> type:
        if name != "tqdm":
            raise AttributeError(name)
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", UserWarning, stacklevel=2)
        return tqdm.std.tqdm

    monkeypatch.setattr(without, "__getattr__", asked, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm.autonotebook", without)
    monkeypatch.delitem(sys.modules, "tqdm.auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bar = bar_class()
    assert issubclass(bar, tqdm.std.tqdm)
    with pytest.warns(UserWarning, match="IProgress"):
        without.tqdm  # noqa: B018


def test_what_is_loaded_already_is_taken() -> None:
    assert bar_class() is tqdm.auto.tqdm
