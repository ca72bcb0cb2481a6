"""What `python -m scflow` is made of: the options, the commands, the demo, and the files that they read and write."""

from __future__ import annotations
