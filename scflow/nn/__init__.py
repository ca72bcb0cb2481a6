"""Velocity fields: networks ``field(x, t, condition) -> velocity``."""

from scflow.nn.blocks import AdaLN, ResidualBlock
from scflow.nn.embeddings import ConditionEmbedding, TimeEmbedding, sinusoids
from scflow.nn.mlp import MLP

__all__ = ["MLP", "AdaLN", "ConditionEmbedding", "ResidualBlock", "TimeEmbedding", "sinusoids"]
