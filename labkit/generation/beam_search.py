"""Beam search, recorded as a tree: the texts that were kept, and those that were dropped on the way.

At each step every kept text is continued by every token, and the `width` most probable of all these are kept (Graves 2012;
Sutskever et al. 2014). Their keys and values are shared: a step is one pass over one token of each.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from labkit import checks
from labkit.generation import decode, kept
from labkit.generation.branching import COLUMNS, Source
from labkit.generation.fast import described
from labkit.generation.pieces import text_of
from labkit.generation.record import FinishReason, Generation
from labkit.generation.tree import Tree
from labkit.models.hardware import ran_out_of_memory
from labkit.models.tokens import token_strings
from labkit.trace import running
from labkit.trace.input import Encoded, encode
from labkit.trace.lab_like import check_lab
from labkit.trace.past import Past, state_of

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike


@dataclass(eq=False)
class _Beam:
    """One text under way. steps: the columns of `decode.statistics` of each token.  past: of all but the last token."""

    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    steps: list[list[torch.Tensor]] = field(default_factory=list)
    past: Past | None = None
    finish: FinishReason = "stopped"

    def score(self, length_penalty: float) -> float:
        return float(self.logprob / len(self.ids) ** length_penalty)


def beams(
    lab: LabLike,
    prompt: object,
    width: int = 4,
    *,
    max_new_tokens: int = 32,
    length_penalty: float = 1.0,
    dropped: bool = False,
    alternatives: int = 20,
    chat: bool | None = None,
    template: Mapping[str, object] | None = None,
) -> Tree:
    """The most probable texts that beam search finds after a prompt, as a tree whose paths are called "beam 1", "beam 2", ...

    width: how many texts are kept at each step, and found.  dropped: also those that were given up on the way, as "dropped 1",
        ... in the order they were; their finish_reason is "stopped".
    length_penalty: texts are ranked by the sum of their log-probabilities divided by their number of tokens to this power: 0
        prefers short ones, 1 takes the mean.
    prompt, chat, template, max_new_tokens, alternatives: as for `lab.generate`. Nothing is drawn, so sampled_logprobs are 0.
    Raises BadInput, Unavailable, NotEnoughMemory as `lab.generate` does. What an interrupt leaves, the texts under way and those
    that have ended, is in `lab.last_generation`, a list.
    """
    check_lab(lab)
    width = checks.whole("width", width, 1)
    length_penalty = checks.number("length_penalty", length_penalty)
    checks.flag("dropped", dropped)
    how = decode.settings(max_new_tokens=max_new_tokens, alternatives=alternatives)
    given = encode(lab.tokenizer, prompt, chat=chat, template=template)
    with lab.turn():
        model = lab.model
        decode.check_prompt(model, given)
        room = running.room(model)
        most = how.max_new_tokens if room is None else min(how.max_new_tokens, room - len(given.ids))
        ends = decode.end_ids(model)
        began = time.perf_counter()
        live, done, gone = [_Beam()], list[_Beam](), list[_Beam]()
        first = 0.0

        def told() -> Tree | None:
            """The texts found so far, best first; None before the first token."""
            found = sorted([*done, *(beam for beam in live if beam.ids)], key=lambda beam: -beam.score(length_penalty))
            names = [(f"beam {i}", beam) for i, beam in enumerate(found[:width], 1)]
            if dropped:
                names += [(f"dropped {i}", beam) for i, beam in enumerate([*gone, *found[width:]], 1)]
            return _tree(lab, given, how, names, first, time.perf_counter() - began)

        try:
            for _ in range(most):
                grown = _grow(lab, given.ids, live, 2 * width, how.alternatives)
                first = first or time.perf_counter() - began
                next_live: list[_Beam] = []
                for rank, beam in enumerate(grown):
                    if beam.ids[-1] in ends:
                        if rank < width:
                            beam.finish = "end"
                            done.append(beam)
                    elif len(next_live) < width:
                        next_live.append(beam)
                going = {tuple(beam.ids[:-1]) for beam in [*next_live, *done]}
                gone += [beam for beam in live if beam.ids and tuple(beam.ids) not in going]
                live = next_live
                done.sort(key=lambda beam: -beam.score(length_penalty))
                gone += done[width:]
                del done[width:]
                if not live or (len(done) == width and live[0].score(length_penalty) <= done[-1].score(length_penalty)):
                    gone += live
                    live = []
                    break
        except BaseException as error:
            for beam in live:
                beam.finish = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            if (tree := told()) is not None:
                owner: Any = lab
                owner.last_generation = [tree[name] for name in tree]
            if ran_out_of_memory(error):
                raise decode.out_of_memory(max(len(beam.ids) for beam in [*live, *done]), len(live)) from error
            raise
        for beam in live:
            beam.finish = "length" if most == how.max_new_tokens else "context"
        tree = told()
    assert tree is not None
    return tree


def _tree(
    lab: LabLike, given: Encoded, how: decode.Decoding, names: list[tuple[str, _Beam]], first: float, seconds: float
) -> Tree | None:
    """Beams by their names as a tree; None of none. first, seconds: until the first token, and in all."""
    model = lab.model
    pasts = [beam.past for _, beam in names if beam.past is not None]
    left = kept.keep(pasts, model, "this model does not go on from keys and values that were kept")
    state = state_of(model)
    tree: Tree | None = None
    row = 0
    for name, beam in names:
        source = Source(weakref.ref(lab), how, state, left, row) if beam.past is not None else None
        row += beam.past is not None
        generation = Generation(
            text=text_of(lab.tokenizer, beam.ids[:-1] if beam.finish == "end" else beam.ids),
            ids=beam.ids,
            tokens=token_strings(lab.tokenizer, beam.ids),
            prompt_ids=given.ids,
            prompt_tokens=token_strings(lab.tokenizer, given.ids),
            top_tokens=[token_strings(lab.tokenizer, step[5].tolist()) for step in beam.steps],
            finish_reason="stopped" if name.startswith("dropped") else beam.finish,
            sampling=how.sampling,
            prefill_seconds=first,
            decode_seconds=seconds - first,
            model=lab.name,
            prompt=given.given,
            engine=described(model),
            source=source,
            **{name: torch.stack([step[i] for step in beam.steps]) for i, name in enumerate(COLUMNS, 1)},  # type: ignore[arg-type]
        )
        if tree is None:
            tree = Tree(generation, name)
        else:
            tree.add(generation, name)
    return tree


def _grow(lab: LabLike, prompt: list[int], live: list[_Beam], most: int, alternatives: int) -> list[_Beam]:
    """The most probable continuations of all texts by one token, the best first."""
    rows = [prompt + beam.ids for beam in live]
    own, pasts = _read(lab, rows, [beam.past for beam in live], len(prompt))
    totals = torch.tensor([beam.logprob for beam in live], dtype=torch.float64)[:, None] + own.double()
    best = totals.flatten().topk(min(most, totals.numel()))
    grown: list[_Beam] = []
    for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        row, id_ = divmod(place, own.shape[1])
        columns = decode.statistics(own[row : row + 1], None, torch.tensor([[id_]]), alternatives)
        step = [column[0, 0] for column in columns[:5]] + [column[0] for column in columns[5:]]
        beam = live[row]
        grown.append(_Beam([*beam.ids, id_], total, [*beam.steps, step], pasts[row]))
    return grown


def _read(
    lab: LabLike, rows: list[list[int]], pasts: list[Past | None], prompt: int
) -> tuple[torch.Tensor, list[Past | None]]:
    """(rows, vocabulary) log-probabilities of the next token, float32 on the CPU; and what was kept of each row.

    prompt: how many tokens of each row are the prompt's. Raises Unavailable where the model gives NaN.
    """
    found: dict[int, torch.Tensor] = {}
    left: dict[int, Past | None] = {}
    for group in running.generation_groups(lab.model, [len(row) for row in rows]):
        sharing = running.Sharing([pasts[i] for i in group], keep=True)
        scores = running.next_scores(lab.model, [rows[i] for i in group], sharing)
        if bool(scores.isnan().any()):
            raise decode.nan_error(len(rows[group[0]]) - prompt + 1)
        for place, i in enumerate(group):
            found[i] = scores[place].log_softmax(-1).cpu()
            left[i] = sharing.kept[place] if sharing.kept else None
    return torch.stack([found[i] for i in range(len(rows))]), [left[i] for i in range(len(rows))]
