"""What a table of scores says, in a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scflow.metrics.rows import Row
from scflow.metrics.sides import EVERYTHING
from scflow.metrics.symptoms import READINGS, SYMPTOMS, UNSPOKEN, Reading
from scflow.metrics.words import figure, title

__all__ = ["Finding", "findings", "verdict"]

_SLIGHT = 0.1
"""Off the floor by less than this share of the trivial generator's distance (or of the floor), a figure is close."""
_SYMPTOMS, _FIGURES, _CONDITIONS = 5, 3, 3
"""The most that are told, so that the verdict is read."""


@dataclass(frozen=True)
class Finding:
    """One figure, judged.

    Attributes
    ----------
    row
        The figure.
    symptom
        What it shows, a key of `SYMPTOMS`; None where it is at the floor: the floor is in the value's interval, or the
        value is on the side that is no fault.
    severity
        How far off it is, in distances of the trivial generator from the floor (at least a tenth of the floor); 0 at
        the floor.
    slight
        Off by so little that it hardly matters.
    """

    row: Row
    symptom: str | None
    severity: float
    slight: bool


def verdict(rows: Sequence[Row]) -> str:
    """Say what a table of scores means; one sentence or symptom a line.

    The first line says how many figures are at the floor, the second whether the trivial generator is beaten. Then come
    symptoms with the figures that show them, the gravest first; figures that are close; and the worst conditions.

    Parameters
    ----------
    rows
        As :func:`scflow.metrics.judge` returns them.

    Returns
    -------
    str
        Of :func:`scflow.tl.verdict`, where what is meant by each sentence is told. Empty for no rows.
    """
    everything = findings([row for row in rows if row.condition == EVERYTHING])
    named = findings([row for row in rows if row.condition != EVERYTHING])
    lines = []
    if everything:
        lines += [_at_floor(everything), _against_trivial(everything), *_symptoms(everything), _close(everything)]
    return "\n".join(line for line in [*lines, _conditions(named)] if line)


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Each figure judged by :data:`scflow.metrics.symptoms.READINGS`; NaN and p-values are left out."""
    spoken = (row for row in rows if row.metric not in UNSPOKEN)
    return [_finding(row) for row in spoken if math.isfinite(row.value) and math.isfinite(row.floor)]


def _finding(row: Row) -> Finding:
    reading = READINGS.get(row.metric, Reading("other", "other"))
    deviation = row.value - row.floor
    severity = abs(deviation) / _scale(row) if deviation else 0.0
    slight = severity < _SLIGHT or abs(deviation) < reading.least
    symptom = reading.above if deviation > 0 else reading.below
    if symptom is None or (row.low <= row.floor <= row.high if _has_interval(row) else slight):
        return Finding(row, None, 0.0, False)
    return Finding(row, symptom, severity, slight)


def _has_interval(row: Row) -> bool:
    return math.isfinite(row.low) and math.isfinite(row.high)


def _scale(row: Row) -> float:
    """What a deviation is measured by: the trivial generator's, or a part of the floor where that has none."""
    trivial = abs(row.trivial - row.floor) if math.isfinite(row.trivial) else 0.0
    return max(trivial, _SLIGHT * abs(row.floor), 1e-9)


def _at_floor(found: Sequence[Finding]) -> str:
    good = [one for one in found if one.symptom is None]
    if len(good) == len(found):
        return f"All {len(found)} figures are at the floor: none of them tells these cells from real ones."
    if not good:
        return f"None of {len(found)} figures is at the floor, where other real cells are."
    what = ", ".join(title(one.row.metric) for one in good)
    are = "is" if len(good) == 1 else "are"
    return f"{len(good)} of {len(found)} figures {are} at the floor, where other real cells are: {what}."


def _against_trivial(found: Sequence[Finding]) -> str:
    """Only figures that the trivial generator fails count: it has the right depths, for one, by construction."""
    contest = [one for one in found if _trivial_fault(one.row) > 0]
    lost = [one.row for one in contest if one.severity * _scale(one.row) >= _trivial_fault(one.row)]
    if not contest:
        return ""
    who = "independent Poisson counts from each condition's mean profile"
    names = f"{', '.join(title(row.metric) for row in lost[:_FIGURES])}{_more(len(lost) - _FIGURES)}"
    if not lost:
        return f"It beats the trivial generator ({who}) in all {len(contest)} figures that this one fails."
    won = f"{len(contest) - len(lost)} of {len(contest)} figures that this one fails"
    if 2 * len(lost) < len(contest):
        return f"It beats the trivial generator ({who}) in {won}; not in {names}."
    return f"It does not beat the trivial generator ({who}): it is nearer to the floor in {won}; not in {names}."


def _trivial_fault(row: Row) -> float:
    """How far the trivial generator is off the floor, in the metric's units; 0 where that may be chance."""
    if not math.isfinite(row.trivial):
        return 0.0
    reading, deviation = READINGS.get(row.metric, Reading("other", "other")), row.trivial - row.floor
    faulty = reading.above if deviation > 0 else reading.below
    # The trivial generator's own interval is not known; it is about as wide.
    chance = (row.high - row.low) / 2 if _has_interval(row) else _SLIGHT * abs(row.floor) / 2
    return abs(deviation) if faulty is not None and abs(deviation) > max(chance, reading.least) else 0.0


def _symptoms(found: Sequence[Finding]) -> list[str]:
    """A line a symptom, with the figures that show it; the gravest first."""
    shown: dict[str, list[Finding]] = {name: [] for name in SYMPTOMS}
    for one in sorted(found, key=lambda one: -one.severity):
        if one.symptom is not None and not one.slight:
            shown[one.symptom].append(one)
    # By halves: of symptoms that are about as grave, the one that says most comes first.
    grave = sorted((name for name in shown if shown[name]), key=lambda name: -round(2 * shown[name][0].severity))
    lines = []
    for name in grave[:_SYMPTOMS]:
        symptom, rows = SYMPTOMS[name], [one.row for one in shown[name]]
        figures = ", ".join(map(_told, rows[:_FIGURES])) + _more(len(rows) - _FIGURES)
        look = f" See {symptom.look}." if symptom.look else ""
        lines.append(f"{symptom.meaning[0].upper()}{symptom.meaning[1:]}: {figures}.{look}")
    rest = grave[_SYMPTOMS:]
    if rest:
        lines.append(f"Also: {'; '.join(SYMPTOMS[name].meaning for name in rest)}.")
    return lines


def _told(row: Row) -> str:
    return f"{title(row.metric)} {figure(row.value)} (floor {figure(row.floor)})"


def _more(n: int) -> str:
    return f" and {n} more" if n > 0 else ""


def _close(found: Sequence[Finding]) -> str:
    close = [title(one.row.metric) for one in found if one.slight]
    return f"Close to the floor, but not at it: {', '.join(close)}." if close else ""


def _conditions(found: Sequence[Finding]) -> str:
    """The worst conditions by name, by the mean severity of their figures, each of which counts up to 1."""
    by_name: dict[str, list[Finding]] = {}
    for one in found:
        by_name.setdefault(one.row.condition, []).append(one)
    off = {name: [one for one in mine if one.symptom and not one.slight] for name, mine in by_name.items()}
    bad = {name: sum(min(one.severity, 1.0) for one in off[name]) / len(by_name[name]) for name in by_name if off[name]}
    if not bad:
        who = f"Each of {len(by_name)} conditions" if len(by_name) > 1 else "The one condition"
        return f"{who} is at the floor, or close to it." if by_name else ""
    told = []
    for name in sorted(bad, key=lambda name: -bad[name])[:_CONDITIONS]:
        worst = max(off[name], key=lambda one: one.severity).row
        told.append(f"{name} ({len(off[name])} of {len(by_name[name])} figures, most of all {_told(worst)})")
    share = f"{len(bad)} of {len(by_name)} conditions"
    return f"{share} are off the floor; the worst: {'; '.join(told)}." if len(bad) > 1 else f"Off the floor: {told[0]}."
