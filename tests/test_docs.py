"""What the guide says exists."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
NAMES = sorted(set(re.findall(r"`(scflow(?:\.\w+)+)`", GUIDE.read_text(encoding="utf-8"))))


def test_the_guide_names_its_rooms() -> None:
    assert len(NAMES) > 40


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_guide_exists(name: str) -> None:
    assert pydoc.locate(name) is not None
