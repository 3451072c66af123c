"""Activation patching: which activation of a clean run, put into a corrupted one, brings the clean result back?

Meng et al. 2022 ("Locating and Editing Factual Associations in GPT", causal tracing), Wang et al. 2022
("Interpretability in the Wild", which names heads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import Unavailable
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace import running
from labkit.trace.capture import check_states, observing
from labkit.trace.edits import Change, Site, installed
from labkit.trace.instruments import BY_NAME, PATCHED, filled
from labkit.trace.lab_like import check_lab
from labkit.trace.pairs import Metric, check_metric, check_values, pair_ids, patched_value, positions_of, value_of
from labkit.trace.passes import TokenAxis

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy
    from labkit.trace.lab_like import LabLike

PLACES = PATCHED


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Result):
    """What each patch brings back.

    table: one row a run: layer, position, token, corrupted_token (with at="head": layer, head), value (of the metric) and
        effect, (value − corrupted) / (clean − corrupted): 0 is the corrupted result, 1 the clean one.
    at: what was patched.  clean, corrupted: the metric without patches.  model: its name.  runs: how many there were to be.
    interrupted: whether an interrupt ended it, so that the table holds the runs that were done.
    """

    at: str
    clean: float
    corrupted: float
    model: str
    runs: int
    interrupted: bool

    def _title(self) -> str:
        cut = f", interrupted after {len(self)} of {self.runs} runs" if self.interrupted else ""
        return f"Activation patching of {self.model} at {self.at!r}{cut}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {
            "corrupted": {"value": self.corrupted, "effect": 0.0},
            "clean": {"value": self.clean, "effect": 1.0},
        }


@dataclass(frozen=True)
class _Run:
    """One patched run. positions: which tokens come from the clean run; head: of which head, None for no heads."""

    layer: int
    head: int | None
    positions: tuple[int, ...]


def patching(
    lab: LabLike,
    clean: object,
    corrupted: object,
    metric: Metric,
    *,
    at: str = "residual",
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Patching:
    """Run the corrupted text with one activation at a time from the clean one, and measure what that brings back.

    clean, corrupted: two texts (token ids, messages, Generations) of equally many tokens.
    metric: is given the logits of one run, (T, vocabulary) float32, and returns a number; for instance
        `lambda logits: logits[-1, paris] - logits[-1, rome]`.
    at: "residual" (entering each layer, and leaving the last), "attention" or "mlp" (what a layer adds), "mlp_neurons" (all
        of a layer's) or "state" (of a recurrent layer, after a token), one run for each layer and position; "embedding", one
        run for each position, layer 0 in the table; or "head" (the head's output), one run for each layer and head. All
        there are: {patched}.
    positions: which tokens; all when None. With at="head", all of them are patched at once.
    batch_size: runs in one forward pass, two at least; by default about 512 tokens' worth on a CPU, 4,096 elsewhere.
    Returns a `Patching`: its table has one row a run, with layer, position, token, corrupted_token (with at="head": layer,
    head), value (of the metric) and effect, (value − corrupted) / (clean − corrupted): 0 is the corrupted result, 1 the
    clean one. An interrupt returns the runs that were done.
    Raises BadInput for texts of different lengths and for a metric that gives no number or the same one for both texts,
    Unavailable where the model does not have what is to be patched. An exception in the metric passes through.
    """
    check_lab(lab)
    at = checks.one_of("at", at, PLACES, problem="is nothing that can be patched")
    check_metric(metric)
    clean_ids, corrupted_ids = pair_ids(lab, clean, corrupted)
    n = len(clean_ids)
    where = positions_of(positions, n)
    most = None if batch_size is None else max(2, checks.whole("batch_size", batch_size, 1))
    with lab.turn():
        model, anatomy, name = lab.model, lab.anatomy, PLACES[at]
        if reason := anatomy.support.get(name):
            raise Unavailable(f"at={at!r} can't be patched in {lab.name}: {reason}.")
        if running.virtual_tokens(model):
            raise Unavailable(
                f"{lab.name} can't be patched: trained vectors stand before its texts (prompt tuning); patch the model without "
                "them: lk.Lab(model.get_base_model(), tokenizer)."
            )
        check_states(anatomy, (name,), (most or 8) * n, str(model.device), lab.name)
        # a clean and a corrupted row at least, where rows may share a pass
        size = running.copies(model, n, max(2, _at_most(anatomy, name, len(where))), most=most)
        base = _Baseline.take(model, anatomy, name, clean_ids, corrupted_ids, size, metric)
        runs = base.runs(at, where)
        values: dict[_Run, float] = {run: base.corrupted for run in runs if base.same(run)}
        interrupted = _measure(
            model, anatomy, base, [r for r in runs if r not in values], size, metric, values, progress
        )
    done = [run for run in runs if run in values]
    frame = _frame(
        done, values, base, token_strings(lab.tokenizer, clean_ids), token_strings(lab.tokenizer, corrupted_ids)
    )
    return Patching(frame, at, base.clean, base.corrupted, lab.name, len(runs), interrupted)


patching.__doc__ = filled(patching.__doc__)


@dataclass(frozen=True)
class _Baseline:
    """Both runs without a patch. activations: (2, T, d), or (2, heads, T, d_head), by layer; row 0 is the clean run."""

    name: str
    ids: list[int]
    activations: dict[int, torch.Tensor]
    clean: float
    corrupted: float

    @staticmethod
    def take(
        model: PreTrainedModel,
        anatomy: Anatomy,
        name: str,
        clean: list[int],
        corrupted: list[int],
        size: int,
        metric: Metric,
    ) -> _Baseline:
        # as many rows as the patched passes have: matrix products of another shape round differently
        passes = [[clean, *[corrupted] * (size - 1)]] if size > 1 else [[clean], [corrupted]]
        seen: dict[int, list[torch.Tensor]] = {}
        values: list[float] = []
        for rows in passes:
            with observing(model, anatomy, (name,)) as captured:
                logits = running.forward(model, rows).all_logits
            for layer, tensor in sorted(captured.layered.get(name, {}).items()):
                whole = tensor if name == "head_output" else tensor.reshape(len(rows), len(clean), -1)
                seen.setdefault(layer, []).extend(whole[:2])
            values += [value_of(metric, row) for row in logits[:2]]
        kept = {layer: torch.stack(both) for layer, both in seen.items()}
        check_values(*values)
        return _Baseline(name, corrupted, kept, *values)

    def runs(self, at: str, positions: list[int]) -> list[_Run]:
        if at == "head":
            return [
                _Run(i, h, tuple(positions)) for i, whole in self.activations.items() for h in range(whole.shape[1])
            ]
        return [_Run(i, None, (p,)) for i in self.activations for p in positions]

    def same(self, run: _Run) -> bool:
        """Whether clean and corrupted agree there bit for bit, as they do before the first token that differs."""
        clean, corrupted = self.part(0, run), self.part(1, run)
        return torch.equal(clean, corrupted)

    def part(self, row: int, run: _Run) -> torch.Tensor:
        whole = self.activations[run.layer][row]
        return (whole if run.head is None else whole[run.head])[list(run.positions)]


def _measure(
    model: PreTrainedModel,
    anatomy: Anatomy,
    base: _Baseline,
    todo: list[_Run],
    size: int,
    metric: Metric,
    values: dict[_Run, float],
    progress: bool,
) -> bool:
    """Do the runs, many in each pass, and write down their values. Returns whether an interrupt ended it."""
    with running.Progress(f"patching {base.name}", len(todo), "run", progress) as bar:
        for start in range(0, len(todo), size):
            runs = todo[start : start + size]
            with installed(model, anatomy, _patches(base, runs)):
                logits = running.forward(model, [base.ids] * size).all_logits
            for row, run in enumerate(runs):
                values[run] = patched_value(metric, logits[row])
                bar.advance()
    return bar.interrupted


def _patches(base: _Baseline, runs: Sequence[_Run]) -> list[Site]:
    """One change a layer, which patches each row that has its run there."""
    by_layer: dict[int, list[tuple[int, _Run]]] = {}
    for row, run in enumerate(runs):
        by_layer.setdefault(run.layer, []).append((row, run))

    def change_of(mine: list[tuple[int, _Run]]) -> Change:
        def change(whole: torch.Tensor, axis: TokenAxis) -> torch.Tensor | None:
            # all tokens are here, but of a state, which comes after one token at a time
            here = [(row, run, [p for p in run.positions if p in axis.columns]) for row, run in mine]
            if not any(positions for *_, positions in here):
                return None
            new = whole.clone(memory_format=torch.contiguous_format)
            for row, run, positions in here:
                target = new[row] if run.head is None else new[row, run.head]
                given = base.part(0, replace(run, positions=tuple(positions)))
                target[[axis.columns.index(p) for p in positions]] = given
            return new

        return change

    return [Site(base.name, layer, change_of(mine)) for layer, mine in by_layer.items()]


def _at_most(anatomy: Anatomy, name: str, positions: int) -> int:
    """How many runs there may be."""
    row = BY_NAME[name]
    if row.heads is None:
        return len(row.layers(anatomy)) * positions
    return sum(anatomy.layers[layer].heads or 1 for layer in row.layers(anatomy))


def _frame(
    runs: list[_Run], values: dict[_Run, float], base: _Baseline, tokens: list[str], corrupted_tokens: list[str]
) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, list[object]] = {"layer": [run.layer for run in runs]}
    if base.name == "head_output":
        columns["head"] = [run.head for run in runs]
    else:
        columns["position"] = [run.positions[0] for run in runs]
        columns["token"] = [tokens[run.positions[0]] for run in runs]
        columns["corrupted_token"] = [corrupted_tokens[run.positions[0]] for run in runs]
    columns["value"] = [values[run] for run in runs]
    columns["effect"] = [
        (values[run] - base.corrupted) / (base.clean - base.corrupted) + 0.0 for run in runs
    ]  # no -0.0
    return pd.DataFrame(columns)
