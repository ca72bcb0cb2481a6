"""The mathematics of flow matching, on tensors of any trailing shape."""

from scflow.matching import couplings, guidance, noises, paths, solvers, times, weights
from scflow.matching.objective import FlowMatching
from scflow.matching.preconditioning import Preconditioned

__all__ = [
    "FlowMatching",
    "Preconditioned",
    "couplings",
    "guidance",
    "noises",
    "paths",
    "solvers",
    "times",
    "weights",
]
