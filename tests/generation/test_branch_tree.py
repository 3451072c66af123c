"""Trees of branches: what is held once, walked, compared, saved and branched from again."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build
from generations import generation as made

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.generation import kept

PROMPT = [5, 17, 33]
TOTAL = 12


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILIES["llama3"])


@pytest.fixture
def lab(model: Any) -> lk.Lab:
    return lk.Lab(model, Tokens(), name="llama3")


@pytest.fixture
def tree(lab: lk.Lab) -> lk.generation.Tree:
    """Three paths: the second leaves the first at 4, the third leaves the second at 8."""
    found = lab.generate(PROMPT, max_new_tokens=TOTAL).tree("first")
    found.branch(4, 42, name="second")
    found.branch(8, "t43 ", of="second")
    return found


def same(one: lk.Generation, other: lk.Generation) -> bool:
    columns = ("logprobs", "sampled_logprobs", "entropies", "ranks", "top_ids", "top_logprobs")
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in columns)
        and (one.text, one.ids, one.tokens, one.top_tokens) == (other.text, other.ids, other.tokens, other.top_tokens)
        and (one.finish_reason, one.sampling, one.prompt_ids) == (other.finish_reason, other.sampling, other.prompt_ids)
    )


def test_tokens_are_held_once(lab: lk.Lab, tree: lk.generation.Tree) -> None:
    assert tree.names == ["first", "second", "a"]
    assert len(tree.nodes) == TOTAL + (TOTAL - 4) + (TOTAL - 8)
    first, second, third = tree.paths.values()
    assert [n.index for n in first[:4]] == [n.index for n in second[:4]]
    assert [n.index for n in second[:8]] == [n.index for n in third[:8]]
    assert {n.index for n in first[4:]}.isdisjoint(n.index for n in second)
    assert [n.id for n in tree.children(first[3].index)] == [first[4].id, 42]
    assert [n.index for n in tree.walk()] == [n.index for n in [*first, *second[4:], *third[8:]]]
    assert tree.through(first[2].index) == ["first", "second", "a"]
    assert tree.through(third[-1].index) == ["a"]
    assert [n.step for n in third] == list(range(TOTAL))
    assert [n.parent for n in third] == [-1, *(n.index for n in third[:-1])]


def test_a_path_is_its_generation(lab: lk.Lab, tree: lk.generation.Tree) -> None:
    first = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert same(tree["first"], first)
    assert same(tree["second"], first.branch(4, 42))
    assert same(tree["a"], first.branch(4, 42).branch(8, 43))
    assert "first" in tree
    assert list(tree) == tree.names


def test_the_table(tree: lk.generation.Tree) -> None:
    table = tree.table.set_index("name")
    assert table["parent"].tolist() == ["", "first", "second"]
    assert table["at"].tolist()[1:] == [4, 8]
    assert table["token"].tolist()[1:] == ["t42 ", "t43 "]
    assert table["own_tokens"].tolist() == [TOTAL, TOTAL - 4, TOTAL - 8]
    assert table["reused"].tolist() == [0, len(PROMPT) + 3, len(PROMPT) + 7]
    for name in tree:
        logprobs = tree[name].logprobs.double()
        assert table.loc[name, "logprob"] == pytest.approx(logprobs.sum().item(), abs=1e-5)
        assert table.loc[name, "mean_logprob"] == pytest.approx(logprobs.mean().item(), abs=1e-5)
        assert table.loc[name, "perplexity"] == pytest.approx(math.exp(-logprobs.mean().item()), rel=1e-5)
    assert tree.saved.branches == 2
    assert tree.saved.tokens == 2 * len(PROMPT) + 10
    assert tree.saved.seconds is not None


def test_where_two_paths_part(tree: lk.generation.Tree) -> None:
    found = tree.compare("first", "a")
    first, third = tree["first"], tree["a"]
    assert found.at == 4
    assert found.first is not None
    assert found.second is not None
    assert (found.first.id, found.second.id) == (first.ids[4], 42)
    assert found.second.logprob == pytest.approx(third.logprobs[4].item())
    assert found.shared == "".join(first.tokens[:4])
    assert found.rest[1] == "".join(third.tokens[4:])
    assert found.rest_logprobs[1] == pytest.approx(third.logprobs[4:].sum().item(), abs=1e-4)
    assert "4 tokens shared" in str(found)
    alone = tree.compare("first", "first")
    assert (alone.at, alone.first, alone.second) == (TOTAL, None, None)


def test_names(tree: lk.generation.Tree) -> None:
    tree.rename("second", "other")
    assert tree.names == ["first", "other", "a"]
    assert tree.table["parent"].tolist() == ["", "first", "other"]
    with pytest.raises(BadInput, match="no other path"):
        tree.rename("a", "other")
    with pytest.raises(BadInput, match="no other path"):
        tree.branch(2, 42, name="first")
    with pytest.raises(BadInput, match="did you mean 'other'"):
        tree.compare("first", "othr")
    assert len(tree) == 3, "a refused name leaves nothing behind"
    assert "3 paths" in repr(tree)
    assert "<table" in tree._repr_html_()


def test_what_is_added(lab: lk.Lab, tree: lk.generation.Tree) -> None:
    before = len(tree.nodes)
    sampled = lab.generate(PROMPT, max_new_tokens=TOTAL, temperature=1.5, seed=1)
    assert tree.add(sampled) == "b"
    assert same(tree["b"], sampled)
    with lab.edit(lk.ablate_head(0, 1)):
        changed = tree.branch(4, 42, name="edited")
    path = tree.paths["edited"]
    assert path[0].index >= before, "what an edited model wrote shares no numbers with what the model wrote"
    assert same(tree["edited"], changed)
    with pytest.raises(BadInput, match="another prompt"):
        tree.add(lab.generate([1, 2], max_new_tokens=2))
    with pytest.raises(BadInput, match="no tokens"):
        made([]).tree()


def test_a_branch_takes_over_what_any_path_kept(tree: lk.generation.Tree) -> None:
    first = tree["first"]
    assert first.source is not None
    first.source.kept.drop("for the test")
    alike = tree.branch(3, 50).reuse
    assert alike is not None
    assert alike.tokens == len(PROMPT) + 2, "the second path begins alike"
    beyond = tree.branch(9, 50).reuse
    assert beyond is not None
    assert beyond.tokens == len(PROMPT) + 4, "up to where they part"


def test_saved_and_opened(lab: lk.Lab, tree: lk.generation.Tree, tmp_path: Path) -> None:
    tree.save(tmp_path / "tree.json")
    whole = (tmp_path / "tree.json").read_text()
    assert len(json.loads(whole)["nodes"]) == len(tree.nodes)
    assert list(tmp_path.iterdir()) == [tmp_path / "tree.json"]
    again = lk.generation.Tree.load(tmp_path / "tree.json")
    assert again.table.equals(tree.table)
    assert again.nodes == tree.nodes
    assert all(same(again[name], tree[name]) for name in tree)
    again.save(tmp_path / "tree.json")
    assert (tmp_path / "tree.json").read_text() == whole
    with pytest.raises(Unavailable, match="lab="):
        again.branch(2, 42)
    del tree
    gc.collect()
    opened = lk.generation.Tree.load(tmp_path / "tree.json", lab=lab)
    once = opened.branch(6, 50)
    assert once.reuse is not None
    assert once.reuse.tokens == 0
    assert [n.index for n in opened.paths["b"][:6]] == [n.index for n in opened.paths["first"][:6]]
    for at, of in ((5, "first"), (6, "first"), (3, "a")):
        later = opened.branch(at, 51, of=of)
        assert later.reuse is not None
        assert later.reuse.tokens == len(PROMPT) + at - 1, "the prefix was run once"
        plain = lab.generate(PROMPT + later.ids[: at + 1], max_new_tokens=TOTAL - at - 1)
        assert later.ids[at + 1 :] == plain.ids
        assert torch.allclose(later.logprobs[at + 1 :], plain.logprobs, atol=1e-4)


def test_a_form_is_saved(tiny_lab: lk.Lab, tmp_path: Path) -> None:
    tree = tiny_lab.generate("the cat", chat=False, max_new_tokens=8, form=r"[a-z ]{3,30}").tree()
    tree.save(tmp_path / "formed.json")
    again = lk.generation.Tree.load(tmp_path / "formed.json", lab=tiny_lab)
    assert again["text"].form == tree["text"].form
    opened, held = again["text"].forbidden, tree["text"].forbidden
    assert opened is not None
    assert held is not None
    assert torch.equal(opened, held)
    made = again.branch(3, tree["text"].ids[3])
    assert made.ids == tree["text"].ids
    assert made.form_complete


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "labkit tree"}', '{"format": "other"}'])
def test_files_that_are_no_tree(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInput, match=r"x\.json"):
        lk.generation.Tree.load(tmp_path / "x.json")


def test_a_damaged_tree(tree: lk.generation.Tree, tmp_path: Path) -> None:
    tree.save(tmp_path / "x.json")
    whole = json.loads((tmp_path / "x.json").read_text())
    changes: list[dict[str, object]] = [
        {"version": 99},
        {"paths": {}},
        {"nodes": whole["nodes"][:2]},
        {"nodes": [[7, *whole["nodes"][0][1:]]]},
    ]
    for change in changes:
        (tmp_path / "x.json").write_text(json.dumps(whole | change))
        with pytest.raises(BadInput, match=r"x\.json"):
            lk.generation.Tree.load(tmp_path / "x.json")


def test_trees_keep_what_their_paths_kept(tree: lk.generation.Tree) -> None:
    gc.collect()
    assert kept.total_bytes() > 0
    assert all(leaf.source is not None and leaf.source.kept.pasts for leaf in tree._leaves.values())
