"""Choices by name: one table a family, and an error that lists it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from scflow.errors import InputError, nearest
from scflow.matching import couplings, distillation, noises, paths, solvers, times, weights

__all__ = ["COUPLINGS", "DISTILLATIONS", "NOISES", "PATHS", "SOLVERS", "TIMES", "WEIGHTS", "chosen", "named"]

T = TypeVar("T")

PATHS: dict[str, type[paths.Affine]] = {
    "linear": paths.Linear,
    "variance_preserving": paths.VariancePreserving,
    "variance_preserving_linear": paths.VariancePreservingLinear,
}
TIMES: dict[str, type[times.Time]] = {
    "uniform": times.Uniform,
    "stratified": times.Stratified,
    "importance": times.Importance,
    "logit_normal": times.LogitNormal,
    "u_shaped": times.UShaped,
}
WEIGHTS: dict[str, type[weights.Weight]] = {
    "uniform": weights.Uniform,
    "inverse_snr": weights.InverseSNR,
    "min_snr": weights.MinSNR,
    "endpoint": weights.Endpoint,
    "endpoint_noise": weights.EndpointNoise,
}
COUPLINGS: dict[str, type[couplings.Coupling]] = {
    "independent": couplings.Independent,
    "optimal": couplings.Optimal,
}
NOISES: dict[str, type[noises.Noise]] = {
    "gaussian": noises.Gaussian,
    "matched_variance": noises.MatchedVariance,
    "sparse": noises.Sparse,
    "dropout": noises.Dropout,
    "dropout_by_condition": noises.DropoutByCondition,
    "population": noises.Population,
}
DISTILLATIONS: dict[str, type[distillation.Distillation]] = {
    "lagrangian": distillation.Lagrangian,
    "trajectory": distillation.Trajectory,
}
SOLVERS: dict[str, type[solvers.Solver]] = {
    "euler": solvers.Euler,
    "midpoint": solvers.Midpoint,
    "heun": solvers.Heun,
    "rk4": solvers.RK4,
    "adams": solvers.Adams,
    "jump": solvers.Jump,
    "dopri5": solvers.Dopri5,
}


def chosen(choice: object, table: Mapping[str, type[T]], base: type[Any], parameter: str) -> T:
    """The object that a name stands for, or the object itself where it is one of the family.

    Raises
    ------
    InputError
        For anything else; the message lists the names there are.
    """
    if isinstance(choice, base):
        noun: T = choice
        return noun
    if isinstance(choice, str) and choice in table:
        return table[choice]()
    raise InputError(
        f"{parameter}={choice!r} is not known.{nearest(choice, table)} "
        f"Choose one of {', '.join(map(repr, table))}, or pass a {base.__module__}.{base.__name__} of your own."
    )


def named(noun: object, table: Mapping[str, type[Any]]) -> dict[str, Any]:
    """A noun as JSON: its name in the table and its settings."""
    for name, kind in table.items():
        if type(noun) is kind:
            settings = {f.name: getattr(noun, f.name) for f in fields(noun)} if is_dataclass(noun) else {}
            return {"name": name, **settings}
    return {"name": type(noun).__qualname__}
