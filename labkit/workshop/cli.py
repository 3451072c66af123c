"""The `labkit` command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from labkit.errors import LabError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See into language models: set up, fetch models, check the machine, open the notebooks.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


@app.command()
def lab(
    folder: Annotated[Path | None, typer.Argument(help="Folder of notebooks; labkit's own by default.")] = None,
    port: Annotated[
        int, typer.Option(help="Port on this machine's loopback address; the next free one is taken.")
    ] = 8888,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
) -> None:
    """Open JupyterLab on the first notebook. It listens on this machine only."""
    from labkit.workshop import places

    shown = folder or _own_notebooks(places.notebooks(), places.project_root() is not None)
    if not shown.is_dir():
        raise LabError(f"There is no folder {shown}; give the folder that holds your notebooks.")
    first = next(iter(sorted(shown.glob("[0-9]*.ipynb"))), None)
    command = [sys.executable, "-m", "jupyter", "lab", "--ip=127.0.0.1", f"--port={port}", f"--notebook-dir={shown}"]
    if first is not None:
        command.append(f"--LabApp.default_url=/lab/tree/{first.name}")
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # as in a container: it still listens on loopback only
    if os.name == "posix":
        os.execv(sys.executable, command)  # so that Ctrl-C reaches JupyterLab itself, which asks and ends its kernels
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def _own_notebooks(shipped: Path, checkout: bool) -> Path:
    """The series itself in a checkout; a copy in the current folder when labkit is installed, so that edits are the user's."""
    if checkout:
        return shipped
    target = Path.cwd() / "labkit-notebooks"
    if not target.exists() and shipped.is_dir():
        shutil.copytree(shipped, target)
        typer.echo(f"The notebooks were copied to {target}.")
    return target


@app.command()
def get(
    name: Annotated[str, typer.Argument(help='A model: "default", or any name that lk.load takes.')] = "default",
    again: Annotated[bool, typer.Option("--again", help="Fetch and convert even when it is here.")] = False,
) -> None:
    """Bring a model into the cache, so that it opens without a network."""
    from labkit.models import catalog, resolve, shipped, store

    if ours := shipped.find(name):
        typer.echo(f"{ours.name} comes with labkit: {shipped.checked(ours)}")
        return
    known = catalog.find(name)
    stored = store.find(known.name) if known else None
    if known and stored and not again and not store.problems(stored):
        typer.echo(f"{known.name} is here: {stored.folder}")
        return
    place = resolve.prepare(known, again=again) if known else resolve.resolve(name)
    typer.echo(f"{place.name} is here: {place.path}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """What is at hand: size, licence, intact or not."""
    from labkit.workshop.inventory import inventory

    rows = inventory()
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "size", "licence", "state", "remark", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        size = f"{row.bytes_on_disk / 1e6:,.0f} MB" if row.bytes_on_disk is not None else "-"
        table.add_row(row.name, size, row.licence, row.state, row.remark)
    Console().print(table)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, packages, device, memory, disk, cache, the default model and the front end. Exit code 1 on a problem."""
    from labkit.workshop.doctor import examine

    findings = list(examine())
    if as_json:
        typer.echo(json.dumps([vars(f) for f in findings], indent=1))
    else:
        width = max(len(f.subject) for f in findings)
        for f in findings:
            remedy = f"  ->  {f.remedy}" if f.remedy else ""
            typer.echo(f"{f.level:8} {f.subject:{width}}  {f.text}{remedy}")
    raise typer.Exit(1 if any(f.level == "problem" for f in findings) else 0)


@app.command()
def claims(
    ids: Annotated[list[str] | None, typer.Argument(help="Which claims; all by default.")] = None,
    as_json: AsJson = False,
    record: Annotated[
        bool, typer.Option("--record", help="Compute anew and write to the ledger (in a checkout only).")
    ] = False,
) -> None:
    """What articles state, how labkit tests it, and what came out."""
    from labkit.teaching import claims as room
    from labkit.workshop import places

    if record:
        if places.project_root() is None:
            raise LabError(
                "The ledger is written in the project's folder, not in the installed package; clone the project."
            )
        rows = room.record(ids or ())
    else:
        rows = [room.find(id) for id in ids] if ids else list(room.ledger().values())
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "claim",
        "outcome",
        "stated",
        "what came out",
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for row in rows:
        table.add_row(row.id, row.outcome, row.stated, row.comparison or "-")
    Console().print(table)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which benchmarks; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest size only, where there are several.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure labkit against its peers, in one run, as ratios."""
    from labkit.workshop import places

    root = places.project_root()
    if root is None:
        raise LabError("The benchmarks are in the project's folder, not in the installed package; clone the project.")
    scripts = {p.stem.removeprefix("bench_"): p for p in sorted((root / "benchmarks").glob("bench_*.py"))}
    unknown = [n for n in names or [] if n not in scripts]
    if unknown:
        raise LabError(f"There is no benchmark {unknown[0]!r}; there are {', '.join(scripts)}.")
    options = [*(["--quick"] if quick else []), *(["--json"] if as_json else [])]
    status = 0
    for name in names or scripts:
        status |= subprocess.run([sys.executable, str(scripts[name]), *options], check=False).returncode
    raise typer.Exit(status)


def main() -> None:
    """Run the command; a foreseeable error is one line on stderr and exit code 2."""
    try:
        app()
    except LabError as error:
        typer.echo(f"labkit: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
