"""The chat panel: turns with a model, and behind each reply its tokens, its branches and its trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import traitlets

from labkit.checks import SEEDS, fraction, number, whole
from labkit.errors import BadInput
from labkit.markup import clean, counted, shorten, visible
from labkit.views.base import View, module, style
from labkit.views.drawing.page import Page
from labkit.views.kit.job import Job, Run
from labkit.views.kit.traits import Change, Proposal, sent
from labkit.views.kit.wire import answers
from labkit.views.tokens_view.choosing import Choose
from labkit.views.tokens_view.payload import drawn
from labkit.views.tree_view.branches import Brancher, BranchTraits, Node, continued, parted_at

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation
    from labkit.trace.record import Trace
    from labkit.views.drawing.scene import Picture

HOTTEST = 2.0
COLDEST_TOP_P = 0.05  # the slider's lower end; Python takes less
_LINE_CHARACTERS = 2_000


@dataclass(frozen=True)
class _Asked:
    """What the model is given for a reply, as the settings were when it was asked for. turn: that the reply is drawn anew for,
    None for a new one."""

    messages: list[dict[str, str]]
    settings: dict[str, float | int | None]
    turn: int | None = None


@dataclass
class _Reply:
    """The texts of one reply, and which of them is part of the conversation."""

    nodes: list[Node]
    shown: int = 0


@dataclass
class _Turn:
    role: str
    text: str = ""
    reply: _Reply | None = field(default=None, repr=False)

    @property
    def said(self) -> str:
        return self.text if self.reply is None else self.reply.nodes[self.reply.shown].generation.text


class ChatView(View, BranchTraits):
    """A conversation. `say(text)` does what the page's field does, then `wait()`; `stop()` ends a reply, `again()` draws the
    last one anew, `clear()` begins another conversation.

    Set `system`, `temperature`, `top_p` and `seed` for what is said next. `chosen` is the turn whose tokens are on show.
    """

    _title = "A conversation, and what lies behind each reply"
    _esm = module("chat_view/chat.js")
    _css = style("tokens_view/tokens.css", "tree_view/tree.css", "chat_view/chat.css")
    _written_again = True

    limits = sent(hottest=HOTTEST, least_top_p=COLDEST_TOP_P)
    model_name = traitlets.Unicode("").tag(sync=True)
    can_trace = traitlets.Bool(False).tag(sync=True)
    system = traitlets.Unicode("").tag(sync=True)
    temperature = traitlets.Float(0.7).tag(sync=True)
    top_p = traitlets.Float(1.0).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    turns: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    """Of each turn: role ("user" or "assistant"), text, note (how a reply was drawn), texts (how many it has)."""
    chosen = traitlets.Int(-1).tag(sync=True)
    """The turn whose tokens are on show; -1 for none."""
    unsent = traitlets.Unicode("").tag(sync=True)
    """What was said, and got no reply: it goes back into the field."""
    talk = traitlets.Dict().tag(sync=True)
    """How the reply under way stands, as `Job` says it, with draft: its text so far."""
    tracing = traitlets.Dict().tag(sync=True)
    opened = traitlets.Unicode("").tag(sync=True)
    """The widget that shows the trace that was asked for, by its model's id."""

    def __init__(
        self,
        generate: Callable[..., Generation],
        *,
        system: str = "",
        temperature: float = 0.7,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int = 256,
        branch: Brancher | None = None,
        choose: Choose | None = None,
        trace: Callable[[Generation], View] | None = None,
        name: str = "",
        alternatives: int = 5,
    ) -> None:
        self._generate, self._trace = generate, trace
        self._max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
        self._said: list[_Turn] = []
        self._traces: list[View] = []
        self._grow_with(branch, alternatives=alternatives, prompt=False)
        self._choose_with(choose, lambda number: self._tree[number].generation)
        self._talking: Job[_Asked, Generation] = Job(
            self,
            self._write,
            self._written,
            status="talk",
            failed="No reply could be written:",
            give_up=self._take_back,
            facts=lambda asked: {"turn": asked.turn},
            keep_stopped=True,
        )
        self._opening: Job[int, View] = Job(
            self, self._take_trace, self._open, status="tracing", failed="The reply can't be traced:"
        )
        super().__init__(
            system=clean(system),
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            can_branch=branch is not None,
            can_trace=trace is not None,
            model_name=clean(shorten(name, 80)),
            facts={"n": 0, "k": 0, "headline": [], "drawn": "", "empty": "", "running": False, "prompt_tokens": 0},
        )
        for job in (self._talking, self._opening):
            job.clear()

    # what a user calls ------------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as the model is given it: {"role", "content"}, the system prompt first where there is one."""
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return [*system, *({"role": turn.role, "content": turn.said} for turn in self._said)]

    @property
    def replies(self) -> list[Generation]:
        """The replies that are part of the conversation, in their order."""
        return [turn.reply.nodes[turn.reply.shown].generation for turn in self._said if turn.reply is not None]

    @property
    def traces(self) -> list[View]:
        """The views of traces that were opened, the latest last."""
        return list(self._traces)

    def say(self, text: str) -> None:
        """Say something; the reply is written in a worker: `wait()` for it.

        Raises BadInput when there is nothing said, or a reply is still being written.
        """
        if not text.strip():
            raise BadInput("There is nothing to reply to; say something.")
        with self._lock:
            if self._talking.busy:
                raise BadInput("A reply is still being written; wait for it, or stop it.")
            self.unsent = ""
            self._said.append(_Turn("user", clean(text)))
            self._tell_turns()
            self._talking.ask(_Asked(self.messages, self._settings()))

    def again(self) -> None:
        """Draw the last reply anew with the settings as they are now, beside the one that is there."""
        with self._lock:
            if not self._said or self._said[-1].reply is None:
                raise BadInput("There is no reply yet; say something first.")
            if self._talking.busy:
                raise BadInput("A reply is still being written; wait for it, or stop it.")
            self._talking.ask(_Asked(self.messages[:-1], self._settings(), len(self._said) - 1))

    def stop(self) -> None:
        """Stop the reply or the branch that is being written; what there is of it so far is kept."""
        self._talking.stop()
        super().stop()

    def clear(self) -> None:
        """Begin another conversation, with the same system prompt."""
        with self._lock, self.hold_sync():
            self._talking.clear()
            self._growing.clear()
            self._said = []
            self.chosen, self.opened, self.unsent = -1, "", ""
            self._tell_turns()

    def trace(self, turn: int) -> None:
        """Open the trace of a reply, by the number of its turn, as the page does; `wait()` for it, then see `traces`."""
        self._reply_of(turn)
        if self._trace is None:
            raise BadInput("This view can't trace; give views.chat a lab.")
        self._opening.ask(turn)

    def close(self) -> None:
        for view in self._traces:
            view.close()
        super().close()

    def _job_ended(self, ended: Job[Any, Any]) -> None:
        """Nothing is put into the notebook by itself: that would draw anew what somebody is using. `wait()` does it."""

    # what the page asks -----------------------------------------------------------------------------------------------

    @answers
    def _answer_say(self, text: str) -> None:
        self.say(text)

    @answers
    def _answer_again(self) -> None:
        self.again()

    @answers
    def _answer_clear(self) -> None:
        self.clear()

    @answers
    def _answer_trace(self, turn: int) -> None:
        self.trace(turn)

    @traitlets.validate("temperature")
    def _valid_temperature(self, proposal: Proposal) -> float:
        return number("temperature", proposal["value"], 0, HOTTEST, wanted=f"one from 0 (greedy) to {HOTTEST:g}")

    @traitlets.validate("top_p")
    def _valid_top_p(self, proposal: Proposal) -> float:
        return fraction("top_p", proposal["value"], zero=False, wanted="a number above 0 and up to 1")

    @traitlets.validate("seed")
    def _valid_seed(self, proposal: Proposal) -> int:
        return whole("seed", proposal["value"], 0, SEEDS, wanted="a whole number from 0")

    # the work ---------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, float | int | None]:
        warm = self.temperature > 0
        return {
            "max_new_tokens": self._max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p if warm and self.top_p < 1 else None,
            "seed": self.seed if warm else None,
        }

    def _write(self, asked: _Asked, run: Run) -> Generation:
        """In the job's thread."""
        return self._generate(
            asked.messages,
            **asked.settings,
            on_token=lambda so_far: run.say(draft=clean(so_far.text)),
            stop_event=run.stop,
        )

    def _written(self, asked: _Asked, made: Generation) -> str:
        if asked.turn is None:
            self._said.append(_Turn("assistant", reply=_Reply([Node(made)])))
        elif (reply := self._said[asked.turn].reply) is not None:
            # drawn from the start; in the tree it hangs where it differs from the first
            reply.nodes.append(Node(made, 0, parted_at(reply.nodes[0].generation, made)))
            reply.shown = len(reply.nodes) - 1
        turn = len(self._said) - 1 if asked.turn is None else asked.turn
        if self.chosen == turn:
            self._take_up(turn)
        else:
            self.chosen = turn
        self._tell_turns()
        seconds = made.prefill_seconds + made.decode_seconds
        return f"{counted(len(made.ids), 'token')} in {seconds:.1f} s"

    def _take_back(self, asked: _Asked) -> None:
        """There is no reply: what was said goes back into the field."""
        if asked.turn is None and self._said and self._said[-1].role == "user":
            self.unsent = self._said.pop().text
            self._tell_turns()

    def _take_trace(self, turn: int, _run: Run) -> View:
        assert self._trace is not None
        reply = self._reply_of(turn)
        return self._trace(reply.nodes[reply.shown].generation)

    def _open(self, _turn: int, view: View) -> str:
        self._traces.append(view)
        self.opened = view.model_id or ""
        return "traced: see below"

    def _reply_of(self, turn: int) -> _Reply:
        reply = self._said[turn].reply if 0 <= turn < len(self._said) else None
        if reply is None:
            raise BadInput(f"Turn {turn} is no reply; replies are the turns of the model.")
        return reply

    # what is shown ----------------------------------------------------------------------------------------------------

    @traitlets.validate("chosen")
    def _valid_chosen(self, proposal: Proposal) -> int:
        if proposal["value"] >= 0:
            self._reply_of(proposal["value"])
        return int(proposal["value"])

    @traitlets.observe("chosen")
    def _on_chosen(self, change: Change) -> None:
        self._growing.clear()  # a branch of the reply that was on show
        if change["new"] < 0:
            self._plant([])
        else:
            self._take_up(change["new"])

    def _take_up(self, turn: int) -> None:
        reply = self._reply_of(turn)
        self._plant(reply.nodes, reply.shown)

    @traitlets.observe("shown")
    def _on_shown_reply(self, change: Change) -> None:
        """The text on show is the one that the conversation goes on from."""
        if self.chosen >= 0 and (reply := self._reply_of(self.chosen)).shown != change["new"]:
            reply.shown = change["new"]
            self._tell_turns()

    def _tell_turns(self) -> None:
        self.turns = [
            {
                "role": turn.role,
                "text": clean(turn.said),
                "note": _note(turn.reply),
                "texts": 0 if turn.reply is None else len(turn.reply.nodes),
            }
            for turn in self._said
        ]

    def _describe(self) -> str:
        return counted(len(self._said), "turn")

    def _static_text(self) -> str:
        return "\n".join(
            f"{message['role']}: {shorten(message['content'], _LINE_CHARACTERS)}" for message in self.messages
        )

    def _table(self) -> pd.DataFrame:
        """A row for each turn: role, text, how a reply was drawn, and how many texts it has."""
        import pandas as pd

        return pd.DataFrame(self.turns, columns=["role", "text", "note", "texts"])

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        if not self._said:
            page.note("Nothing was said yet.")
        for turn in self._said:
            page.note(f"{'You' if turn.role == 'user' else 'The model'}{_note(turn.reply, '; ')}")
            page.paragraph(visible(shorten(turn.said, _LINE_CHARACTERS)) or "(empty)")
        return page.picture()

    def _export_state(self) -> dict[str, Any]:
        """The conversation, and every text of the reply whose tokens are on show."""
        return {**super()._export_state(), **self._every_text()}


def _note(reply: _Reply | None, before: str = "") -> str:
    if reply is None:
        return ""
    made = reply.nodes[reply.shown].generation
    stopped = "" if made.finish_reason not in ("stopped", "interrupted") else ", stopped"
    return f"{before}{counted(len(made.ids), 'token')}{stopped}, {drawn(made.sampling)}"


class Talker(Protocol):
    """A Lab, or what has as much of one."""

    @property
    def name(self) -> str: ...

    def generate(self, prompt: list[dict[str, str]], **settings: Any) -> Generation:
        """Called in a worker with messages, max_new_tokens, temperature, top_p, seed, on_token and stop_event."""
        ...

    def trace(self, what: Generation, /) -> Trace: ...


def chat(
    lab: Talker,
    *,
    system: str = "",
    temperature: float = 0.7,
    top_p: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 256,
) -> ChatView:
    """Talk to a model, and look behind each of its replies: its tokens and their alternatives, branches, its trace.

    The reply comes as it is written and can be stopped. A click on an alternative lets it branch there, and the conversation
    goes on from the text that is on show. *Trace* opens the attention view of the whole conversation up to the reply's end.

    lab: a Lab, or anything with its generate, trace and name. system: the system prompt. temperature, top_p, seed: how
        replies are drawn; each can be moved while you talk. max_new_tokens: of a reply.
    Raises BadInput when a setting is out of range.
    """
    for name in ("generate", "trace"):
        if not callable(getattr(lab, name, None)):
            raise BadInput(f"views.chat talks with a lab, and a {type(lab).__name__} has no {name}; give the lab.")

    def trace(generation: Generation) -> View:
        from labkit.views.attention_view import attention

        return attention(lab.trace(generation))

    return ChatView(
        lab.generate,
        system=system,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        max_new_tokens=max_new_tokens,
        branch=continued,
        trace=trace,
        name=lab.name,
    )
