"""The names of all slots that scflow writes: said once, here."""

from __future__ import annotations

from dataclasses import dataclass

from scflow.errors import InputError

__all__ = [
    "AUGMENT",
    "COUNTS",
    "DROPOUT",
    "EMBED",
    "FLOW",
    "GROWTH",
    "LOG_PROB",
    "LOG_PROB_SE",
    "MEAN",
    "NOISE",
    "PAIR",
    "POSITION",
    "PP",
    "SCORE",
    "SD",
    "STANDARDIZED",
    "STATE",
    "STEPS",
    "SYNTHETIC",
    "Slots",
    "slots",
]


@dataclass(frozen=True)
class Slots:
    """The slots of one `key_added`.

    Attributes
    ----------
    flow
        `.uns`: the flow. On new cells it holds their provenance; `.layers`: cells carried by a flow.
    mean, sd, dropout
        `.var`: mean and standard deviation of log1p of normalised counts, and fraction of zero counts.
    pp
        `.uns`: the settings of the preprocessing.
    standardized
        `.layers`: standardised expression, dense, only where asked for.
    state, noise
        `.obsm`: the state that the flow drew, and the noise it started from; of a real cell, the state that the flow
        sees of it, and the noise that it comes from.
    log_prob, log_prob_se
        `.obs`: log-density of the state, and its standard error where that was estimated; `.uns` of the first: how.
    position, pair
        `.obs`: where a cell is on a way from one cell or condition to another, and which way that is.
    score
        `.uns`: the table of scores.
    steps
        `.uns`: the table of scores by the number of evaluations.
    synthetic
        `.obs`: whether a cell was drawn from a flow.
    source
        `.obsm`: the state that a carried cell started from.
    transport
        `.uns`: what carried cells, and how.
    velocity
        `.obsm`: the velocity of the state, from the source to the target.
    cell, time
        `.obs`, of cells at several times: the cell's name, and when it is there.
    growth
        `.obs`: how many descendants a cell has, relative to the mean of its time point.
    embed
        `.uns`: what labels are made of, by column of `.obs`.
    augment
        `.uns`: what the synthetic cells among real ones were drawn from, and how.
    """

    flow: str
    mean: str
    sd: str
    dropout: str
    pp: str
    standardized: str
    state: str
    noise: str
    log_prob: str
    log_prob_se: str
    position: str
    pair: str
    score: str
    steps: str
    synthetic: str
    source: str
    transport: str
    velocity: str
    cell: str
    time: str
    growth: str
    embed: str
    augment: str


def slots(key_added: str = "scflow") -> Slots:
    """The slots' names with `key_added` in the place of `"scflow"`.

    Raises
    ------
    InputError
        Where it cannot be part of a name: a "/" opens a group in an h5ad file.

    Examples
    --------
    >>> slots("b_cells").mean
    'b_cells_mean'
    >>> slots().state
    'X_scflow'
    """
    if not isinstance(key_added, str) or not key_added.strip() or "/" in key_added or "\0" in key_added:
        raise InputError(
            f"key_added={key_added!r} cannot be part of the slots' names. Give a word without '/', such as "
            "key_added='scflow'."
        )
    return Slots(
        flow=key_added,
        mean=f"{key_added}_mean",
        sd=f"{key_added}_sd",
        dropout=f"{key_added}_dropout",
        pp=f"{key_added}_pp",
        standardized=f"{key_added}_standardized",
        state=f"X_{key_added}",
        noise=f"X_{key_added}_noise",
        log_prob=f"{key_added}_log_prob",
        log_prob_se=f"{key_added}_log_prob_se",
        position=f"{key_added}_position",
        pair=f"{key_added}_pair",
        score=f"{key_added}_score",
        steps=f"{key_added}_steps",
        synthetic=f"{key_added}_synthetic",
        source=f"X_{key_added}_source",
        transport=f"{key_added}_transport",
        velocity=f"velocity_{key_added}",
        cell=f"{key_added}_cell",
        time=f"{key_added}_time",
        growth=f"{key_added}_growth",
        embed=f"{key_added}_embed",
        augment=f"{key_added}_augment",
    )


COUNTS = "counts"
FLOW = slots().flow
MEAN = slots().mean
SD = slots().sd
DROPOUT = slots().dropout
PP = slots().pp
STANDARDIZED = slots().standardized
STATE = slots().state
NOISE = slots().noise
LOG_PROB = slots().log_prob
LOG_PROB_SE = slots().log_prob_se
POSITION = slots().position
PAIR = slots().pair
SCORE = slots().score
STEPS = slots().steps
SYNTHETIC = slots().synthetic
GROWTH = slots().growth
EMBED = slots().embed
AUGMENT = slots().augment
