"""The tree view: a generated text that branches where another token is taken, its branches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import BadInput
from labkit.markup import counted, shorten, visible
from labkit.views.base import View, module, style
from labkit.views.drawing.page import Page
from labkit.views.kit.job import Job
from labkit.views.kit.running_text import parted
from labkit.views.tokens_view import static_text
from labkit.views.tokens_view.choosing import Choose
from labkit.views.tokens_view.exported import draw, numbers_of
from labkit.views.tokens_view.payload import drawn
from labkit.views.tree_view.branches import (
    Branched,
    Brancher,
    BranchTraits,
    Node,
    branching_in,
    continued,
    nodes_of,
    parted_at,
)

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation
    from labkit.generation.tree import Tree
    from labkit.views.drawing.scene import Picture

__all__ = ["Branched", "Brancher", "Node", "TreeView", "tree"]


def tree(
    generation: Generation | Sequence[Generation] | Tree,
    *,
    choose: Choose | None = None,
    alternatives: int = 5,
    prompt: bool = True,
) -> TreeView:
    """Show a generated text that branches: hold a token, click one of its alternatives, and the text goes on from there.

    The branches form a tree at the side, which the arrow keys walk; each can be named, set beside another, and saved with
    them all. A branch takes over the keys and values of what stays, and the view says what that saved.

    generation: as lab.generate returns it; its lab goes on with it, and has to be open. Or several of one prompt, such as two
        settings with one seed: they hang in the tree where they part from the first, and the second stands beside it. Or a
        Tree, such as `gen.tree()` or `lk.generation.beams(lab, prompt)`, which also gets what is branched here.
    choose, alternatives, prompt: as `tokens` takes them.
    Raises BadInput where there is no Generation, or several are not of one prompt.
    """
    given: Any = generation
    if hasattr(given, "paths") and hasattr(given, "names"):
        paths = nodes_of(given)
        names = {id(node.generation): node.name for node in paths}
        grow = branching_in(given, names)
        view = TreeView(paths, branch=grow, choose=choose, alternatives=alternatives, prompt=prompt)
        view._given = given, names
        return view
    several: list[Generation] = [given] if hasattr(given, "top_logprobs") else list(given)
    if not several or not all(hasattr(each, "top_logprobs") for each in several):
        raise BadInput(
            "views.tree shows a Generation, as lab.generate returns it, a list of them, or a Tree; give at least one."
        )
    first, *others = several
    if any(list(each.prompt_ids) != list(first.prompt_ids) for each in others):
        raise BadInput(
            "views.tree shows texts of one prompt, and these are of several; show each in a tree of its own."
        )
    called = [drawn(each.sampling) for each in several]
    if len(set(called)) < len(called):
        called = [""] * len(called)
    nodes = [Node(first, name=called[0])]
    nodes += [Node(each, 0, parted_at(first, each), name) for each, name in zip(others, called[1:], strict=True)]
    view = TreeView(nodes, branch=continued, choose=choose, alternatives=alternatives, prompt=prompt)
    if others:
        view.compared = 1
    return view


class TreeView(View, BranchTraits):
    """A text and its branches. `shown` is the number of the one on show, `compared` that of the one beside it.

    `branch(at, token)` lets the one on show branch, `wait()` for it, `stop()` it, `rename(number, name)`, `save(path)`.
    """

    _title = "What the model wrote, and what it would have written"
    _esm = module("tree_view/tree.js")
    _css = style("tokens_view/tokens.css", "tree_view/tree.css")
    _written_again = True

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        branch: Brancher | None = None,
        choose: Choose | None = None,
        alternatives: int = 5,
        prompt: bool = True,
    ) -> None:
        self._given: tuple[Tree, dict[int, str]] | None = None
        self._grow_with(branch, alternatives=alternatives, prompt=prompt)
        self._choose_with(choose, lambda number: self._tree[number].generation)
        super().__init__(can_branch=branch is not None)
        self._plant(list(nodes))

    @property
    def tree(self) -> Tree:
        """The Tree that is shown, or the texts as one: it can be compared, saved and opened again."""
        return super().tree if self._given is None else self._given[0]

    def rename(self, number: int, name: str) -> None:
        if self._given is not None and 0 <= number < len(self._tree) and name.strip():
            tree, names = self._given
            path = id(self._tree[number].generation)
            tree.rename(names[path], name)
            names[path] = name
        super().rename(number, name)

    def _job_ended(self, ended: Job[Any, Any]) -> None:
        """Nothing is put into the notebook by itself: that would draw anew what somebody is using. `wait()` does it."""

    def _label(self, number: int) -> str:
        node = self._tree[number]
        if node.name:
            return node.name
        if node.parent < 0:
            return "the first text"
        return (
            f"{node.generation.tokens[node.at]!r} at token {node.at}" if node.at < len(node.generation.ids) else "cut"
        )

    def _describe(self) -> str:
        first = self._tree[0].generation
        return f"{shorten(visible(first.text), 60)!r}, {counted(len(self._tree), 'text')}"

    def _static_text(self) -> str:
        lines = [static_text(self._tree[self.shown].generation)]
        for i, node in enumerate(self._tree):
            from_ = "" if node.parent < 0 else f", from text {node.parent}"
            lines.append(f"{i}: {self._label(i)}{from_}: {shorten(visible(node.generation.text), 80)!r}")
        return "\n".join(lines)

    def _table(self) -> pd.DataFrame:
        """The tokens of all texts, as the token view has them, with the number and name of their text."""
        import pandas as pd

        tables = []
        for i, node in enumerate(self._tree):
            table = numbers_of(node.generation)
            table.insert(0, "text", i)
            table.insert(1, "name", node.name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        draw(page, self._tree[self.shown].generation, self._label(self.shown))
        first = self._tree[0].generation.tokens
        rows = [
            (
                i,
                self._label(i),
                "" if (at := parted(first, node.generation.tokens, (True, True))) is None else at,
                shorten(visible(node.generation.text), 60),
            )
            for i, node in enumerate(self._tree)
        ]
        return page.table(rows, ("text", "name", "parts at", "reads"), right=(0, 2), caption="Branches").picture()

    def _export_state(self) -> dict[str, Any]:
        return {**super()._export_state(), **self._every_text()}
