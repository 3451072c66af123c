"""One source, two notebooks: who gets which cell, under which id, and what is written."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from labkit.errors import LabError
from notebooks import ROOT, alone, builder, run_alone

SOURCE = """# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 9 · A title
#
# [![Open in Colab](attachment:colab.png)]({{COLAB}})

# %%
import os
from pathlib import Path

# %% [markdown]
# ## 1 · First
# *1 minute*

# %% tags=["nbval-check-output", "section-1"]
a = 1
print(a)

# %% tags=["stub"]
def solve():
    return ...

# %% tags=["solution"]
def solve():
    return 42

# %%
print(solve())

# %% [markdown]
# ## 2 · Second

# %%
Path(os.environ["LABKIT_PROGRESS"]).write_text("done")
print(Path.cwd().name)

# %% [markdown]
# ## 3 · Third

# %%
print(a + 1)

# %% [markdown] tags=["solution"]
# Told only to those who look.

# %% [markdown]
# ## Try it yourself

# %%
print("no section")
"""

build = builder()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "09_small.py"
    path.write_text(SOURCE, encoding="utf-8")
    shutil.copy(ROOT / "notebooks" / "source" / "colab.png", tmp_path)
    return path


def texts(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_stub_and_solution_are_each_in_one_version(source: Path) -> None:
    learner, solved = build.from_source(source), build.from_source(source, solved=True)
    assert [t for t in texts(learner) if "def solve" in t] == ["def solve():\n    return ..."]
    assert [t for t in texts(solved) if "def solve" in t] == ["def solve():\n    return 42"]
    assert not any("Told only" in t or "42" in t or "solution" in t.lower() for t in texts(learner))
    assert any("Told only" in t for t in texts(solved))
    nbformat.validate(learner)
    nbformat.validate(solved)


def test_ids_are_the_place_in_the_source_and_agree(source: Path) -> None:
    learner, solved = build.from_source(source), build.from_source(source, solved=True)
    assert [cell.id for cell in learner.cells] == [f"cell-{i:02d}" for i in range(14) if i not in (5, 11)]
    assert [cell.id for cell in solved.cells] == [f"cell-{i:02d}" for i in range(14) if i != 4]
    both = {cell.id: cell.source for cell in learner.cells[1:]}
    assert all(both.get(cell.id, cell.source) == cell.source for cell in solved.cells[1:])


def test_only_building_tags_are_taken_away(source: Path) -> None:
    for solved in (False, True):
        tags = [cell.metadata.get("tags") for cell in build.from_source(source, solved=solved).cells]
        assert [each for each in tags if each] == [["nbval-check-output", "section-1"]]


def test_solved_says_so_under_its_title_and_links_to_the_other(source: Path) -> None:
    head = build.from_source(source, solved=True).cells[0].source.splitlines()
    assert head[0] == "# 9 · A title"
    assert head[2].startswith("> **This version holds the solutions.**")
    assert "[09_small.ipynb](../09_small.ipynb)" in head[2]


def test_each_badge_opens_its_own_version(source: Path) -> None:
    for solved, place in ((False, "notebooks/09_small.ipynb"), (True, "notebooks/solved/09_small.ipynb")):
        notebook = build.from_source(source, solved=solved)
        assert f"/blob/main/{place})" in notebook.cells[0].source
        assert "{{" not in "".join(texts(notebook))
        assert "colab.png" in notebook.cells[0].attachments


EXERCISE = """
# %% [markdown]
# ## 4 · With an exercise
# *8 minutes, with the extra exercise 11 · hard*

# %%
# exercise: first_look.top_p as checked

# %%
guess = lk.predict(
    "first_look.sure", "How many?")

# %%
_ = lk.claim("gqa-40", 1); lk.claim("flash-memory", 2)

# %%
# exercise: attention.causal_mask
"""


EXTRA = """
# %% [markdown]
# ## 5 · For those who want more
# *Extra, 7 minutes · easy*

# %%
# exercise: attention.cache_bytes
"""


def test_an_exercise_is_written_out_from_its_definition(source: Path) -> None:
    from labkit.teaching.exercises.first_look import top_p

    source.write_text(SOURCE + EXERCISE, encoding="utf-8")
    learner, solved = (build.from_source(source, solved=solved).cells[-8:] for solved in (False, True))
    assert learner[0].source == 'lk.exercise("first_look.top_p")'
    stub = learner[1].source
    assert stub.startswith('def top_p(probabilities, p):\n    """Which tokens stay')
    assert stub.endswith('"""\n    return ...')
    assert inspect.getdoc(top_p) in textwrap.dedent(stub.replace('"""', "    ", 1).partition("\n")[2]).strip()
    assert learner[2].source == 'checked = lk.check("first_look.top_p", top_p)\nchecked'
    body = inspect.getsource(top_p).partition("\n")[2].rstrip()
    assert solved[1].source == f"def top_p(probabilities, p):\n{body}"
    assert [cell.source for cell in learner if cell not in (learner[1], learner[6])] == [
        cell.source for cell in solved if cell not in (solved[1], solved[6])
    ]
    assert learner[-1].source == 'lk.check("attention.causal_mask", causal_mask)'


def test_the_set_up_cell_is_put_in(source: Path) -> None:
    source.write_text(SOURCE.replace("import os\nfrom pathlib import Path", "# set-up"), encoding="utf-8")
    notebook = build.from_source(source)
    (cell,) = build.set_up(notebook)
    assert cell.source.endswith("import labkit as lk\n\nlk.setup()")
    assert "labkit @ git+https://" in cell.source


@pytest.mark.parametrize(
    "line",
    ["# exercise: top_p", "# exercise: first_look.top_p then more", "# exercise first_look.top_p", "# set-up now"],
)
def test_a_line_that_almost_stands_for_cells_is_refused(source: Path, line: str) -> None:
    source.write_text(f"{SOURCE}\n# %%\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not understood"):
        build.from_source(source)


def test_an_exercise_that_does_not_exist_is_refused(source: Path) -> None:
    source.write_text(f"{SOURCE}\n# %%\n# exercise: first_look.top_q\n", encoding="utf-8")
    with pytest.raises(LabError, match="did you mean first_look"):
        build.from_source(source)


def test_what_the_head_promises_is_counted(source: Path) -> None:
    line = "# {{MINUTES}} {{EXTRA_MINUTES}} {{EXERCISE_MINUTES}} {{SECTIONS}} | {{EXERCISES}} | {{PREDICTIONS}} | {{CLAIMS}}"
    text = SOURCE.replace("# # 9 · A title\n", f"# # 9 · A title\n{line}\n")
    source.write_text(text + EXERCISE, encoding="utf-8")
    for solved in (False, True):
        head = build.from_source(source, solved=solved).cells[0].source
        assert "10 3 8 four | 2 exercises | 1 prediction | 2 claims" in head


def test_an_extra_section_is_counted_apart(source: Path) -> None:
    line = "# {{MINUTES}} {{EXTRA_MINUTES}} {{EXERCISE_MINUTES}} {{SECTIONS}} | {{EXERCISES}}"
    text = SOURCE.replace("# # 9 · A title\n", f"# # 9 · A title\n{line}\n")
    source.write_text(text + EXERCISE + EXTRA, encoding="utf-8")
    assert "10 10 8 four | 3 exercises" in build.from_source(source).cells[0].source


def test_a_word_nobody_knows_is_refused(source: Path) -> None:
    source.write_text(SOURCE.replace("{{COLAB}}", "{{COLLAB}}"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"\{\{COLLAB\}\} is not known; there are CLAIMS, COLAB"):
        build.from_source(source)


def test_the_memory_in_the_head_is_what_the_run_needed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "notebooks"
    (here / "source").mkdir(parents=True)
    monkeypatch.setattr(build, "HERE", here)
    monkeypatch.setattr(build, "LEAST_GIB", 1)
    text = SOURCE.replace("# # 9 · A title\n", "# # 9 · A title\n# needs {{MEMORY}}\n")
    text = text.replace("import os\n", "import os\nblock = b'x' * 1_500_000_000\ndel block\n")
    large = b"x" * 2_000_000_000  # what this process holds is not the kernel's
    own = here / "source" / "09_small.py"
    own.write_text(text, encoding="utf-8")
    shutil.copy(source.parent / "colab.png", own.parent)
    assert build.build(own)
    del large
    for place in ("09_small.ipynb", "solved/09_small.ipynb"):
        cells = nbformat.read(here / place, as_version=4).cells
        assert "needs 2 GiB" in cells[0].source
        assert len(cells) == 12 + ("solved" in place), "and the question for it left no cell"
    assert json.loads((here / "source" / "memory.json").read_text()) == {"09_small": 2}
    assert build.out_of_step([own]) == []


def test_a_cell_for_nobody_is_refused(source: Path) -> None:
    source.write_text(SOURCE.replace('tags=["stub"]', 'tags=["stub", "solution"]'), encoding="utf-8")
    with pytest.raises(ValueError, match="in no version"):
        build.from_source(source)


def test_a_first_cell_without_a_title_is_refused(source: Path) -> None:
    source.write_text(SOURCE.replace("# # 9 · A title", "# A title"), encoding="utf-8")
    with pytest.raises(ValueError, match="begin with the title"):
        build.from_source(source, solved=True)


def test_sections_and_set_up(source: Path) -> None:
    notebook = build.from_source(source)
    found = build.sections(notebook)
    assert [(s.number, s.title, len(s.code)) for s in found] == [(1, "First", 3), (2, "Second", 1), (3, "Third", 1)]
    assert [cell.source for cell in build.set_up(notebook)] == ["import os\nfrom pathlib import Path"]
    assert len(alone(notebook, found[0]).cells) == 4


def test_a_section_alone_needs_what_it_uses(source: Path, tmp_path: Path) -> None:
    """The third uses a name of the first: alone it fails, and is told by that name."""
    notebook = build.from_source(source)
    first, second, third = build.sections(notebook)
    run_alone(notebook, first, tmp_path)
    run_alone(notebook, second, tmp_path)
    with pytest.raises(CellExecutionError, match="name 'a' is not defined"):
        run_alone(notebook, third, tmp_path)


def test_building_writes_both_and_leaves_progress_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "progress.json"
    own.write_text("mine")
    monkeypatch.setenv("LABKIT_PROGRESS", str(own))
    here = tmp_path / "notebooks"
    (here / "source").mkdir(parents=True)
    for path in (source, tmp_path / "colab.png"):
        shutil.copy(path, here / "source")
    monkeypatch.setattr(build, "HERE", here)
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert build.main() == 0
    assert own.read_text() == "mine"
    outputs = {}
    for place in ("09_small.ipynb", "solved/09_small.ipynb"):
        cells = nbformat.read(here / place, as_version=4).cells
        outputs[place] = [
            o.text.strip() for cell in cells if cell.cell_type == "code" for o in cell.outputs if "text" in o
        ]
    assert outputs["09_small.ipynb"] == ["1", "Ellipsis", "notebooks", "2", "no section"]
    assert outputs["solved/09_small.ipynb"] == ["1", "42", "solved", "2", "no section"], "each run where it lives"

    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    assert build.main() == 0
    changed = here / "solved" / "09_small.ipynb"
    content = json.loads(changed.read_text())
    content["cells"][-1]["source"] = ["print('other')"]
    changed.write_text(json.dumps(content))
    shutil.copy(here / "09_small.ipynb", here / "08_orphan.ipynb")
    assert build.main() == 1
    told = capsys.readouterr().err
    assert "solved/09_small.ipynb, 08_orphan.ipynb (without a source)" in told


def test_a_solved_notebook_too_large_keeps_its_outputs_as_text() -> None:
    def notebook() -> Any:
        data = {"text/plain": "short", "text/html": "x" * 5000}
        output = nbformat.v4.new_output("display_data", data=data)
        picture = nbformat.v4.new_output("display_data", data={"image/png": "y" * 5000})
        printed = nbformat.v4.new_output("stream", text="printed")
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output, picture, printed])])

    small = build.as_text(notebook(), limit=3000, plain=True)
    assert "short" in small
    assert "printed" in small
    assert "xxx" not in small
    assert "yyy" not in small
    nbformat.validate(nbformat.reads(small, as_version=4))
    assert "xxx" in build.as_text(notebook(), limit=30_000, plain=True)
    part = build.as_text(notebook(), limit=8_000, plain=True)
    assert ("xxx" in part, "yyy" in part) == (False, True), "what is largest gives way first"
    assert "xxx" in build.as_text(notebook(), limit=3000), "the learner's keeps its pictures; main() refuses it"


def test_nbval_takes_the_solved_ones_too(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notebooks" / "solved").mkdir(parents=True)
    for solved in (False, True):
        place = tmp_path / "notebooks" / ("solved" if solved else "") / "09_small.ipynb"
        nbformat.write(build.from_source(source, solved=solved), place)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        "--nbval-lax",
        "notebooks",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "notebooks/09_small.ipynb::" in done.stdout
    assert "notebooks/solved/09_small.ipynb::" in done.stdout
