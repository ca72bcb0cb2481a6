"""The trained flow: field, codec, conditions, and where they come from. It takes and gives tensors and arrays."""

from scflow.flow._balance import CALIBRATIONS
from scflow.flow._flow import Flow
from scflow.flow._sampling import Drawn, Sampling
from scflow.flow._watching import Watch

__all__ = ["CALIBRATIONS", "Drawn", "Flow", "Sampling", "Watch"]
