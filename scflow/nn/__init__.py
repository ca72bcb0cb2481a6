"""Velocity fields: networks ``field(x, t, condition) -> velocity``."""

from scflow.nn.blocks import AdaLN, ResidualBlock
from scflow.nn.embeddings import ConditionEmbedding, TimeEmbedding, sinusoids
from scflow.nn.mlp import MLP

__all__ = ["AdaLN", "MLP", "ConditionEmbedding", "ResidualBlock", "TimeEmbedding", "sinusoids"]
