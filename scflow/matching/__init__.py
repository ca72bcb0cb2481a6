"""The mathematics of flow matching, on tensors of any trailing shape."""

from scflow.matching import couplings, distillation, guidance, noises, paths, solvers, times, weights
from scflow.matching.maps import FlowMap
from scflow.matching.objective import FlowMatching
from scflow.matching.preconditioning import Bare, Displaced, Preconditioned, Shift, preconditioned
from scflow.matching.rerouting import Rerouted
from scflow.matching.staged import Staged

__all__ = [
    "Bare",
    "Displaced",
    "FlowMap",
    "FlowMatching",
    "Preconditioned",
    "Rerouted",
    "Shift",
    "Staged",
    "couplings",
    "distillation",
    "guidance",
    "noises",
    "paths",
    "preconditioned",
    "solvers",
    "times",
    "weights",
]
