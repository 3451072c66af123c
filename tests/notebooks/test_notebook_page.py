"""docs/adding_a_notebook.md: its notebook is built, run, and asked what every notebook is asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
import test_notebooks
from pages import blocks

from notebooks import ROOT, builder

NAME = "11_serving"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like notebooks/ with the page's source in it, built."""
    folder = tmp_path_factory.mktemp("page") / "notebooks"
    (folder / "source").mkdir(parents=True)
    for name in ("colab.png", "set_up.py"):
        shutil.copy(ROOT / "notebooks" / "source" / name, folder / "source")
    (source,) = blocks("adding_a_notebook.md", "")
    (folder / "source" / f"{NAME}.py").write_text(source, encoding="utf-8")
    build = builder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "HERE", folder)
        (chosen,) = build.sources()
        assert build.build(chosen)
        assert build.out_of_step([chosen]) == []
    return folder


def versions(folder: Path) -> list[Path]:
    return [folder / f"{NAME}.ipynb", folder / "solved" / f"{NAME}.ipynb"]


def test_the_page_s_notebook_is_like_all_others(built: Path) -> None:
    for path in versions(built):
        test_notebooks.test_a_notebook_in_git_is_small_and_clean(path)
        test_notebooks.test_the_head_keeps_its_promises(path)
        test_notebooks.test_every_exercise_is_open_in_one_version_and_solved_in_the_other(path)
        test_notebooks.test_a_result_is_shown_in_a_later_cell_than_its_prediction(path)
        test_notebooks.test_the_set_up_cell_is_the_same_in_all(path)


def test_its_head_is_filled_in_and_its_numbers_are_there(built: Path) -> None:
    learner, solved = (nbformat.read(path, as_version=4) for path in versions(built))
    head = learner.cells[0].source
    assert "10 minutes in all, in two sections" in head
    assert "1 exercise, 1 prediction, 1 claim put to the test" in head
    assert "{{" not in head
    printed = "".join(o.text for cell in solved.cells if cell.cell_type == "code" for o in cell.outputs if "text" in o)
    assert "128 GiB of weights\nthe same by your function: True" in printed
    assert "1.25 GiB for each text" in printed
    assert not any("1.25" in str(cell.get("outputs")) for cell in learner.cells), "the learner has not guessed yet"
