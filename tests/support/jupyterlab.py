"""A JupyterLab or Notebook 7 of the test's own, driven through its application object rather than its looks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CELLS = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
  return Array.from({length: cells.length}, (_, i) => cells.get(i)).map(cell => ({
    type: cell.type,
    source: cell.sharedModel.getSource(),
    count: cell.executionCount ?? null,
    outputs: cell.outputs ? cell.outputs.toJSON() : [],
  }));
}"""

CONTENT = "window.jupyterapp.shell.currentWidget.content"
KERNEL = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status ?? 'none'"


@contextlib.contextmanager
def server(folder: Path, scratch: Path, front_end: str = "lab") -> Iterator[str]:
    """JupyterLab ("lab") or Notebook 7 ("notebook") on loopback with fresh settings, serving `folder`; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_NO_CONFIG": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        front_end,
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--allow-root",
    ]
    command += ["--IdentityProvider.token=", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    log = scratch / "jupyter.log"
    scratch.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/status", timeout=2) as answer:
            json.load(answer)
            return
        time.sleep(0.3)
    raise TimeoutError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def open_notebook(page: Any, address: str, name: str, *, dark: bool = False, front_end: str = "lab") -> None:
    """Open a notebook and wait until its kernel is there; the idle label alone shows before a kernel exists."""
    page.goto(f"{address}/lab/tree/{name}?reset" if front_end == "lab" else f"{address}/notebooks/{name}?reset")
    wait_for_kernel(page)
    set_theme(page, dark=dark)
    with contextlib.suppress(Exception):
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")


def wait_for_kernel(page: Any, *, timeout_seconds: float = 90) -> None:
    page.wait_for_function(f"({KERNEL})() === 'idle'", timeout=timeout_seconds * 1000)


def set_theme(page: Any, *, dark: bool) -> None:
    theme = "JupyterLab Dark" if dark else "JupyterLab Light"
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg="false" if dark else "true")


def save(page: Any) -> None:
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def evaluate(page: Any, code: str, *, timeout_seconds: float = 60) -> str:
    """What a line of code prints in the notebook's kernel; no cell is run."""
    asking = """code => new Promise((resolve, reject) => {
      const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
      const asked = kernel.requestExecute({ code, store_history: false });
      let printed = "";
      asked.onIOPub = ({ header, content }) => {
        if (header.msg_type === "stream") printed += content.text;
        if (header.msg_type === "error") reject(new Error(`${content.ename}: ${content.evalue}`));
      };
      asked.done.then(() => resolve(printed), reject);
    })"""
    page.set_default_timeout(timeout_seconds * 1000)
    printed: str = page.evaluate(asking, code)
    return printed


def run_cell(page: Any, index: int) -> None:
    """Start one cell; doesn't wait for it."""
    page.evaluate(
        f"""index => {{ const notebook = {CONTENT}; notebook.deselectAll(); notebook.activeCellIndex = index;
        window.jupyterapp.commands.execute('notebook:run-cell'); }}""",
        index,
    )


def place(page: Any) -> dict[str, Any]:
    """What the notebook's own keys would change: its cells, which of them is active, and the mode."""
    asked = f"""() => {{ const notebook = {CONTENT}; return {{
      active: notebook.activeCellIndex, mode: notebook.mode,
      cells: Array.from({{length: notebook.model.cells.length}}, (_, i) => notebook.model.cells.get(i).id),
      hidden: notebook.widgets.map(cell => [cell.inputHidden, Boolean(cell.outputHidden)]) }}; }}"""
    found: dict[str, Any] = page.evaluate(asked)
    return found


def run_all(page: Any, *, timeout_seconds: float = 240) -> list[dict[str, Any]]:
    """Run all cells and wait for the last; returns the notebook's cells, from its model."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    last = "() => { const c = window.jupyterapp.shell.currentWidget.content.model.cells; "
    last += "return Array.from({length: c.length}, (_, i) => c.get(i)).filter(x => x.type === 'code')"
    last += ".every(x => x.executionCount !== null || !x.sharedModel.getSource().trim()); }"
    page.wait_for_function(last, timeout=timeout_seconds * 1000)
    page.wait_for_function(f"({KERNEL})() === 'idle'", timeout=timeout_seconds * 1000)
    return page.evaluate(CELLS)


def errors(cells: list[dict[str, Any]]) -> list[str]:
    return [
        output.get("evalue", "") for cell in cells for output in cell["outputs"] if output["output_type"] == "error"
    ]
