"""Branches of one prompt as a tree: tokens that several texts begin with are held once, texts are its paths.

    tree = gen.tree()
    tree.branch(at=8, token=" green", name="green")
    tree.compare("text", "green"), tree.table, tree.save("sky.json")

The tree holds what the Generations recorded and makes a Generation of a path when it is asked for one. A path also knows
where keys and values are that begin as it does, so that a branch takes them over from any path.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.generation.branching import Source, branch
from labkit.generation.record import Alternative, Generation, Reuse, Sampling
from labkit.markup import counted, html_table, one_line

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.decode import Decoding, OnToken
    from labkit.trace.lab_like import LabLike

FORMAT, VERSION = "labkit tree", 1
SAME = 1e-4  # nats: numbers of one model that differ by less are of one run but for rounding
FACTS = (  # fields of a Generation that are a path's own
    *("text", "finish_reason", "sampling", "prefill_seconds", "decode_seconds", "model", "engine", "speculation"),
    *("form", "form_complete", "branched_at", "reuse"),
)
HOW = ("max_new_tokens", "stop", "alternatives")  # settings that are not among them
ROOT = -1  # the parent of the first tokens: the prompt


@dataclass(frozen=True)
class Node:
    """One token of a tree, as the path that brought it recorded it.

    index: its place in `tree.nodes`.  parent: that of the token before, −1 for the first.  step: tokens before it.
    logprob, sampled_logprob, entropy, rank, forbidden: as in a Generation, at its step.
    top: what the model held most probable there, best first; allowed: which of them a form let through.
    """

    index: int
    parent: int
    step: int
    id: int
    token: str
    logprob: float
    sampled_logprob: float
    entropy: float
    rank: int
    forbidden: float | None
    top: tuple[Alternative, ...] = field(repr=False)
    allowed: tuple[bool, ...] | None = field(default=None, repr=False)


@dataclass
class _Leaf:
    """Where a path ends, and what belongs to it alone."""

    end: int  # the node of its last token
    parent: str  # the path it left
    facts: dict[str, Any]  # fields of its Generation that are not of single tokens
    how: dict[str, Any]  # settings that a branch takes over
    source: Source | None = None


@dataclass(frozen=True)
class Savings:
    """What branches took over instead of running it again.

    branches: of how many.  tokens: whose keys and values were taken over.
    seconds: what fresh prefills would have taken more than the branches' first passes did. The latter were measured; the
        former are computed: the first path's measured prefill, in proportion to the tokens. None where it was not measured.
    """

    branches: int
    tokens: int
    seconds: float | None


@dataclass(frozen=True)
class Comparison:
    """Two paths of a tree. at: the step at which they part; the number of tokens of the shorter one where it is all shared.

    shared: the text before.  first, second: the token that each has there, None for one that ended; with its log-probability
    (nats) and rank in the model's distribution at that step. rest: the text of each from there on, and rest_logprobs the sum
    of its tokens' log-probabilities.  `lk.generation.first_difference` of the two has the margins.
    """

    names: tuple[str, str]
    at: int
    shared: str
    first: Node | None
    second: Node | None
    rest: tuple[str, str]
    rest_logprobs: tuple[float, float]

    def __str__(self) -> str:
        lines = [f"{counted(self.at, 'token')} shared: {one_line(self.shared, 60)!r}"]
        width = max(map(len, self.names))
        for name, node, rest, total in zip(
            self.names, (self.first, self.second), self.rest, self.rest_logprobs, strict=True
        ):
            chosen = "ended" if node is None else f"{node.token!r} logprob {node.logprob:.3f}, rank {node.rank}"
            lines.append(f"{name:<{width}}  {chosen}; from there on {total:.2f} nats: {one_line(rest, 60)!r}")
        return "\n".join(lines)

    __repr__ = __str__


class Tree:
    """Texts that a model wrote after one prompt, with what they begin with held once.

    nodes: a Node for each token.  names: of the paths, the first the one that the tree was made of.
    tree[name]: the path's Generation, as it was.  len(tree): the number of paths.
    """

    def __init__(self, generation: Generation, name: str = "text") -> None:
        self.nodes: list[Node] = []
        self.prompt = generation.prompt
        self.prompt_ids = list(generation.prompt_ids)
        self.prompt_tokens = list(generation.prompt_tokens)
        self.lab: LabLike | None = None
        self._leaves: dict[str, _Leaf] = {}
        self._children: dict[int, list[int]] = {ROOT: []}
        self.add(generation, name)

    # paths ----------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list(self._leaves)

    @property
    def paths(self) -> dict[str, list[Node]]:
        """The tokens of each path, from the first to the last."""
        return {name: self._path(leaf.end) for name, leaf in self._leaves.items()}

    def __len__(self) -> int:
        return len(self._leaves)

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __contains__(self, name: object) -> bool:
        return name in self._leaves

    def __getitem__(self, name: str) -> Generation:
        """The Generation of a path."""
        leaf = self._leaf(name)
        path = self._path(leaf.end)
        k = min(len(node.top) for node in path)
        columns: dict[str, Any] = {
            "logprobs": torch.tensor([node.logprob for node in path]),
            "sampled_logprobs": torch.tensor([node.sampled_logprob for node in path]),
            "entropies": torch.tensor([node.entropy for node in path]),
            "ranks": torch.tensor([node.rank for node in path], dtype=torch.int64),
            "top_ids": torch.tensor([[one.id for one in node.top[:k]] for node in path], dtype=torch.int64),
            "top_logprobs": torch.tensor([[one.logprob for one in node.top[:k]] for node in path]),
        }
        if leaf.facts["form"] is not None:
            columns["forbidden"] = torch.tensor([node.forbidden for node in path])
            columns["top_allowed"] = torch.tensor([(node.allowed or ())[:k] for node in path])
        return Generation(
            ids=[node.id for node in path],
            tokens=[node.token for node in path],
            prompt=self.prompt,
            prompt_ids=self.prompt_ids,
            prompt_tokens=self.prompt_tokens,
            top_tokens=[[one.token for one in node.top[:k]] for node in path],
            source=leaf.source,
            **columns,
            **leaf.facts,
        )

    def add(self, generation: Generation, name: str | None = None, *, parent: str = "") -> str:
        """Take in another text of the same prompt; returns its name. parent: the path that it left.

        Tokens are shared with the paths that begin with the same ones, where their numbers are the same too: what another
        model wrote, or the same one with an edit on, stands apart from its first token on.
        Raises BadInput for a Generation of another prompt, one without tokens, and a name that is taken.
        """
        if generation.prompt_ids != self.prompt_ids:
            raise BadInput(
                "This Generation answers another prompt, and a tree has one; make a tree of it: generation.tree()."
            )
        if not generation.ids:
            raise BadInput("This Generation has no tokens, so there is nothing to branch from.")
        name = self._free_name() if name is None else self._new_name(name)
        at, shared = ROOT, 0
        fresh = _nodes_of(generation)
        for node in fresh:
            same = next((c for c in self._children[at] if _is_same(self.nodes[c], node)), None)
            if same is None:
                break
            at, shared = same, shared + 1
        for node in fresh[shared:]:
            index = len(self.nodes)
            self.nodes.append(replace(node, index=index, parent=at))
            self._children[at].append(index)
            self._children[index] = []
            at = index
        facts = {fact: getattr(generation, fact) for fact in FACTS}
        source = generation.source
        how = {} if source is None else {setting: getattr(source.how, setting) for setting in HOW}
        self._leaves[name] = _Leaf(at, parent, facts, how, source)
        return name

    def branch(
        self,
        at: int,
        token: int | str,
        *,
        of: str | None = None,
        name: str | None = None,
        on_token: OnToken | None = None,
        **settings: Any,
    ) -> Generation:
        """Branch a path, as `Generation.branch` does, and keep the new one in the tree; returns its Generation.

        of: the path that is left; the first one when None.  name: of the new path; "a", "b", ... when None.
        What another path kept serves as well, as far as the two begin alike. A tree that was opened from a file needs a lab
        (`tree.lab = lab`, or `Tree.load(path, lab=lab)`); its first branch runs what stays once more.
        """
        of = self.names[0] if of is None else of
        leaf = self._leaf(of)
        name = self._free_name() if name is None else self._new_name(name)
        parent = replace(self[of], source=self._source(leaf, at))
        if parent.source is None:  # opened from a file, and its beginning run by no branch yet
            settings = leaf.how | settings
        made = branch(parent, at, token, lab=self.lab, on_token=on_token, **settings)
        self.add(made, name, parent=of)
        return made

    def _source(self, leaf: _Leaf, at: object) -> Source | None:
        """Where most is kept of what a path begins with: by its own run, or by one that begins alike."""
        wanted = len(self.prompt_ids) + (checks.as_whole(at) or 0)
        path = self._path(leaf.end)
        lab = self.lab if self.lab is not None else leaf.source.lab() if leaf.source is not None else None
        best = leaf.source
        for other in self._leaves.values():
            source = other.source
            if source is None or source.lab() is not lab:
                continue
            pairs = zip(path, self._path(other.end), strict=False)
            shared = len(self.prompt_ids) + sum(a.index == b.index for a, b in pairs)  # once parted, they never meet
            found = replace(source, how=self._how(source, leaf), tokens=min(shared, source.kept_tokens(wanted)))
            if best is None or found.kept_tokens(wanted) > best.kept_tokens(wanted):
                best = found
        return best

    def _how(self, source: Source, leaf: _Leaf) -> Decoding:
        """The settings of a path, in those of another's run."""
        if leaf.source is not None:
            return leaf.source.how
        return replace(source.how, sampling=leaf.facts["sampling"], form=leaf.facts["form"], **leaf.how)

    def rename(self, old: str, new: str) -> None:
        """Give a path another name."""
        self._leaf(old)
        if old != new:
            self._new_name(new)
            self._leaves = {new if name == old else name: leaf for name, leaf in self._leaves.items()}
            for leaf in self._leaves.values():
                leaf.parent = new if leaf.parent == old else leaf.parent

    # walking --------------------------------------------------------------------------------------------------------

    def children(self, node: int = ROOT) -> list[Node]:
        """The tokens that follow a node (its index; the prompt by default), the oldest first."""
        if node not in self._children:
            checks.index("node", node, len(self.nodes), of="this tree has", negative=False)
        return [self.nodes[child] for child in self._children[node]]

    def walk(self) -> Iterator[Node]:
        """Every token, each before those that follow it, one branch after the other."""
        waiting = [child.index for child in reversed(self.children())]
        while waiting:
            index = waiting.pop()
            yield self.nodes[index]
            waiting += reversed(self._children[index])

    def through(self, node: int) -> list[str]:
        """The names of the paths that go through a node."""
        return [name for name, path in self.paths.items() if any(each.index == node for each in path)]

    # looking --------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """A row a path: name, parent (the path it left), at and token (where, with what), text, tokens, finish_reason, logprob
        (the sum over its tokens, nats, the model's own), mean_logprob, perplexity, own_tokens (that no path before it had),
        reused (tokens whose keys and values were taken over) and seconds (that its own run took)."""
        import pandas as pd

        rows, seen = [], set[int]()
        for name, leaf in self._leaves.items():
            path = self._path(leaf.end)
            total = math.fsum(node.logprob for node in path)
            at = leaf.facts["branched_at"]
            reuse: Reuse | None = leaf.facts["reuse"]
            new = {node.index for node in path} - seen
            seen |= new
            rows.append(
                {
                    "name": name,
                    "parent": leaf.parent,
                    "at": at,
                    "token": None if at is None else path[at].token,
                    "text": leaf.facts["text"],
                    "tokens": len(path),
                    "finish_reason": leaf.facts["finish_reason"],
                    "logprob": total,
                    "mean_logprob": total / len(path),
                    "perplexity": math.exp(-total / len(path)),
                    "own_tokens": len(new),
                    "reused": 0 if reuse is None else reuse.tokens,
                    "seconds": leaf.facts["prefill_seconds"] + leaf.facts["decode_seconds"],
                }
            )
        return pd.DataFrame(rows).astype({"at": "Int64"})

    @property
    def saved(self) -> Savings:
        """What branches took over instead of running it again."""
        branches = [leaf for leaf in self._leaves.values() if leaf.facts["branched_at"] is not None]
        tokens = sum(leaf.facts["reuse"].tokens for leaf in branches)
        first = next(iter(self._leaves.values())).facts
        if first["reuse"] is not None or first["prefill_seconds"] <= 0:
            return Savings(len(branches), tokens, None)
        each = first["prefill_seconds"] / len(self.prompt_ids)
        seconds = 0.0
        for leaf in branches:
            if leaf.facts["reuse"].tokens:
                fresh = each * (len(self.prompt_ids) + leaf.facts["branched_at"] + 1)
                seconds += fresh - leaf.facts["prefill_seconds"]
        return Savings(len(branches), tokens, seconds)

    def compare(self, first: str, second: str) -> Comparison:
        """Where two paths part, and how probable each was there and from there on."""
        a, b = (self._path(self._leaf(name).end) for name in (first, second))
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.id != y.id), min(len(a), len(b)))
        return Comparison(
            (first, second),
            at,
            "".join(node.token for node in a[:at]),
            a[at] if at < len(a) else None,
            b[at] if at < len(b) else None,
            ("".join(node.token for node in a[at:]), "".join(node.token for node in b[at:])),
            (math.fsum(node.logprob for node in a[at:]), math.fsum(node.logprob for node in b[at:])),
        )

    def __repr__(self) -> str:
        whole = sum(len(path) for path in self.paths.values())
        head = f"Tree of {counted(len(self), 'path')}: {counted(len(self.nodes), 'token')} held for {whole:,}"
        width = max(map(len, self._leaves))
        return "\n".join([head, *(f"  {name:<{width}}  {where}{text}" for name, where, text in self._lines(70))])

    def _repr_html_(self) -> str:
        rows = [(name, where, text) for name, where, text in self._lines(200)]
        return html_table(rows, caption=repr(self).splitlines()[0], head=("path", "leaves", "text"))

    def _lines(self, characters: int) -> list[tuple[str, str, str]]:
        found = []
        for name, leaf in self._leaves.items():
            at = leaf.facts["branched_at"]
            path = self._path(leaf.end)
            where = "" if at is None else f"{leaf.parent or '?'} at {at}: "
            text = "".join(node.token for node in path[at or 0 :])
            found.append((name, where, one_line(text, characters)))
        return found

    # on disk --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tree as JSON: tokens, numbers and settings, without weights, keys or values."""
        leaves = {}
        for name, leaf in self._leaves.items():
            facts = dict(leaf.facts) | {"sampling": asdict(leaf.facts["sampling"])}
            facts["reuse"] = None if facts["reuse"] is None else asdict(facts["reuse"])
            form = facts["form"]
            facts["form"] = None if form is None else {"kind": form.kind, "grammar": form.grammar}
            facts["speculation"] = None  # of the run, and not of the tree
            leaves[name] = {"end": leaf.end, "parent": leaf.parent, "facts": facts, "how": leaf.how}
        nodes = [_row(node) for node in self.nodes]
        whole = {
            "format": FORMAT,
            "version": VERSION,
            "prompt": self.prompt,
            "prompt_ids": self.prompt_ids,
            "prompt_tokens": self.prompt_tokens,
            "nodes": nodes,
            "paths": leaves,
        }
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_text(json.dumps(whole, allow_nan=False), encoding="utf-8", errors="surrogatepass")
        beside.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: LabLike | None = None) -> Tree:
        """Open a saved tree. lab: whose model writes its branches; without one it can be looked at.

        Raises BadInput for a file that is no tree, or is damaged.
        """
        try:
            whole = json.loads(Path(path).read_text(encoding="utf-8", errors="surrogatepass"))
            if not isinstance(whole, Mapping) or whole.get("format") != FORMAT:
                raise BadInput(f"{path} is no saved tree; tree.save(path) writes one.")
            if whole["version"] != VERSION:
                raise BadInput(
                    f"{path} was written by another version of labkit ({whole['version']}); this one reads {VERSION}."
                )
            tree = cls._read(whole)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} is damaged, or no saved tree: {type(error).__name__}: {error}.") from error
        tree.lab = lab
        return tree

    @classmethod
    def _read(cls, whole: Mapping[str, Any]) -> Tree:
        tree = cls.__new__(cls)
        tree.prompt, tree.prompt_ids, tree.prompt_tokens = whole["prompt"], whole["prompt_ids"], whole["prompt_tokens"]
        tree.nodes, tree.lab, tree._leaves, tree._children = [], None, {}, {ROOT: []}
        for index, (parent, id_, token, logprob, sampled, entropy, rank, forbidden, top, allowed) in enumerate(
            whole["nodes"]
        ):
            step = 0 if parent == ROOT else tree.nodes[parent].step + 1
            best = tuple(Alternative(text, one, _number(value)) for one, text, value in top)
            let = None if allowed is None else tuple(allowed)
            own, drawn = _number(logprob), _number(sampled)
            node = Node(index, parent, step, id_, token, own, drawn, entropy, rank, forbidden, best, let)
            tree.nodes.append(node)
            tree._children[parent].append(index)
            tree._children[index] = []
        for name, leaf in whole["paths"].items():
            facts = dict(leaf["facts"]) | {"sampling": Sampling(**leaf["facts"]["sampling"])}
            facts["reuse"] = None if facts["reuse"] is None else Reuse(**facts["reuse"])
            if facts["form"] is not None:
                from labkit.generation.forms import Form

                facts["form"] = Form(facts["form"]["kind"], facts["form"]["grammar"], facts["form"]["grammar"])
            how = dict(leaf["how"])
            if "stop" in how:
                how["stop"] = tuple(how["stop"])
            tree.nodes[leaf["end"]]
            tree._leaves[name] = _Leaf(leaf["end"], leaf["parent"], facts, how)
        if not tree._leaves:
            raise ValueError("it has no paths")
        return tree

    # names ----------------------------------------------------------------------------------------------------------

    def _leaf(self, name: str) -> _Leaf:
        return self._leaves[checks.one_of("path", name, self.names, problem="is none of this tree")]

    def _new_name(self, name: str) -> str:
        if not isinstance(name, str) or not name or name in self._leaves:
            checks.refuse("name", name, "a text that no other path is called")
        return name

    def _free_name(self) -> str:
        letters = (letter for length in range(1, 9) for letter in _letters(length))
        return next(name for name in letters if name not in self._leaves)

    def _path(self, end: int) -> list[Node]:
        found: list[Node] = []
        while end != ROOT:
            found.append(self.nodes[end])
            end = self.nodes[end].parent
        return found[::-1]


def _letters(length: int) -> Iterator[str]:
    """a, b, ..., z; of length 2 aa, ab, ..."""
    if length == 0:
        yield ""
        return
    for first in _letters(length - 1):
        for last in "abcdefghijklmnopqrstuvwxyz":
            yield first + last


def _nodes_of(generation: Generation) -> list[Node]:
    """The tokens of a text as nodes that have no place in a tree yet."""
    top = generation.top(generation.top_ids.shape[1])
    forbidden, allowed = generation.forbidden, generation.top_allowed
    return [
        Node(
            index=ROOT,
            parent=ROOT,
            step=step,
            id=id_,
            token=generation.tokens[step],
            logprob=float(generation.logprobs[step]),
            sampled_logprob=float(generation.sampled_logprobs[step]),
            entropy=float(generation.entropies[step]),
            rank=int(generation.ranks[step]),
            forbidden=None if forbidden is None else float(forbidden[step]),
            top=tuple(top[step]),
            allowed=None if allowed is None else tuple(allowed[step].tolist()),
        )
        for step, id_ in enumerate(generation.ids)
    ]


def _row(node: Node) -> list[object]:
    """A node as it is saved."""
    numbers = [_finite(node.logprob), _finite(node.sampled_logprob), node.entropy, node.rank, node.forbidden]
    top = [[one.id, one.token, _finite(one.logprob)] for one in node.top]
    return [node.parent, node.id, node.token, *numbers, top, node.allowed]


def _is_same(one: Node, other: Node) -> bool:
    """Whether two tokens at one place are one, with one model's numbers."""
    if one.id != other.id or (one.forbidden is None) != (other.forbidden is None):
        return False
    pairs = [(one.logprob, other.logprob), (one.sampled_logprob, other.sampled_logprob), (one.entropy, other.entropy)]
    pairs.append((one.forbidden or 0.0, other.forbidden or 0.0))
    return all(a == b or abs(a - b) < SAME for a, b in pairs)


def _finite(value: float) -> float | None:
    """Minus infinity has no place in JSON."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
