"""The field of a flow: from a name, a function or a network of the user's own to the network that is trained."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy import sparse
from torch import Tensor

from scflow import nn
from scflow.codecs import Codec, GeneStatistics, Quantile, Standardized, coexpression_order
from scflow.codecs.statistics import library_sizes
from scflow.errors import InputError, nearest

__all__ = ["Choice", "arranged", "built", "check_field", "chosen_field", "state_dim"]

Builder = Callable[..., torch.nn.Module]
Choice = str | torch.nn.Module | Builder


def chosen_field(field: object) -> tuple[Choice, dict[str, Any]]:
    """A field as a name of the table where it has one, and the settings that came with it.

    Raises
    ------
    InputError
        Where it is neither a name that is known, nor a network, nor a function.
    """
    if (isinstance(field, str) and field in nn.FIELDS) or isinstance(field, torch.nn.Module):
        return field, {}
    build, settings = field, dict[str, Any]()
    if isinstance(field, functools.partial) and not field.args:
        build, settings = field.func, dict(field.keywords)
    for name, kind in nn.FIELDS.items():
        if build is kind:
            return name, settings
    if callable(field):
        return field, {}
    raise InputError(
        f"field={field!r} is not known.{nearest(field, nn.FIELDS)} Choose one of {', '.join(map(repr, nn.FIELDS))}, or "
        "pass a torch.nn.Module with forward(x, t, condition), or a function that makes one, such as "
        "functools.partial(scflow.nn.Transformer, depth=6)."
    )


def built(field: Choice, settings: Mapping[str, Any], dim: int, cardinalities: Sequence[int]) -> torch.nn.Module:
    """The network for states of `dim` coordinates; one that is built already is copied, so that it stays as it is."""
    if isinstance(field, torch.nn.Module):
        return copy.deepcopy(field)
    build = nn.FIELDS[field] if isinstance(field, str) else field
    return build(dim, cardinalities=tuple(cardinalities), **settings)


def state_dim(space: str, shape: tuple[int, int], *, latent: int, components: int) -> int:
    """Coordinates of a state, before there is a codec: of counts ``[n_cells, n_genes]`` or of an embedding."""
    n_cells, width = shape
    if space == "embedding":
        return width
    genes = {"counts": min(latent, width), "pca": min(components, width, n_cells - 1)}.get(space, width)
    return genes + 1  # the library size


def arranged(
    network: torch.nn.Module, codec: Codec, counts: sparse.csr_matrix, statistics: GeneStatistics, *, seed: int
) -> torch.nn.Module:
    """The network, its patches in the genes' co-expression order where it has patches, and the states have genes.

    An order that it was given already stays.
    """
    if not isinstance(network, nn.Transformer) or network.is_arranged:
        return network
    if isinstance(codec, (Standardized, Quantile)):
        genes = Standardized.fit(statistics, library_sizes(counts))
        order = coexpression_order(counts, genes, patch=network.patch, seed=seed)
        network.arrange(torch.cat([order, torch.arange(len(order), codec.dim)]))
    return network


def check_field(field: Choice, settings: Mapping[str, Any], dim: int, cardinalities: Sequence[int]) -> None:
    """Try the field on two cells, before any work starts: the first under a condition, the second under none.

    Raises
    ------
    InputError
        Where it cannot be built or called, has no weights, or what comes back is no velocity of these cells.
    """
    if isinstance(field, str) and not settings:
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            network = built(field, settings, dim, cardinalities)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"field={_called(field)} cannot be built for {dim} coordinates: {_said(error)} It is called with the "
                f"number of coordinates and cardinalities={tuple(cardinalities)}, and has to return a torch.nn.Module."
            ) from error
        _check_network(network, field, dim, sum(max(1, -k) for k in cardinalities))


def _check_network(network: object, field: Choice, dim: int, n_conditions: int) -> None:
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"field={_called(field)} made a {type(network).__qualname__}; expected a torch.nn.Module.")
    if not any(p.requires_grad for p in network.parameters()):
        raise InputError(f"field={_called(field)} has no weights that could learn.")
    network, rng = network.cpu().eval(), torch.Generator().manual_seed(0)
    x, t = torch.randn(2, dim, generator=rng), torch.tensor([0.25, 0.75])
    condition = torch.tensor([[0.0], [torch.nan]]).expand(2, n_conditions) if n_conditions else None
    try:
        with torch.no_grad():
            out = network(x, t, condition)
    except Exception as error:
        given = "None" if condition is None else f"[2, {n_conditions}] (NaN is none)"
        raise InputError(
            f"field={_called(field)} cannot be called as field(x, t, condition) with x [2, {dim}], t [2] and condition "
            f"{given}: {_said(error)}"
        ) from error
    if not isinstance(out, Tensor) or out.shape != x.shape or not out.is_floating_point():
        found = f"{out.dtype} {list(out.shape)}" if isinstance(out, Tensor) else type(out).__qualname__
        raise InputError(
            f"field={_called(field)} gave {found} for x [2, {dim}]; expected a velocity of the same shape, [2, {dim}]."
        )
    if not out.isfinite().all():
        raise InputError(
            f"field={_called(field)} gave {int((~out.isfinite()).sum())} of {out.numel()} numbers that are not finite. "
            "A condition of NaN stands for none: torch.nan_to_num(condition) is the least that has to be done."
        )


def _called(field: Choice) -> str:
    if isinstance(field, torch.nn.Module):
        return type(field).__qualname__
    inner = getattr(field, "func", field)
    return repr(field) if isinstance(field, str) else str(getattr(inner, "__qualname__", type(inner).__qualname__))


def _said(error: Exception) -> str:
    """An error's own words, as one sentence."""
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}."
