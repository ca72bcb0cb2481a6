"""What a stored flow says of itself, held against what it has, before memory is taken or anything is believed.

A file may come from anybody. Its sizes are compared with those of its tensors before a network is built, and its
numbers and names with what drawing cells takes for granted. Everything here raises an error that says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scflow.conditions import Categorical, Conditions
from scflow.errors import InputError, listed
from scflow.flow._course import Course
from scflow.flow._growth import Growth
from scflow.matching.names import SOLVERS

__all__ = [
    "arrays_of",
    "check_facts",
    "check_field",
    "check_growth",
    "check_noise",
    "check_raw",
    "check_seen",
    "check_steps",
    "fitted",
    "texts",
    "unit_interval",
]

M = TypeVar("M", bound=nn.Module)
Arrays = dict[str, NDArray[Any]]

_MOST_STEPS = 10_000
"""Of a solver, that a flow may ask for by itself."""
_VALUES = 1 << 39
_DEEPEST = 4
_MAY_BE_NAN = ("seen", "history.", "growth.unit", "growth.mean", "noise.groups")


def arrays_of(tensors: Any) -> Arrays:
    """The tensors as arrays of numbers; NaN only where it stands for something."""
    if not isinstance(tensors, Mapping):
        raise InputError(f"the tensors are a {type(tensors).__name__}; expected arrays by name.")
    arrays = {str(name): np.asarray(tensor) for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise InputError(f"tensor {name!r} is of type {array.dtype}; expected numbers.")
        bad = 0 if name.startswith(_MAY_BE_NAN) else array.size - int(np.isfinite(array).sum())
        if bad:
            raise InputError(f"{bad} of {array.size} values of tensor {name!r} are not finite.")
    return arrays


def fitted(build: Callable[[], M], state: Mapping[str, Tensor], what: str) -> M:
    """The module that `build` makes, with this state. It is made without memory first, and its sizes compared."""
    with torch.device("meta"):
        planned = build().state_dict()
    wrong = [*(planned.keys() - state.keys()), *(state.keys() - planned.keys())]
    if wrong:
        raise InputError(
            f"of the {what}, {len(planned.keys() - state.keys())} of {len(planned)} tensors are missing and "
            f"{len(state.keys() - planned.keys())} are not known ({listed(sorted(wrong))})."
        )
    # A number by itself comes out of a file as a list of one.
    held = {n: t.reshape(()) if t.shape == (1,) and planned[n].ndim == 0 else t for n, t in state.items()}
    for name, tensor in planned.items():
        _check_like(held[name], tensor, f"{what}.{name}")
    module = build()
    module.load_state_dict(held)
    return module


def _check_like(found: Tensor, expected: Tensor, name: str) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise InputError(f"tensor {name!r} is {_of(found)}, and the configuration would make it {_of(expected)}.")


def _of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_field(settings: Mapping[str, Any], n_tensors: int) -> None:
    """Layers are counted before any is made: each has tensors of its own."""
    for name, value in settings.items():
        layers = len(value) if isinstance(value, (list, tuple)) else value if name in ("depth", "levels") else 0
        if layers is not None and not 0 <= int(layers) <= n_tensors:
            raise InputError(f"the field's {name} is {_short(value)}, with {n_tensors} tensors.")


def check_steps(tensors: Mapping[str, Tensor], name: str) -> None:
    """Step functions, each with a step at least, whose values ascend to a share of 1."""
    start, value, share = (tensors[f"{name}.{part}"] for part in ("start", "value", "cumulative"))
    if start.ndim != 1 or value.ndim != 1 or value.shape != share.shape or start.is_floating_point():
        raise InputError(f"the steps {name!r} are {_of(start)}, {_of(value)} and {_of(share)}.")
    if len(start) < 2 or start[0] != 0 or start[-1] != len(value) or bool((start.diff() < 1).any()):
        raise InputError(f"the steps {name!r} do not divide their {len(value)} values among {len(start) - 1} rows.")
    begins = torch.zeros(len(value), dtype=torch.bool)
    begins[start[:-1]] = True
    rising = (value.diff() > 0) & (share.diff() >= 0)
    if not bool((rising | begins[1:]).all()) or bool((value.abs() >= _VALUES).any()):
        raise InputError(f"the values of the steps {name!r} do not ascend.")
    if not bool(((share >= 0) & (share <= 1 + 1e-9)).all()):
        raise InputError(f"the steps {name!r} are no shares.")


def check_seen(seen: Tensor, conditions: Conditions) -> None:
    """Conditions of training cells: codes of categories, and numbers."""
    width = sum(conditions.widths)
    if seen.ndim != 2 or seen.dtype != torch.float32 or seen.shape[1] != width or (width and not len(seen)):
        raise InputError(f"'seen' is {_of(seen)}; expected float32 [cells, {width}].")
    if bool(seen.isinf().any()):
        raise InputError("'seen' has infinite values.")
    begin = 0
    for column in conditions.columns:
        code = seen[:, begin]
        known = code.isnan() | ((code >= 0) & (code < column.cardinality) & (code == code.floor()))
        if isinstance(column, Categorical) and not bool(known.all()):
            raise InputError(
                f"'seen' has codes that are none of the {column.cardinality} categories of {column.name!r}."
            )
        begin += column.width


def check_noise(tensors: Mapping[str, Tensor], dim: int, n_conditions: int) -> None:
    """Tensors of the noise have a number for each coordinate."""
    widths = {"scale": dim, "rate": dim, "rates": dim, "groups": n_conditions}
    for name, tensor in tensors.items():
        known = name in widths and tensor.ndim == (2 if name in ("rates", "groups") else 1)
        if not known or tensor.shape[-1] != widths[name] or tensor.dtype != torch.float32:
            raise InputError(
                f"tensor 'noise.{name}' is {_of(tensor)}; expected {widths.get(name, 'none')} coordinates."
            )


def check_raw(raw: Mapping[str, Tensor] | None, field: nn.Module) -> None:
    """Raw weights are those of the field."""
    known = field.state_dict()
    for name, tensor in (raw or {}).items():
        if name not in known:
            raise InputError(f"tensor 'raw.{name}' is none of the field's.")
        _check_like(tensor, known[name], f"raw.{name}")


def check_growth(growth: Growth, dim: int) -> None:
    """Later cells of plans that there are."""
    n, plans = len(growth.states), len(growth.unit)
    shapes = {
        "centre": (dim,),
        "axes": (dim, dim),
        "states": (n, dim),
        "scaling": (n,),
        "plan": (n,),
        "unit": (plans,),
        "mean": (plans,),
        "epsilon": (),
        "power": (),
    }
    for name, tensor in growth.tensors().items():
        if tuple(tensor.shape) not in (shapes[name], shapes[name] or (1,)) or tensor.is_floating_point() == (
            name == "plan"
        ):
            raise InputError(f"tensor 'growth.{name}' is {_of(tensor)}; expected {list(shapes[name])}.")
    if n and not bool(((growth.plan >= 0) & (growth.plan < plans)).all()):
        raise InputError(f"'growth.plan' names others than the {plans} plans.")


def check_facts(facts: Any) -> dict[str, Any]:
    """A provenance, as far as anything depends on it."""
    if not isinstance(facts, Mapping):
        raise InputError(f"the provenance is a {type(facts).__name__}.")
    _check_plain(facts, "provenance")
    _numbers(facts, ("target_sum", "lr", "clip", "linear_loss", "n_cells", "batch_size", "steps", "teacher_steps"))
    if "draw_solver" in facts:
        if facts["draw_solver"] not in SOLVERS:
            raise InputError(
                f"the solver is {_short(facts['draw_solver'])}; expected one of {listed(SOLVERS, most=9)}."
            )
        if not _is_whole(facts["draw_steps"]) or not 1 <= facts["draw_steps"] <= _MOST_STEPS:
            raise InputError(f"draw_steps is {_short(facts['draw_steps'])}; expected 1 to {_MOST_STEPS:,}.")
    if "made_by" in facts:
        told = facts["made_by"], facts["pairs"], facts["made_with_guidance"], facts["draw_solver"]
        if told[0] not in ("reflow", "distill") or not _is_whole(told[1]):
            raise InputError(f"the flow was made by {_short(told[0])} from {_short(told[1])} pairs.")
    for name in ("use_rep", "layer", "space", "key_added"):
        if not isinstance(facts.get(name, ""), (str, type(None))):
            raise InputError(f"{name} is {_short(facts[name])}; expected a text.")
    _check_course(facts)
    return dict(facts)


def _check_plain(value: Any, name: str, depth: int = 0) -> None:
    """Raise where a value is not what :attr:`Flow.provenance` is said to hold, and `.uns` can."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        for key, one in value.items():
            _check_plain(one, texts([key], "provenance")[0], depth + 1)
        return
    several = value if isinstance(value, (list, tuple)) else [value]
    kinds = {str if isinstance(one, str) else float if isinstance(one, (int, float)) else type(one) for one in several}
    whole = all(abs(one) < 2**63 for one in several if _is_whole(one))
    if not (kinds <= {str} or kinds <= {float} or value is None) or not whole:
        raise InputError(f"{_short(name)} of the provenance is {_short(value)}; expected texts or numbers.")
    texts([one for one in several if isinstance(one, str)], "provenance")


def _check_course(facts: Mapping[str, Any]) -> None:
    course = Course.of(facts)
    if course is not None and (len(course.times) < 2 or not bool((np.diff(course.times) > 0).all())):
        raise InputError(f"the course has the times {_short(course.times)}; expected two or more that rise.")
    if course is not None and not all(map(math.isfinite, course.times)):
        raise InputError("the course has times that are not finite.")


def _numbers(facts: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        value = facts.get(name)
        if value is None or (name == "clip" and value == math.inf):
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{name} is {_short(value)}; expected a number.")
    if facts.get("target_sum") is not None and not facts["target_sum"] > 0:
        raise InputError(f"target_sum is {facts['target_sum']}; expected a number above 0.")


def texts(values: Any, what: str) -> tuple[str, ...]:
    """A list of texts, each of which a file can hold."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise InputError(f"the {what} are no list of names.")
    for value in values:
        value.encode()  # which raises for half of a surrogate pair
    return tuple(values)


def unit_interval(value: Any, what: str, *, least: float = 0.0, most: float = 1.0) -> None:
    """Raise where a setting is no number of a range."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    if not good:
        raise InputError(f"{what} is {_short(value)}; expected a number from {least:g} to {most:g}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A value of a stranger's, in a message that stays one."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a number of more than 18 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
