"""Texts that branch off one another: what is kept of each, and the traits a page draws them from."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import traitlets

from labkit.checks import whole
from labkit.errors import BadInput
from labkit.markup import clean, counted, one_line, shorten
from labkit.trace.past import in_common
from labkit.views.kit.errors import Refused
from labkit.views.kit.job import Job, Run
from labkit.views.kit.running_text import pieces
from labkit.views.kit.traits import Change, Proposal
from labkit.views.kit.wire import answers
from labkit.views.tokens_view import TokenTraits
from labkit.views.tokens_view.choosing import ChoiceTraits
from labkit.views.tokens_view.payload import payload

if TYPE_CHECKING:
    from labkit.generation.record import Generation
    from labkit.generation.tree import Tree
    from labkit.views.base import View

NAME_CHARACTERS = 60
_PAYLOAD_BYTES = ("block", "forbidden", "allowed")


class Branched(NamedTuple):
    """A text that branched off: the whole of it. reused: tokens whose keys and values were there already, None where that is
    not known; saved_seconds: about what reading them takes; note: why none were there."""

    generation: Generation
    reused: int | None = None
    saved_seconds: float | None = None
    note: str = ""


class Brancher(Protocol):
    """Called in a worker: the text that goes on from a generation's first `at` tokens with another one, given by its id or its
    text. on_token takes the whole text so far; stop_event asks it to return what it has."""

    def __call__(
        self,
        generation: Generation,
        at: int,
        token: int | str,
        /,
        *,
        on_token: Callable[[Generation], None],
        stop_event: threading.Event,
    ) -> Branched: ...


def continued(
    generation: Generation,
    at: int,
    token: int | str,
    /,
    *,
    on_token: Callable[[Generation], None],
    stop_event: threading.Event,
) -> Branched:
    """`Generation.branch` as a Brancher: the lab that wrote the text goes on with it."""
    return _branched(generation, generation.branch(at, token, on_token=on_token, stop_event=stop_event))


def _branched(generation: Generation, made: Generation) -> Branched:
    """What the cache saved is what its tokens take at the pace at which the prompt of the text that was left was read."""
    if made.reuse is None:
        return Branched(made)
    reused, prompt = made.reuse.tokens, len(generation.prompt_ids)
    read_anew = generation.branched_at is None and generation.reuse is None
    pace = generation.prefill_seconds / prompt if read_anew and prompt else None
    return Branched(made, reused, None if pace is None else pace * reused, made.reuse.note)


def nodes_of(tree: Tree) -> list[Node]:
    """The paths of a Tree. One that left no other hangs at the earlier one with which it begins for longest."""
    parents = dict(zip(tree.table["name"], tree.table["parent"], strict=True))
    nodes: list[Node] = []
    names = tree.names
    for i, name in enumerate(names):
        run = tree[name]
        if i == 0:
            nodes.append(Node(run, name=name))
            continue
        shared = [parted_at(node.generation, run) for node in nodes]
        left = parents[name]
        parent = names.index(left) if left in names[:i] else shared.index(max(shared))
        reused, note = (None, "") if run.reuse is None else (run.reuse.tokens, run.reuse.note)
        nodes.append(Node(run, parent, shared[parent], name, reused, note=note))
    return nodes


def branching_in(tree: Tree, names: dict[int, str]) -> Brancher:
    """A Brancher that keeps what it writes in the tree, too. names: of the paths, by the `id` of their Generations."""

    def branch(
        generation: Generation,
        at: int,
        token: int | str,
        /,
        *,
        on_token: Callable[[Generation], None],
        stop_event: threading.Event,
    ) -> Branched:
        made = tree.branch(at, token, of=names[id(generation)], on_token=on_token, stop_event=stop_event)
        names[id(made)] = tree.names[-1]
        return _branched(generation, made)

    return branch


def parted_at(one: Generation, other: Generation) -> int:
    """The first token in which two texts differ; where one goes on as the other, that behind its end."""
    return in_common(one.ids, other.ids)


@dataclass
class Node:
    """One text of the tree. parent: the number of the one it branched off, -1 for the first; at: the first token in which
    they differ."""

    generation: Generation
    parent: int = -1
    at: int = 0
    name: str = ""
    reused: int | None = None
    saved_seconds: float | None = None
    note: str = ""

    def saving(self) -> str:
        """What the shared cache saved, in words."""
        if not self.reused:
            return f"nothing was taken from the cache: {self.note}" if self.note else ""
        seconds = self.saved_seconds
        spared = "" if seconds is None else f", which saved about {1000 * seconds:,.0f} ms"
        return f"{counted(self.reused, 'token')} taken from the cache{spared}"


class BranchTraits(TokenTraits, ChoiceTraits):
    """A tree of texts, one of them on show. `nodes` says how they hang together; the traits of `TokenTraits` hold the one on
    show, and an exported file all of them."""

    can_branch = traitlets.Bool(False).tag(sync=True)
    nodes: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """Of each text: parent, at, name, token (the first that differs), instead (its parent's), pieces (of the text, token by
    token), ended, saved."""
    shown = traitlets.Int(0).tag(sync=True)
    compared = traitlets.Int(-1).tag(sync=True)
    """The text beside the one on show; -1 for none."""
    held = traitlets.Int(-1).tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    """As `Job` says it, with parent and at of the branch under way."""

    def _grow_with(self, branch: Brancher | None, *, alternatives: int, prompt: bool) -> None:
        """To be called in `__init__`, before anything may be refused."""
        self._branch, self._alternatives, self._prompt = branch, alternatives, prompt
        self._tree: list[Node] = []
        self._growing: Job[tuple[int, int, int | str], Branched] = Job(
            self._view,
            self._go,
            self._grown,
            status="status",
            failed="The text can't branch there:",
            facts=lambda asked: {"parent": asked[0], "at": asked[1]},
            give_up=lambda _asked: self._draw(self.shown),
            keep_stopped=True,
        )
        self._growing.clear()

    @property
    def _view(self) -> View:
        return cast("View", self)

    def _plant(self, nodes: list[Node], shown: int = 0) -> None:
        """Show another tree."""
        with self._view.hold_sync():
            self._tree = []  # nothing is drawn of the old one, and nothing checked against it
            self.choices, self.compared, self.held, self.shown = {}, -1, -1, 0
            self._tree = nodes
            self.shown = shown
            self._tell()
            self._draw(shown)

    # what a user calls ------------------------------------------------------------------------------------------------

    @property
    def generations(self) -> list[Generation]:
        """The texts, in the order in which they were made; the first is the one that all others branched off."""
        return [node.generation for node in self._tree]

    def branch(self, at: int, token: int | str, *, of: int | None = None) -> None:
        """Let a text branch at a token, as a click on an alternative does; `wait()` for it.

        at: the token that is to be another, from 0. token: the other one's id or text.
        of: the number of the text, by default the one on show.
        Raises BadInput when there is no such text or place, the token is the one that stands there, or this view can't write.
        """
        if self._branch is None:
            raise BadInput(
                "This view can't write: it was made without a way to go on; make one with lk.views.tree(gen)."
            )
        number = self.shown if of is None else whole("of", of, 0, len(self._tree) - 1)
        run = self._tree[number].generation
        if not run.ids:
            raise BadInput("The text has no token at which it could branch.")
        at = whole("at", at, 0, len(run.ids) - 1, wanted=f"the number of a token, 0 to {len(run.ids) - 1}")
        self._growing.ask((number, at, _id_of(run, at, token)))

    def rename(self, number: int, name: str) -> None:
        """Give a text a name; "" takes it away. Raises BadInput when there is no such text."""
        whole("number", number, 0, len(self._tree) - 1)
        self._tree[number].name = clean(one_line(name, NAME_CHARACTERS))
        self._tell()

    def stop(self) -> None:
        """Stop the branch that is being written; what there is of it so far is kept."""
        self._growing.stop()

    @property
    def tree(self) -> Tree:
        """The texts as a Tree, which can be compared, saved and opened again."""
        from labkit.generation.tree import Tree

        names = self._names()
        tree = Tree(self._tree[0].generation, names[0])
        for node, name in zip(self._tree[1:], names[1:], strict=True):
            tree.add(node.generation, name, parent=names[node.parent])
        return tree

    def _names(self) -> list[str]:
        """A name for each text, no two alike."""
        names: list[str] = []
        for i, node in enumerate(self._tree):
            name = node.name or ("text" if i == 0 else f"branch {i}")
            numbered = (f"{name} ({number})" for number in itertools.count(i))
            names.append(next(one for one in itertools.chain([name], numbered) if one not in names))
        return names

    def save(self, path: str | Path) -> Path:
        """Write the tree as JSON, which `lk.generation.Tree.load` opens. Returns the path."""
        self.tree.save(path)
        return Path(path)

    # what the page asks -----------------------------------------------------------------------------------------------

    @answers
    def _answer_branch(self, of: int, at: int, token: int) -> None:
        self.branch(at, token, of=of)

    @answers
    def _answer_rename(self, number: int, name: str) -> None:
        self.rename(number, name)

    @answers
    def _answer_stop(self) -> None:
        self.stop()

    @answers
    def _answer_saved(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            return clean(self.save(Path(folder) / "tree.json").read_text("utf-8", "surrogatepass"))

    # the work ---------------------------------------------------------------------------------------------------------

    def _go(self, asked: tuple[int, int, int | str], run: Run) -> Branched:
        number, at, token = asked
        assert self._branch is not None

        def draw(so_far: Generation) -> None:
            if self.shown == number:  # somebody who has walked on looks at another text
                self._draw_text(so_far, running=True)

        return self._branch(
            self._tree[number].generation,
            at,
            token,
            on_token=lambda so_far: run.say("writing the branch …", draw=lambda: draw(so_far)),
            stop_event=run.stop,
        )

    def _grown(self, asked: tuple[int, int, int | str], made: Branched) -> str:
        number, at, _token = asked
        node = Node(made.generation, number, at, reused=made.reused, saved_seconds=made.saved_seconds, note=made.note)
        self._tree.append(node)
        self._tell()
        before, self.shown = self.shown, len(self._tree) - 1
        if before == self.shown:  # nothing changed that would draw it
            self._draw(self.shown)
        return f"branched at token {at}"

    # what is shown ----------------------------------------------------------------------------------------------------

    @traitlets.validate("shown", "compared")
    def _valid_number(self, proposal: Proposal) -> int:
        least = 0 if proposal["trait"].name == "shown" else -1
        if not least <= proposal["value"] < max(1, len(self._tree)):
            raise Refused(f"There is no text {proposal['value']}: there are {len(self._tree)}, from 0.")
        return int(proposal["value"])

    @traitlets.observe("shown")
    def _on_shown(self, change: Change) -> None:
        if self._tree:
            self._draw(change["new"])

    def _draw(self, number: int) -> None:
        if self._tree:
            self._draw_text(self._tree[number].generation, running=False)
            self._tell_choosing(self._tree[number].generation)

    def _draw_text(self, generation: Generation, *, running: bool) -> None:
        state = payload(generation, alternatives=self._alternatives, prompt=self._prompt, running=running)
        with self._view.hold_sync():
            for name, value in state.items():
                setattr(self, name, value)
            self.version += 1

    def _tell(self) -> None:
        self.nodes = [self._sent(node) for node in self._tree]

    def _sent(self, node: Node) -> dict[str, object]:
        run, at = node.generation, node.at
        parent = self._tree[node.parent].generation if node.parent >= 0 else None
        return {
            "parent": node.parent,
            "at": at,
            "name": node.name,
            "token": clean(shorten(run.tokens[at], 60)) if parent is not None and at < len(run.tokens) else "",
            "instead": clean(shorten(parent.tokens[at], 60)) if parent is not None and at < len(parent.tokens) else "",
            "pieces": [clean(piece.text) for piece in pieces(run.tokens, run.text)],
            "ended": run.finish_reason not in ("running", "stopped", "interrupted"),
            "saved": node.saving(),
        }

    def _every_text(self) -> Mapping[str, object]:
        """What a file has of all texts, beside the traits of the one on show."""
        found: dict[str, object] = {}
        texts = []
        for i, node in enumerate(self._tree):
            state = payload(node.generation, alternatives=self._alternatives, prompt=self._prompt, running=False)
            found |= {f"{name}:{i}": state.pop(name) for name in _PAYLOAD_BYTES}
            texts.append(state)
        return {**found, "texts": texts}


def _id_of(run: Generation, at: int, token: int | str) -> int | str:
    """The id of a token that is given by it, or by the text of an alternative; any other text is the model's to know."""
    if isinstance(token, str):
        kept = zip(run.top_tokens[at], run.top_ids[at].tolist(), strict=True)
        token = next((int(id_) for text, id_ in kept if text == token), token)
    else:
        token = whole("token", token, 0)
    if token in (int(run.ids[at]), run.tokens[at]):
        raise BadInput(f"Token {at} of the text is {run.tokens[at]!r} already; branch with another.")
    return token
