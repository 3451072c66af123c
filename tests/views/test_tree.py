"""The tree view: branches are made in a worker, named, compared, saved; a failure leaves the tree as it was."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from branching import ROOT, branch
from generations import generation, story
from pictured import words

import labkit.views
from labkit.errors import BadInput
from labkit.generation.beam_search import beams
from labkit.generation.record import Generation
from labkit.generation.tree import Tree
from labkit.views.tree_view import Branched, Node, TreeView


def tree(make: Any = branch) -> TreeView:
    return TreeView([Node(generation(ROOT))], branch=make)


def test_a_branch_is_written_shown_and_says_what_the_cache_saved() -> None:
    view = tree()
    view.branch(1, " dog")
    assert view.wait(10)
    assert [run.text for run in view.generations] == ["The cat sat", "The dog on"]
    assert view.shown == 1
    node = view.nodes[1]
    assert (node["parent"], node["at"], node["token"], node["instead"]) == (0, 1, " dog", " cat")
    assert node["saved"] == "5 tokens taken from the cache, which saved about 120 ms"
    assert " dog" in view.strings
    view.shown = 0
    assert " sat" in view.strings
    view.close()


def test_branches_branch_again_are_named_and_saved(tmp_path) -> None:
    view = tree()
    view.branch(1, " dog")
    assert view.wait(10)
    view.branch(0, "A", of=1)
    assert view.wait(10)
    assert [node["parent"] for node in view.nodes] == [-1, 0, 1]
    view.rename(2, "bold\n<b>")
    assert view.nodes[2]["name"] == "bold <b>"
    saved = Tree.load(view.save(tmp_path / "tree.json"))
    assert saved.names == ["text", "branch 1", "bold <b>"]
    assert saved.table["parent"].tolist() == ["", "text", "branch 1"]
    assert saved["branch 1"].tokens == ["The", " dog", " on"]
    view.compared = 1
    assert "bold <b>" in " ".join(words(view._image()))
    assert view.table["text"].unique().tolist() == [0, 1, 2]
    view.close()


def test_texts_of_one_name_are_saved_apart() -> None:
    view = tree()
    for at, token in ((1, " dog"), (0, "A"), (2, " ran")):
        view.branch(at, token, of=0)
        assert view.wait(10)
    for number, name in ((1, "x"), (2, "x (3)"), (3, "x")):
        view.rename(number, name)
    assert view.tree.names == ["text", "x", "x (3)", "x (4)"]
    view.close()


def test_what_cannot_be_branched_is_refused_with_the_reason() -> None:
    view = tree()
    for given, said in (
        ((1, " cat"), "is ' cat' already"),
        ((3, " dog"), "at=3 can't be used"),
    ):
        with pytest.raises(BadInput, match=said):
            view.branch(*given)
    with pytest.raises(BadInput, match="can't write"):
        TreeView([Node(story())]).branch(1, 5)
    with pytest.raises(BadInput, match="There is no text 4"):
        view.shown = 4
    view.close()


def test_two_settings_of_one_prompt_stand_side_by_side() -> None:
    warm = generation([*ROOT[:2], (" ran", 0.1, {" sat": 0.7})], temperature=1.5)
    view = labkit.views.tree([generation(ROOT), warm])
    assert [(node["name"], node["at"]) for node in view.nodes] == [
        ("temperature 0.8, seed 1", 0), ("temperature 1.5, seed 1", 2),
    ]  # fmt: skip
    assert (view.shown, view.compared) == (0, 1)
    view.close()
    for wrong in ([], [generation(ROOT), story()], "text"):
        with pytest.raises(BadInput, match=r"views\.tree shows"):
            labkit.views.tree(wrong)  # type: ignore[arg-type]


def test_a_failure_is_said_and_the_text_comes_back() -> None:
    def failing(run: Generation, at: int, token: int, *, on_token: Any, stop_event: Any) -> Branched:
        on_token(generation(ROOT[:1], finish_reason="running"))
        raise BadInput("This lab was closed.")

    view = tree(failing)
    view.branch(1, " dog")
    assert view.wait(10)
    assert (view.status["state"], view.status["message"]) == ("failed", "This lab was closed.")
    assert (len(view.nodes), view.facts["n"]) == (1, 3)
    view.close()


def test_a_stop_keeps_what_was_written() -> None:
    begun = threading.Event()

    def slow(run: Generation, at: int, token: int, *, on_token: Any, stop_event: threading.Event) -> Branched:
        begun.set()
        assert stop_event.wait(10)
        return Branched(generation(ROOT[:2], finish_reason="stopped"))

    view = tree(slow)
    view.branch(2, " ran")
    assert begun.wait(10)
    view.stop()
    assert view.wait(10)
    assert view.status["state"] == "stopped"
    assert [node["ended"] for node in view.nodes] == [True, False]
    view.close()


def test_a_file_has_every_text() -> None:
    view = tree()
    view.branch(1, " dog")
    assert view.wait(10)
    state = view._export_state()
    assert [text["facts"]["n"] for text in state["texts"]] == [3, 3]
    assert state["block:0"] != state["block:1"]
    view.close()


def test_a_lab_goes_on_with_its_own_text_from_the_cache(tiny_lab) -> None:
    run = tiny_lab.generate("the cat", max_new_tokens=6, chat=False, temperature=1.0, top_k=4, seed=1)
    view = labkit.views.tree(run)
    view.choose(2)
    assert view.wait(60)
    taken = next(each for each in view.choices["0:2"]["tokens"] if each["taken"])
    assert taken["shares"] == pytest.approx(
        [float(run.logprobs[2].exp()), float(run.sampled_logprobs[2].exp())], abs=1e-4
    )
    assert [stage["kept"] for stage in view.choices["0:2"]["stages"]][-1] == 4
    other = next(id_ for id_ in run.top_ids[2].tolist() if id_ != run.ids[2])
    view.branch(2, other)
    assert view.wait(60)
    assert view.generations[1].ids[:3] == [*run.ids[:2], other]
    reused = view.generations[1].reuse
    assert reused is not None
    assert reused.tokens > 0
    assert str(view.nodes[1]["saved"]).startswith(f"{reused.tokens} tokens taken from the cache, which saved about")
    tiny_lab.close()
    view.branch(1, other if other != view.generations[1].ids[1] else other + 1)
    assert view.wait(60)
    assert (view.status["state"], len(view.nodes)) == ("failed", 2)
    view.close()


def test_a_tree_is_shown_and_gets_what_is_branched_here(tiny_lab) -> None:
    tree = beams(tiny_lab, "the cat", 3, max_new_tokens=4, chat=False)
    view = labkit.views.tree(tree)
    assert [node["name"] for node in view.nodes] == tree.names
    assert [run.ids for run in view.generations] == [tree[name].ids for name in tree.names]
    run = view.generations[0]
    view.branch(1, next(id_ for id_ in run.top_ids[1].tolist() if id_ != run.ids[1]))
    assert view.wait(60)
    assert len(tree) == 4
    assert view.nodes[3]["parent"] == 0
    view.rename(3, "mine")
    assert tree.names[3] == "mine"
    assert view.tree is tree
    view.close()
