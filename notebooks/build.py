"""Make the notebooks from their one source.

    python notebooks/build.py            run every source, write the notebooks
    python notebooks/build.py --check    fail when a notebook does not follow from its source

A source is notebooks/source/NAME.py in jupytext's percent format. The notebook gets the repository's address (kept in
pyproject.toml), its picture as an attachment, and only those outputs that a reader on a code-hosting site can use:
no widget state, no timestamps, nothing large.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT_BYTES = 150_000
KEPT_MIMETYPES = ("text/plain", "text/html", "image/png", "application/vnd.plotly.v1+json")
LARGEST_OUTPUT_BYTES = 20_000
WIDGET = "application/vnd.jupyter.widget-view+json"


def sources() -> list[Path]:
    return sorted((HERE / "source").glob("[0-9]*.py"))


def from_source(path: Path) -> Any:
    """The notebook a source stands for, without outputs."""
    notebook = jupytext.read(path)
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    colab = re.sub(r"^https://[^/]+/", "https://colab.research.google.com/github/", address)
    words = {"REPOSITORY": address, "COLAB": f"{colab}/blob/main/notebooks/{path.stem}.ipynb"}
    for number, cell in enumerate(notebook.cells):
        for word, text in words.items():
            cell.source = cell.source.replace(f"{{{{{word}}}}}", text)
        cell.id = f"cell-{number:02d}"
        for picture in re.findall(r"\(attachment:([\w.-]+)\)", cell.source):
            data = base64.b64encode((HERE / "source" / picture).read_bytes()).decode()
            cell.setdefault("attachments", {})[picture] = {"image/png": data}
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any) -> None:
    """Execute in place, then keep only what helps a reader."""
    import nbclient

    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _joined([kept for output in cell.outputs if (kept := _kept(output))])
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})


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
        if kind in KEPT_MIMETYPES and len(str(value)) <= LARGEST_OUTPUT_BYTES
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a notebook is out of step")
    parser.add_argument("names", nargs="*", help="which sources (by the beginning of their names); all by default")
    arguments = parser.parse_args()
    stale = []
    for source in sources():
        if arguments.names and not source.name.startswith(tuple(arguments.names)):
            continue
        target = HERE / f"{source.stem}.ipynb"
        notebook = from_source(source)
        if arguments.check:
            if not target.is_file() or not same_input(notebook, nbformat.read(target, as_version=4)):
                stale.append(target.name)
            continue
        run(notebook)
        nbformat.validate(notebook)
        text = nbformat.writes(notebook, indent=1) + "\n"
        if len(text.encode()) > LIMIT_BYTES:
            print(
                f"{target.name} would have {len(text.encode()):,} bytes; at most {LIMIT_BYTES:,} are wanted",
                file=sys.stderr,
            )
            return 1
        target.write_text(text, encoding="utf-8")
        print(f"{target.name}: {len(text.encode()):,} bytes")
    if stale:
        print(f"out of step with their sources: {', '.join(stale)}; run `make notebooks`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
