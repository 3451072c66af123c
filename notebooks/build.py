"""Make the notebooks from their one source.

    python notebooks/build.py            run every source, write the notebooks
    python notebooks/build.py --check    fail when a notebook does not follow from its source

A source is notebooks/source/NAME.py in jupytext's percent format. Two notebooks follow from it: notebooks/NAME.ipynb,
the learner's, and notebooks/solved/NAME.ipynb. Cells tagged `stub` are in the learner's only, cells tagged `solution`
in the solved one only, all others in both, under the same id. Both get the repository's address (kept in
pyproject.toml), their picture as an attachment, and only those outputs that a reader on a code-hosting site can use:
no widget state, no timestamps, nothing large; and in the learner's none that answers a prediction before it is made
(they are compared in the solved one). Both are run, with a progress file that is thrown away.

What all notebooks share is not written into each. A code cell of one line stands for others:

    # set-up                                     the set-up cell, notebooks/source/set_up.py
    # exercise: attention.causal_mask            its card, the stub or the solution, and the check
    # exercise: first_look.top_p as checked      the same; the check's result gets this name and is shown

Stub and solution come from the exercise's definition (labkit/teaching/exercises). In the text, {{MINUTES}} and the other
words of `counted` and `address` are filled in: a head can't promise what the notebook does not hold.

Code before the first numbered section ("## 1 · ...") is the set-up. A learner runs it, and then any section.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import re
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT_BYTES = 150_000
KEPT_MIMETYPES = ("text/plain", "text/html", "image/png", "image/svg+xml", "application/vnd.plotly.v1+json")
LARGEST_OUTPUT_BYTES = 20_000
LARGEST_CHART_BYTES = 6_000  # code-hosting sites don't draw plotly's charts: it is only there before a cell is run
WIDGET = "application/vnd.jupyter.widget-view+json"
STUB, SOLUTION = "stub", "solution"  # tags that only say which version a cell is for
PREDICT = re.compile(r"^(\w+) = lk\.predict\(", re.MULTILINE)
CHECKED = re.compile(r"lk\.(exercise|check)\(")  # in the learner's version these say what to do, and no answer
SET_UP = re.compile(r"^# set-up$")
EXERCISE = re.compile(r"^# exercise: (?P<id>\w+\.\w+)(?: as (?P<result>\w+))?$")
WORD = re.compile(r"\{\{(\w+)\}\}")
MINUTES = re.compile(
    r"^\*(?P<extra>Extra, )?(?P<minutes>\d+) minutes?\b(?:, with the extra exercise (?P<with_exercise>\d+))?",
    re.MULTILINE,
)
SPELLED = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
LEAST_GIB = 2  # JupyterLab and a browser's page need some as well
SPOILER = "answer"  # tag of a learner's cell whose output would give away what is to be guessed just above it
COMPARED = "nbval-check-output"
SECTION = re.compile(r"^## (\d+) · (.+)$", re.MULTILINE)


def sources() -> list[Path]:
    return sorted((HERE / "source").glob("[0-9]*.py"))


def target(source: Path, *, solved: bool) -> Path:
    """Where a version of a source belongs."""
    folder = HERE / "solved" if solved else HERE
    return folder / f"{source.stem}.ipynb"


def from_source(path: Path, *, solved: bool = False) -> Any:
    """The learner's or the solved notebook a source stands for, without outputs."""
    notebook = jupytext.read(path)
    notebook.cells = _written_out(notebook.cells, path)
    words = address(path, solved=solved) | counted(notebook, path)
    cells = []
    asked, told = (
        "",
        False,
    )  # the guess that is open, and whether its answer has been shown; closed by the prose after that
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if STUB in tags and SOLUTION in tags:
            raise ValueError(f"{path.name}: cell {number} is tagged {STUB} and {SOLUTION}, and so is in no version")
        if (STUB if solved else SOLUTION) in tags:
            continue
        cell.source = _filled(cell.source, words, path)
        cell.id = f"cell-{number:02d}"  # of the source, so that both versions agree
        for picture in re.findall(r"\(attachment:([\w.-]+)\)", cell.source):
            data = base64.b64encode((path.parent / picture).read_bytes()).decode()
            cell.setdefault("attachments", {})[picture] = {"image/png": data}
        if guess := PREDICT.search(cell.source) if cell.cell_type == "code" and not solved else None:
            asked, told = guess[1], False
        elif cell.cell_type == "markdown" and told:
            asked = ""
        spoils = cell.cell_type == "code" and bool(asked) and not guess and not CHECKED.match(cell.source)
        told = told or f"{asked}.show(" in cell.source
        kept = [tag for tag in tags if tag not in (STUB, SOLUTION, *([COMPARED] if spoils else []))]
        if spoils:
            kept.append(SPOILER)
        if solved:
            kept = [tag for tag in kept if tag != SPOILER]
        cell.metadata = {"tags": kept} if kept else {}
        cells.append(cell)
    if solved:
        _say_solved(cells[0], path)
    notebook.cells = cells
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _written_out(cells: list[Any], path: Path) -> list[Any]:
    """The cells with the set-up and the exercises in place of the lines that stand for them."""
    written: list[Any] = []
    for cell in cells:
        if cell.cell_type != "code":
            written.append(cell)
        elif SET_UP.match(cell.source):
            text = (HERE / "source" / "set_up.py").read_text(encoding="utf-8").rstrip("\n")
            written.append(nbformat.v4.new_code_cell(text))
        elif named := EXERCISE.match(cell.source):
            written += exercise_cells(named["id"], named["result"])
        elif re.match(r"# (set-up|exercise)\b", cell.source):
            raise ValueError(
                f"{path.name}: {cell.source.splitlines()[0]!r} is not understood: write '# set-up', "
                "'# exercise: topic.name' or '# exercise: topic.name as result', alone in its cell"
            )
        else:
            written.append(cell)
    return written


def exercise_cells(id: str, result: str | None = None) -> list[Any]:
    """Card, stub, solution and check of an exercise, as its definition has them. result: what the check is called."""
    from labkit.teaching.exercises import find  # imports torch, which most of what is done here can do without

    exercise = find(id)
    check = f'lk.check("{id}", {exercise.name})'
    stub, solution = (
        nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})
        for tag, source in ((STUB, exercise.stub), (SOLUTION, exercise.solution))
    )
    return [
        nbformat.v4.new_code_cell(f'lk.exercise("{id}")'),
        stub,
        solution,
        nbformat.v4.new_code_cell(f"{result} = {check}\n{result}" if result else check),
    ]


# --------------------------------------------------------------------------------------------- words that are filled in


def address(path: Path, *, solved: bool) -> dict[str, str]:
    """REPOSITORY and COLAB: where the project is, and where Google Colab opens this version from."""
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    colab = re.sub(r"^https://[^/]+/", "https://colab.research.google.com/github/", repository)
    place = f"notebooks/{'solved/' if solved else ''}{path.stem}.ipynb"
    return {"REPOSITORY": repository, "COLAB": f"{colab}/blob/main/{place}"}


def counted(notebook: Any, path: Path) -> dict[str, str]:
    """What a head promises, counted in the notebook.

    MINUTES: of all sections that are not extra, to the nearest five.  EXERCISE_MINUTES: of these, what the exercises take.
    SECTIONS: how many these are, spelled out.  EXTRA_MINUTES: what extra sections and extra exercises take besides.
    EXERCISES, PREDICTIONS, CLAIMS: such as "8 exercises".  MEMORY: such as "2 GiB", measured while it was built.
    """
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    main_exercises, minutes, extra, count = 0, 0, 0, 0
    for section in sections(notebook):
        time = MINUTES.search(section.cells[0].source)
        taken = int(time["minutes"]) if time else 0
        if time and time["extra"]:
            extra += taken
            continue
        besides = int(time["with_exercise"]) - taken if time and time["with_exercise"] else 0
        count, minutes, extra = count + 1, minutes + taken, extra + besides
        main_exercises += _exercise_minutes(section.code) - besides
    words = {
        "MINUTES": f"{5 * round(minutes / 5)}",
        "EXTRA_MINUTES": f"{extra}",
        "EXERCISE_MINUTES": f"{main_exercises}",
        "SECTIONS": SPELLED[count] if count < len(SPELLED) else str(count),
        "EXERCISES": _many(len(_exercises(notebook.cells)), "exercise"),
        "PREDICTIONS": _many(len(re.findall(r"^\w+ = lk\.predict\(", code, re.MULTILINE)), "prediction"),
        "CLAIMS": _many(len(re.findall(r"\blk\.claim\(", code)), "claim"),
    }
    words["MEMORY"] = f"{measured().get(path.stem, '?')} GiB"  # not known before the first run
    return words


def _exercises(cells: list[Any]) -> list[str]:
    """The ids of the exercises in some cells."""
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.findall(r'^lk\.exercise\(\s*"([\w.]+)"', code, re.MULTILINE)


def _exercise_minutes(cells: list[Any]) -> int:
    if not (ids := _exercises(cells)):
        return 0
    from labkit.teaching.exercises import find  # imports torch, as above

    return sum(find(id).minutes for id in ids)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _filled(text: str, words: dict[str, str], path: Path) -> str:
    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            raise ValueError(f"{path.name}: {match[0]} is not known; there are {', '.join(sorted(words))}")
        return words[match[1]]

    return WORD.sub(word, text)


def measured() -> dict[str, int]:
    """By notebook, the memory that its kernel needs, in whole GiB."""
    file = HERE / "source" / "memory.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def note_memory(path: Path, peak_bytes: int) -> None:
    """Write down what a run needed, rounded up with a tenth to spare."""
    memory = measured() | {path.stem: max(math.ceil(1.1 * peak_bytes / 2**30), LEAST_GIB)}
    if memory != measured():
        text = json.dumps(dict(sorted(memory.items())), indent=1)
        (HERE / "source" / "memory.json").write_text(text + "\n", encoding="utf-8")


def _say_solved(head: Any, path: Path) -> None:
    """Put it right under the title, before anything else is read."""
    title, _, rest = head.source.partition("\n")
    if head.cell_type != "markdown" or not title.startswith("# "):
        raise ValueError(f"{path.name}: the first cell is to begin with the title, '# ...'")
    note = (
        f"> **This version holds the solutions.** The one to work in is [{path.stem}.ipynb](../{path.stem}.ipynb): "
        "try its exercises before you look here."
    )
    head.source = f"{title}\n\n{note}\n{rest}".rstrip("\n")


@dataclass(frozen=True)
class Section:
    """A numbered section: from its heading "## N · title" to the next heading of that rank."""

    number: int
    title: str
    cells: list[Any]

    @property
    def code(self) -> list[Any]:
        return [cell for cell in self.cells if cell.cell_type == "code"]


def sections(notebook: Any) -> list[Section]:
    """The numbered sections of a notebook, in order."""
    found: list[Section] = []
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            heading = SECTION.search(cell.source)
            inside = heading is not None
            if heading is not None:
                found.append(Section(int(heading[1]), heading[2].strip(), []))
        if inside:
            found[-1].cells.append(cell)
    return found


def set_up(notebook: Any) -> list[Any]:
    """The code a learner runs before any section: all of it that stands before the first numbered one."""
    before: list[Any] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and SECTION.search(cell.source):
            break
        if cell.cell_type == "code":
            before.append(cell)
    return before


# Run after the last cell, in the notebook's own kernel: the most memory it had, in bytes (0 where it can't be asked).
# Linux counts in ru_maxrss what the process that started this one had at that moment, so its own high-water mark is read.
PEAK = """import re, sys
try:
    if sys.platform == "linux":
        print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
    else:
        import resource
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
except ImportError:
    print(0)"""


def execute(notebook: Any, folder: Path) -> int:
    """Execute in place, in a folder, as nobody in particular: progress is neither read nor written.

    Returns the most bytes of memory the kernel had.
    """
    import nbclient

    folder.mkdir(exist_ok=True)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            client.execute(env=os.environ | {"LABKIT_PROGRESS": str(Path(scratch) / "progress.json")})
    finally:
        asked = notebook.cells.pop()
    return int(asked.outputs[0].text)


def run(notebook: Any, folder: Path) -> int:
    """Execute in place, then keep only what helps a reader. Returns the most bytes of memory the kernel had."""
    peak = execute(notebook, folder)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _joined([kept for output in cell.outputs if (kept := _kept(output))])
            if SPOILER in cell.metadata.get("tags", []):
                cell.outputs = []
            if "lk.setup()" in cell.source:  # what it says is of the machine that built the notebook
                cell.outputs = []
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})
    return peak


def _kept(output: Any) -> Any | None:
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if output.output_type not in ("display_data", "execute_result"):
        return output
    if WIDGET in output.data and "text/html" not in output.data:  # a progress bar: nothing of it is left to see
        return None
    output.data = {
        kind: value
        for kind, value in output.data.items()
        if kind in KEPT_MIMETYPES
        and len(str(value)) <= (LARGEST_CHART_BYTES if "plotly" in kind else LARGEST_OUTPUT_BYTES)
    }
    output.metadata = {}
    return output if output.data else None


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with neighbouring pieces of printed text made one."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def same_input(one: Any, other: Any) -> bool:
    """Whether two notebooks have the same cells, whatever came out of them."""

    def inputs(notebook: Any) -> list[Any]:
        return [(c.cell_type, c.id, c.source, c.get("attachments"), c.metadata.get("tags")) for c in notebook.cells]

    return inputs(one) == inputs(other)


def as_text(notebook: Any, *, limit: int = LIMIT_BYTES, plain: bool = False) -> str:
    """The file's content. plain: where it would be larger than the limit, the largest outputs are kept as text only."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    largest = sorted(
        (output for cell in code for output in cell.outputs if "data" in output), key=lambda each: len(str(each.data))
    )
    text = nbformat.writes(notebook, indent=1) + "\n"
    while plain and largest and len(text.encode()) > limit:
        output = largest.pop()
        output.data = {kind: value for kind, value in output.data.items() if kind == "text/plain"}
        for cell in code:
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
        text = nbformat.writes(notebook, indent=1) + "\n"
    return text


def out_of_step(chosen: list[Path]) -> list[str]:
    """Names of the notebooks that do not follow from their source, or have none."""
    stale = []
    for source in chosen:
        for solved in (False, True):
            path = target(source, solved=solved)
            expected = from_source(source, solved=solved)
            if not path.is_file() or not same_input(expected, nbformat.read(path, as_version=4)):
                stale.append(str(path.relative_to(HERE)))
    wanted = {target(source, solved=solved) for source in sources() for solved in (False, True)}
    there = {path for folder in (HERE, HERE / "solved") for path in folder.glob("*.ipynb")}
    return stale + sorted(f"{path.relative_to(HERE)} (without a source)" for path in there - wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a notebook is out of step")
    parser.add_argument("names", nargs="*", help="which sources (by the beginning of their names); all by default")
    arguments = parser.parse_args()
    chosen = [path for path in sources() if not arguments.names or path.name.startswith(tuple(arguments.names))]
    if arguments.check:
        if stale := out_of_step(chosen):
            print(f"out of step with their sources: {', '.join(stale)}; run `make notebooks`", file=sys.stderr)
        return 1 if stale else 0
    return 0 if all(build(source) for source in chosen) else 1


def build(source: Path) -> bool:
    """Run and write both notebooks of a source; False, and nothing written, where one would be too large."""
    notebooks = {solved: from_source(source, solved=solved) for solved in (False, True)}
    note_memory(
        source, max(run(notebook, target(source, solved=solved).parent) for solved, notebook in notebooks.items())
    )
    texts = {}
    for solved, notebook in notebooks.items():
        path = target(source, solved=solved)
        for cell, fresh in zip(notebook.cells, from_source(source, solved=solved).cells, strict=True):
            cell.source = fresh.source  # the memory is known only now
        nbformat.validate(notebook)
        texts[path] = as_text(notebook, plain=solved)
        if (size := len(texts[path].encode())) > LIMIT_BYTES:
            name = path.relative_to(HERE)
            print(f"{name} would have {size:,} bytes; at most {LIMIT_BYTES:,} are wanted", file=sys.stderr)
            return False
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(HERE)}: {len(text.encode()):,} bytes")
    return True


if __name__ == "__main__":
    sys.exit(main())
