"""The notebooks: in step with their source, small, clean, and running.

Each version is run once. The learner's runs from top to bottom, as Run All does: that is nbval's part (`make test`). The
solved one runs here, each section alone after the set-up; what a cell tagged `nbval-check-output` puts out has to be what
the notebook holds, as with nbval.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import output_from_msg

from labkit.teaching.exercises import find
from notebooks import ROOT, builder

COLAB = ROOT / ".venv" / "colab" / "bin" / "python"  # made by `make colab`
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "notebooks" / "solved").glob("*.ipynb"))
WIDEST = 96  # characters; also in notebooks/source/ruff.toml


def name(path: Path) -> str:
    return f"solved-{path.stem}" if path.parent.name == "solved" else path.stem


def each_section() -> list[tuple[str, Path, int | None]]:
    """(name, notebook, number) of every section, with the exercises solved; None is for what stands after the sections."""
    build = builder()
    return [
        (f"{name(path)}-{number or 'end'}", path, number)
        for path in NOTEBOOKS
        if path.parent.name == "solved"
        for number in [*(section.number for section in build.sections(nbformat.read(path, as_version=4))), None]
    ]


def code_of(path: Path, number: int | None) -> list[Any]:
    """The code cells of a section, or those in none and not of the set-up."""
    build = builder()
    notebook = nbformat.read(path, as_version=4)
    sections = build.sections(notebook)
    if number is not None:
        return next(section for section in sections if section.number == number).code
    before = {cell.id for cell in [*build.set_up(notebook), *(cell for section in sections for cell in section.cells)]}
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.id not in before]


def test_there_are_notebooks_of_both_kinds() -> None:
    learner = [path.name for path in NOTEBOOKS if path.parent.name != "solved"]
    assert learner
    assert learner == [path.name for path in NOTEBOOKS if path.parent.name == "solved"]


def test_each_notebook_follows_from_its_source() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_notebook_uses_an_unknown_name() -> None:
    """The sources can't be asked: set-up and exercises are put in when they are built."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F821,F823",
        "--output-format",
        "concise",
    ]
    done = subprocess.run([*command, *NOTEBOOKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_in_git_is_small_and_clean(path: Path) -> None:
    assert path.stat().st_size <= 150_000
    text = path.read_text(encoding="utf-8")
    assert "widget-state" not in text
    assert "widget-view" not in text
    assert "iopub.execute_input" not in text
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not [o for o in cell.outputs if o.output_type == "error"]
            assert "nbval-skip" not in cell.metadata.get("tags", [])
            assert "NBVAL_SKIP" not in cell.source
            assert [line for line in cell.source.splitlines() if len(line) > WIDEST] == [], "it is cut in a narrow cell"


def test_the_learner_s_version_spoils_nothing() -> None:
    """What is in the solved version alone is in no cell of the learner's."""
    for path in (each for each in NOTEBOOKS if each.parent.name == "solved"):
        learner = nbformat.read(path.parent.parent / path.name, as_version=4)
        ids = {cell.id for cell in learner.cells}
        text = "\n".join(cell.source for cell in learner.cells)
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.id in ids or cell.source not in text
        assert "](../" not in learner.cells[0].source


# Names a section makes, taken away again; what the set-up made is put back.
REMEMBER = "_set_up = {name: value for name, value in globals().items() if not name.startswith('_')}"
FORGET = """for _name in [name for name in globals() if not name.startswith('_') and name not in _set_up]:
    del globals()[_name]
globals().update(_set_up)"""


Run = Callable[[Path, list[str]], list[list[Any]]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs cells as the only ones after a notebook's set-up, and returns what each put out.

    The set-up itself is run once for each notebook.
    """
    from jupyter_client.manager import start_new_kernel

    environment = os.environ | {
        "LABKIT_PROGRESS": str(tmp_path_factory.mktemp("progress") / "progress.json"),
        "OMP_NUM_THREADS": "1",  # on a busy machine, threads that wait for one another make it ten times slower
    }
    running: dict[Path, Any] = {}

    def execute(client: Any, code: str) -> list[Any]:
        heard: list[Any] = []
        reply = client.execute_interactive(code, timeout=300, output_hook=heard.append)["content"]
        assert reply["status"] == "ok", f"{code}\n{reply.get('ename')}: {reply.get('evalue')}"
        put_out = ("stream", "display_data", "execute_result")
        return [output_from_msg(message) for message in heard if message["msg_type"] in put_out]

    def stop() -> None:
        for manager, client in running.values():
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        running.clear()

    def run(path: Path, cells: list[str]) -> list[list[Any]]:
        if path not in running:
            stop()  # one model in memory is enough
            running[path] = start_new_kernel(kernel_name="python3", env=environment, cwd=str(path.parent))
            for cell in builder().set_up(nbformat.read(path, as_version=4)):
                execute(running[path][1], cell.source)
            execute(running[path][1], REMEMBER)
        client = running[path][1]
        execute(client, FORGET)
        return [execute(client, source) for source in cells]

    yield run
    stop()


@pytest.mark.real_model
@pytest.mark.parametrize(("path", "number"), [pytest.param(p, n, id=i) for i, p, n in each_section()])
def test_each_section_runs_alone_after_the_set_up(path: Path, number: int | None, bench: Run) -> None:
    cells = code_of(path, number)
    for cell, outputs in zip(cells, bench(path, [cell.source for cell in cells]), strict=True):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert as_text(outputs) == as_text(cell.outputs), cell.source
        if "lk.check(" in cell.source:
            assert as_text(outputs)["text/plain"].startswith("Right: "), cell.source


def as_text(outputs: list[Any]) -> dict[str, str]:
    """What was printed and shown, by kind."""
    found: dict[str, str] = {}
    for output in outputs:
        pieces = {output.name: output.text} if output.output_type == "stream" else dict(output.data)
        for kind, text in pieces.items():
            if kind in ("stdout", "text/plain", "text/html"):
                found[kind] = found.get(kind, "") + text
    return found


def test_every_compared_output_is_in_the_file() -> None:
    """A cell tagged to be compared, without anything to compare it with, would be compared with nothing."""
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if "nbval-check-output" in cell.metadata.get("tags", []):
                assert as_text(cell.outputs), cell.source


@pytest.mark.real_model
def test_what_a_section_made_is_gone_for_the_next(bench: Run) -> None:
    """The bench of the test above: it would hide a section that lives on another's names."""
    bench(NOTEBOOKS[0], ["made_before = 1", "lab = None"])
    with pytest.raises(AssertionError, match="name 'made_before' is not defined"):
        bench(NOTEBOOKS[0], ["made_before"])
    bench(NOTEBOOKS[0], ["assert lab is not None"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_head_keeps_its_promises(path: Path) -> None:
    """Minutes are the sections' minutes; exercises and predictions are as many as are announced, none of them twice."""
    notebook = nbformat.read(path, as_version=4)
    head = notebook.cells[0].source
    sections = builder().sections(notebook)
    times = [builder().MINUTES.search(section.cells[0].source) for section in sections]
    assert all(times), "each section says how long it takes"
    minutes = [int(time["minutes"]) for time in times if time and not time["extra"]]
    extra = sum(
        int(time["minutes"]) if time["extra"] else int(time["with_exercise"] or time["minutes"]) - int(time["minutes"])
        for time in times
        if time
    )
    assert not extra or re.search(rf"\*\*Time\*\* .* {extra} more", head), "and the head says what extra parts take"
    total = re.search(r"\*\*Time\*\* \| (\d+)", head)
    assert total is not None
    assert abs(int(total[1]) - sum(minutes)) < 3, "rounded to five minutes at most"

    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    cards = re.findall(r'lk\.exercise\(\s*"([\w.]+)"', code)
    predictions = re.findall(r'lk\.predict\(\s*"([\w.]+)"', code)
    promised = re.search(r"\*\*Contains\*\* \| (\d+) exercises?, (\d+) predictions?", head)
    assert promised is not None
    assert (len(cards), len(predictions)) == (int(promised[1]), int(promised[2]))
    assert len(set(predictions)) == len(predictions)
    assert sorted(cards) == sorted(re.findall(r'lk\.check\(\s*"([\w.]+)"', code))
    assert sum(find(id).minutes for id in cards) < int(total[1])
    claims = len(re.findall(r"\blk\.claim\(", code))
    assert ("claim" in head) == bool(claims)
    assert not claims or re.search(rf"\*\*Contains\*\* .* {claims} claims? ", head)
    assert re.search(r"\*\*Runs on\*\* \| any computer with \d+ GiB of free memory", head)


def test_every_claim_is_shown() -> None:
    """A claim that is not the last line of its cell, or stands in a block, puts nothing out."""
    for path in (each for each in NOTEBOOKS if each.parent.name == "solved"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "lk.claim(" in cell.source:
                assert "stated" in as_text(cell.outputs).get("text/plain", ""), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_exercise_is_open_in_one_version_and_solved_in_the_other(path: Path) -> None:
    solved = path.parent.name == "solved"
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for cell in code:
        for id in re.findall(r'lk\.check\(\s*"([\w.]+)"', cell.source):
            exercise = find(id)
            (own,) = [c.source for c in code if f"def {exercise.name}(" in c.source]
            assert ("    return ..." in own) is not solved
            space: dict[str, Any] = {"torch": torch}
            exec(compile(own, id, "exec"), space)
            assert tuple(inspect.signature(space[exercise.name]).parameters) == exercise.arguments
            assert space[exercise.name].__doc__
            said = "".join(o.data["text/plain"] for o in cell.outputs if "data" in o)
            assert said.startswith("Right: " if solved else "Not solved yet: "), id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_result_is_shown_in_a_later_cell_than_its_prediction(path: Path) -> None:
    """A guess that is locked while the next cell runs comes too late for that cell."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    asked = {
        m[1]: place
        for place, cell in enumerate(code)
        for m in re.finditer(r"^(\w+) = lk\.predict\(", cell.source, re.M)
    }
    shown = {
        m[1]: place
        for place, cell in enumerate(code)
        for m in re.finditer(r"^(\w+)\.show\(", cell.source, re.M)
        if m[1] in asked
    }
    assert asked
    assert asked.keys() == shown.keys()
    for variable in asked:
        assert shown[variable] > asked[variable]
        answer = code[shown[variable]]
        if path.parent.name != "solved":
            assert answer.outputs == [], "a learner would see the answer before the question"
            continue
        plain = "".join(o.data.get("text/plain", "") for o in answer.outputs if "data" in o)
        assert "No guess was made." in plain


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_set_up_cell_is_the_same_in_all(path: Path) -> None:
    def set_up(p: Path) -> str:
        return next(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == "code")

    assert set_up(path) == set_up(NOTEBOOKS[0])
    assert "lk.setup()" in set_up(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_set_up_cell_never_replaces_torch_or_numpy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Colab the installer is handed the versions that are there; a stand-in for pip sees what it is asked."""
    import importlib.util
    import types

    import numpy

    source = next(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    switched_on = []
    colab = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace(enable_custom_widget_manager=lambda: switched_on.append(True))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "labkit" else real(name, *a))
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **keywords: asked.append(command))
    exec(compile(source, str(path), "exec"), {"__name__": "__main__"})
    (command,) = asked
    assert f"torch=={torch.__version__.split('+')[0]}" in command
    assert f"numpy=={numpy.__version__}" in command
    assert any(part.startswith("labkit @ git+https://") for part in command)
    assert "--upgrade" not in command
    assert "-U" not in command
    assert switched_on == [True]


COLAB_SCRIPT = """
import importlib.util, json, subprocess, sys, types
from importlib import metadata

switched_on, asked = [], []
colab = types.ModuleType("google.colab")
colab.output = types.SimpleNamespace(enable_custom_widget_manager=lambda: switched_on.append(True))
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), colab
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "labkit" else real(name, *rest)
subprocess.run = lambda command, **keywords: asked.append(command)
exec(sys.stdin.read())
importlib.util.find_spec = real
first = [lk.exercise("first_look.surprise"), lk.predict("first_look.sure", "How many?")]
print(json.dumps({
    "asked": asked, "switched_on": switched_on, "ipywidgets": metadata.version("ipywidgets"),
    "torch": metadata.version("torch"), "numpy": metadata.version("numpy"),
    "shown": [sorted(w._repr_mimebundle_()[0] if isinstance(w._repr_mimebundle_(), tuple) else w._repr_mimebundle_())
              for w in first],
}))
"""


@pytest.mark.real_model
@pytest.mark.skipif(not COLAB.is_file(), reason="needs the environment of Colab's versions: make colab")
def test_the_set_up_cell_with_the_versions_of_colab(tmp_path: Path) -> None:
    """The cell in the environment of Colab's widget libraries, with a stand-in for google.colab and for pip."""
    source = next(c.source for c in nbformat.read(NOTEBOOKS[0], as_version=4).cells if c.cell_type == "code")
    done = subprocess.run(
        [COLAB, "-c", COLAB_SCRIPT],
        input=source,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LABKIT_PROGRESS": str(tmp_path / "progress.json")},
    )
    assert done.returncode == 0, done.stderr
    ready, *_, found = done.stdout.splitlines()
    assert "ready" in ready
    facts = json.loads(found)
    assert facts["ipywidgets"] == "7.7.1"
    assert facts["switched_on"] == [True]
    (command,) = facts["asked"]
    assert {f"{name}=={facts[name].split('+')[0]}" for name in ("torch", "numpy")} < set(command)
    assert "--upgrade" not in command
    assert all("application/vnd.jupyter.widget-view+json" in kinds for kinds in facts["shown"])
