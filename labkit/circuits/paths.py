"""Path patching: what one part does to another directly, with nothing between them changed.

Wang et al. 2022 (IOI), Goldowsky-Dill et al. 2023 ("Localizing Model Behavior with Path Patching").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labkit import checks
from labkit.circuits.contrasts import contrasts_of
from labkit.circuits.edges import Edges, Receiver, check_edges
from labkit.circuits.study import Study
from labkit.errors import BadInput
from labkit.results import Result
from labkit.trace import running
from labkit.trace.lab_like import LabLike, check_lab
from labkit.trace.pairs import Metric
from labkit.trace.past import state_of


@dataclass(frozen=True, eq=False, repr=False)
class PathPatching(Result):
    """What senders do to receivers directly.

    table: a row a path: sender, receiver, via ("q", "k", "v", or ""), effect: as in `lk.patching`, what of the way from the
        corrupted to the clean metric comes back when the receiver alone reads the sender's clean output.
    clean, corrupted: the metric's mean over the pairs.  pairs: how many.  model: its name.
    """

    clean: float
    corrupted: float
    pairs: int
    model: str

    def _title(self) -> str:
        return f"Path patching of {self.model}, {len(self)} path{'s' * (len(self) != 1)}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"corrupted": {"effect": 0.0}, "clean": {"effect": 1.0}}


def path_patching(
    lab: LabLike,
    pairs: object,
    metric: Metric | Sequence[Metric],
    senders: Sequence[str] | str,
    receivers: Sequence[str] | str = "output",
    *,
    progress: bool = True,
) -> PathPatching:
    """Let one receiver read one sender's clean output, in a run over the corrupted text, and measure what that brings back.

    pairs, metric: as in `find`.
    senders: names as in a circuit's graph, "head 0.1", "mlp 3", "input".
    receivers: "head 1.2" (its queries, its keys, its values: a row each), "head 1.2 (k)" for one of them, "mlp 3", "output".
    A path is direct: through the residual stream from one to the other, and through nothing between them; what the receiver
    then does goes on as it will. With receivers="output" it is a part's direct effect on the logits.
    Returns a `PathPatching`, strongest first. A run has one or two rows.
    Raises BadInput for a name that is not there and a sender that does not come before a receiver; else as `find`.
    """
    check_lab(lab)
    contrasts = contrasts_of(lab, pairs, metric)
    wanted = [_names("senders", senders), _names("receivers", receivers)]
    with lab.turn():
        check_edges(lab)
        state = state_of(lab.model)
        edges = Edges.of(lab.model, lab.anatomy, contrasts[0], None)
        paths = _paths(edges, *wanted)
        study = Study(lab, tuple(contrasts), edges, state)
        with running.Progress("patching paths", len(paths) * len(contrasts), "run", progress) as bar:
            values, span = study.values("corrupted", [np.array([number]) for _, _, number in paths], bar)
        if bar.interrupted:
            raise KeyboardInterrupt
    import pandas as pd

    frame = pd.DataFrame(
        {
            "sender": [edges.senders[sender].id for sender, _, _ in paths],
            "receiver": [receiver.id for _, receiver, _ in paths],
            "via": [receiver.via for _, receiver, _ in paths],
            "effect": span.share(values),
        }
    )
    frame = frame.sort_values("effect", key=abs, ascending=False, kind="stable", ignore_index=True)
    return PathPatching(frame, float(span.clean.mean()), float(span.corrupted.mean()), len(contrasts), lab.name)


def _names(name: str, value: object) -> list[str]:
    given = [value] if isinstance(value, str) else checks.series(name, value, 'a list of names such as "head 0.1"')
    if not given:
        raise BadInput(f'{name} is empty; give names such as "head 0.1".')
    return [str(one) for one in given]


def _paths(edges: Edges, senders: Sequence[str], receivers: Sequence[str]) -> list[tuple[int, Receiver, int]]:
    """(sender's number, receiver, edge's number) of all paths asked for."""
    known = {sender.id: number for number, sender in enumerate(edges.senders)}
    reading: dict[str, list[Receiver]] = {}
    for receiver in edges.receivers:
        reading.setdefault(receiver.id, []).append(receiver)
        if receiver.via:
            reading.setdefault(f"{receiver.id} ({receiver.via})", []).append(receiver)
    for names, there, what in ((senders, known, "sender"), (receivers, reading, "receiver")):
        for name in names:
            if name not in there:
                example = next(reversed(there))
                raise BadInput(
                    f"There is no {what} {name!r}{checks.near(name, there)}; they are named like {example!r}."
                )
    found = []
    for sender in dict.fromkeys(senders):
        for receiver in dict.fromkeys(one for name in receivers for one in reading[name]):
            if known[sender] >= receiver.senders:
                raise BadInput(
                    f"{sender} does not write before {receiver.id} reads; give a receiver behind its sender."
                )
            found.append((known[sender], receiver, receiver.start + known[sender]))
    return found
