"""A field of a whole course, seen from one interval of it."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Staged"]


class Staged(nn.Module):
    r"""A field of all times as one of the times from 0 to 1 within an interval: :math:`v = h\, f(x, T + h t)`.

    A course is learnt interval by interval, and each looks like a flow from a source to a target. The first column of
    the condition says where the interval lies; the field is not told.

    Parameters
    ----------
    field
        ``field(x, t, condition) -> velocity`` at the times of the whole course.
    length
        Of an interval, h.

    Examples
    --------
    >>> from scflow.nn import MLP
    >>> field = Staged(MLP(2), length=0.25)
    >>> field(torch.zeros(3, 2), torch.rand(3, generator=rng), torch.full((3, 1), 0.5)).shape
    torch.Size([3, 2])
    """

    def __init__(self, field: nn.Module, length: float) -> None:
        super().__init__()
        self.field, self.length = field, length

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The velocity in a unit of the interval, at states ``[n, dim]`` and times ``[n]``; `condition` ``[n, 1]``."""
        velocity: Tensor = self.field(x, condition[:, 0] + self.length * t, None)
        return self.length * velocity
