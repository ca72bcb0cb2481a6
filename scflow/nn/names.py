"""Fields by name: one table, for training and for what is saved."""

from __future__ import annotations

from scflow.nn.mlp import MLP
from scflow.nn.transformer import Transformer
from scflow.nn.unet import UNet

__all__ = ["FIELDS"]

FIELDS: dict[str, type[MLP] | type[Transformer] | type[UNet]] = {"mlp": MLP, "transformer": Transformer, "unet": UNet}
"""Those that take states ``[n, dim]``."""
