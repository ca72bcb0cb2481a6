"""Velocity fields: networks ``field(x, t, condition) -> velocity``."""

from scflow.nn.blocks import AdaLN, Attention, ConvBlock, DenseBlock, FiLM, ResidualBlock, TransformerBlock
from scflow.nn.embeddings import ConditionEmbedding, TimeEmbedding, sinusoids
from scflow.nn.field import Field
from scflow.nn.mlp import MLP
from scflow.nn.names import FIELDS
from scflow.nn.transformer import Transformer
from scflow.nn.unet import UNet
from scflow.nn.unet2d import UNet2d

__all__ = [
    "FIELDS",
    "MLP",
    "AdaLN",
    "Attention",
    "ConditionEmbedding",
    "ConvBlock",
    "DenseBlock",
    "FiLM",
    "Field",
    "ResidualBlock",
    "TimeEmbedding",
    "Transformer",
    "TransformerBlock",
    "UNet",
    "UNet2d",
    "sinusoids",
]
