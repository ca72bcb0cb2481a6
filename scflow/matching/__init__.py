"""The mathematics of flow matching, on tensors of any trailing shape."""

from scflow.matching import couplings, guidance, noises, paths, solvers, times, weights
from scflow.matching.objective import FlowMatching
from scflow.matching.preconditioning import Bare, Preconditioned, preconditioned
from scflow.matching.rerouting import Rerouted

__all__ = [
    "Bare",
    "FlowMatching",
    "Preconditioned",
    "Rerouted",
    "couplings",
    "guidance",
    "noises",
    "paths",
    "preconditioned",
    "solvers",
    "times",
    "weights",
]
