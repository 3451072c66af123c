"""Tunings that were run once, many of them with several seeds: a table that comes with labkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadModelFile
from labkit.models.shipped import ASSETS

if TYPE_CHECKING:
    import pandas as pd


def recorded(experiment: str | None = None) -> pd.DataFrame:
    """Runs of `labkit/recipes/lora.py`, a row for each experiment and run; what two experiments share stands in both.

    experiment: the rows of one, such as "rank", "neftune", "schedule" or "harder" (the same tuning of checkpoints of one small
        model); None for all. Not every run that the recipe lists has been made: the table has those that have.
    Settings: task, samples, method, rank, alpha, targets, learning_rate, schedule, neftune (NaN: none), steps, seed, model.
    right: the share of 50 held-out answers that are right (right_low, right_high: 95 %, Wilson 1927); right_untuned: of the
    model before; right_of_others, right_constant: what no skill gives, as in `exact_match`.  loss: of the last five steps;
    held_out, held_out_untuned: on held-out answers; kl, forgetting: as in a Run's history; all in nats a token.  measured_on:
    how many held-out answers these losses and kl are of; compare only runs with the same number there.
    Raises BadInput for an experiment that is not there, BadModelFile where the table can't be read.
    """
    import pandas as pd

    try:
        table = pd.read_csv(ASSETS / "labkit-lora" / "runs.csv")
    except (OSError, ValueError) as error:
        raise BadModelFile("runs.csv, which comes with labkit, can't be read; install labkit again.") from error
    if experiment is None:
        return table
    names = [str(name) for name in table["experiment"].unique()]
    checks.one_of("experiment", experiment, names)
    return table[table["experiment"] == experiment].reset_index(drop=True)
