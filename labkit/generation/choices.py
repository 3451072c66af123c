"""The choice at one step of a Generation: the model's own distribution, and what each filter made of it.

A Generation keeps the best few tokens of each step and not the whole vocabulary, so this is computed anew: from the keys
and values that its run left where they are there, else from one pass over the text before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.generation import decode
from labkit.generation.fast import described
from labkit.models.tokens import token_strings
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import check_lab
from labkit.trace.past import Past, state_of
from labkit.trace.probing import COARSEST, TOLERANCE

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation
    from labkit.trace.lab_like import LabLike

MODEL, FORM, GREEDY = "model", "form", "greedy"  # stages beside those of `decode.filters`


class Stage(NamedTuple):
    """What one stage made of the distribution that it was given.

    name: "model", "form", "repetition_penalty", "temperature", "top_k", "top_p", "min_p" or "greedy".
    logprobs: (vocabulary,) float32, nats, after it; minus infinity for what is cut.
    """

    name: str
    logprobs: torch.Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Choices(Result):
    """One step's distribution before and after each filter; `distribution` tells the columns of the table.

    step: its place among the generated tokens; the choice is that of token `step`.  id, token: what was taken there.
    stages: a DataFrame, a row for each stage in their order: stage, tokens (that are left after it), entropy (nats, after it),
        cut (the probability that it took away, of the distribution it was given), own_cut (the same tokens' probability in the
        model's own).
    reused: tokens whose keys and values were taken over to compute this.  note: where the numbers are not those of the run.
    """

    step: int
    id: int
    token: str
    stages: pd.DataFrame
    reused: int
    note: str = ""

    def _title(self) -> str:
        return f"The choice of token {self.step}, {self.token!r}"

    def _remarks(self) -> Sequence[str]:
        rows: list[str] = []
        for row in self.stages.to_dict("records"):
            if row["stage"] != MODEL:
                cut = f", {row['own_cut']:.2%} of the model's own probability cut" if row["own_cut"] else ""
                rows.append(f"{row['stage']}: {row['tokens']:,} token{'s' * (row['tokens'] != 1)} left{cut}")
        return [*rows, *([self.note] if self.note else [])]


def distribution(lab: LabLike, generation: Generation, step: int, k: int = 10) -> Choices:
    """The distribution that a Generation's token `step` was taken from, stage by stage.

    step: 0 to len(generation) − 1.  k: of how many of the most probable tokens, the model's own and after all filters.
    Returns a row for each of these tokens and the one taken, the model's most probable first: token, id, rank (0 is the most
    probable), logprob (the model's own, nats), a column for each stage that was on with the log-probability after it (form,
    repetition_penalty, temperature, top_k, top_p, min_p, greedy; minus infinity once it is cut), sampled_logprob (after all),
    cut_by (the stage that cut it, "" for none) and taken (bool).
    Raises BadInput for a step that is not there, Unavailable where the model now gives NaN. The caller does not need the lab's
    turn.
    """
    import pandas as pd

    check_lab(lab)
    if not generation.ids:
        raise BadInput("This Generation has no tokens, so nothing was chosen.")
    step = checks.index("step", step, len(generation.ids), of="this Generation has")
    k = checks.whole("k", k, 1)
    with lab.turn():
        logits, reused, note = _logits(lab, generation, step)
        stages = _stages(lab, generation, step, logits)
    own, last = stages[0].logprobs, stages[-1].logprobs
    count = min(k, len(own))
    taken = generation.ids[step]
    after = last.topk(count)
    wanted = {*own.topk(count).indices.tolist(), *after.indices[after.values > -torch.inf].tolist(), taken}
    ids = sorted(wanted, key=lambda id_: (-float(own[id_]), id_))
    columns: dict[str, object] = {
        "token": token_strings(lab.tokenizer, ids),
        "id": ids,
        "rank": [int((own > own[id_]).sum()) for id_ in ids],
        "logprob": own[ids].tolist(),
    }
    columns |= {stage.name: stage.logprobs[ids].tolist() for stage in stages[1:]}
    cuts = [next((s.name for s in stages[1:] if s.logprobs[id_] == -torch.inf), "") for id_ in ids]
    columns |= {"sampled_logprob": last[ids].tolist(), "cut_by": cuts, "taken": [id_ == taken for id_ in ids]}
    return Choices(
        pd.DataFrame(columns),
        step=step,
        id=taken,
        token=generation.tokens[step],
        stages=pd.DataFrame([_row(stages, i) for i in range(len(stages))]),
        reused=reused,
        note=note,
    )


def _row(stages: Sequence[Stage], number: int) -> dict[str, object]:
    stage = stages[number]
    left = stage.logprobs > -torch.inf
    before = stages[max(number - 1, 0)].logprobs
    gone = ~left & (before > -torch.inf)
    p = stage.logprobs[left]
    return {
        "stage": stage.name,
        "tokens": int(left.sum()),
        "entropy": float(-(p.exp() * p).sum()),
        "cut": float(before[gone].exp().sum()),
        "own_cut": float(stages[0].logprobs[gone].exp().sum()),
    }


def _stages(lab: LabLike, generation: Generation, step: int, logits: torch.Tensor) -> list[Stage]:
    """The distribution after each stage, from the model's scores, (vocabulary,)."""
    found = [Stage(MODEL, logits.log_softmax(-1))]
    scores = logits[None]
    before = generation.ids[:step]
    if generation.form is not None:
        from labkit.generation.forms import FormMasks

        masks = FormMasks(generation.form, lab.tokenizer, decode.end_ids(lab.model), 1)
        masks.follow(0, before)
        scores = scores.masked_fill(~masks.allowed(0, scores.shape[-1]), -torch.inf)
        found.append(Stage(FORM, scores[0].log_softmax(-1)))
    ids = cast("torch.LongTensor", torch.tensor([[*generation.prompt_ids, *before]]))
    for name, each in decode.filters(generation.sampling, [0]).items():
        scores = each(ids, cast("torch.FloatTensor", scores.clone()))
        found.append(Stage(name, scores[0].log_softmax(-1)))
    if generation.sampling.temperature == 0:
        only = torch.full_like(logits, -torch.inf)
        only[scores[0].argmax()] = 0.0
        found.append(Stage(GREEDY, only))
    return found


def _logits(lab: LabLike, generation: Generation, step: int) -> tuple[torch.Tensor, int, str]:
    """(vocabulary,) the model's scores for token `step`; how many tokens were not run for it; what is to be said of it."""
    model, source = lab.model, generation.source
    row = [*generation.prompt_ids, *generation.ids[:step]]
    past: Past | None = None
    if source is not None and source.lab() is lab and source.state.holds(state_of(model)):
        past = source.past(len(row) - 1)
    sharing = running.Sharing([past])
    scores = running.next_scores(model, [row], sharing)[0].cpu()
    if bool(scores.isnan().any()):
        raise decode.nan_error(step + 1)
    recorded, ids = generation.top_logprobs[step], generation.top_ids[step]
    now = scores.log_softmax(-1)
    tolerance = TOLERANCE.get(model.dtype, COARSEST)
    note = ""
    if not generation.engine.startswith("transformers"):
        note = f"{generation.engine} wrote this; the numbers are those of {described(model)}"
    elif int(ids.max()) >= len(now) or not torch.allclose(
        now[ids], recorded, rtol=0, atol=tolerance * max(1.0, float(recorded.abs().max()))
    ):
        note = "the model no longer computes what was recorded: the numbers are those of the model as it is now"
    return scores, sharing.reused[0] if sharing.reused else 0, note
