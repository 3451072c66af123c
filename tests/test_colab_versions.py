"""What a view and a kernel say to a front end, heard on the wire; also with Google Colab's widget libraries (`make colab`)."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jupyter_client.manager import KernelManager
from traces import random_trace

from labkit.views.attention_view.codes import MOST_CELLS, pack
from labkit.views.kit.codes import quantize

COLAB = {"ipywidgets": "7.7.1", "anywidget": "0.9.21", "plotly": "5.24.1"}
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
LAYERS, HEADS, TOKENS = 3, 2, 40
LONG = 2 * MOST_CELLS + 100  # long enough to be pooled, so that tiles can be asked for

SUPPORT = Path(__file__).parent / "support"
VIEW = f"""
import sys, time
sys.path.insert(0, {str(SUPPORT)!r})
import labkit as lk
import labkit.views.attention_view as room
from labkit.attention import AblationEffect
from traces import random_trace
room.AT_ONCE = 1  # so that the map is filled by the worker, after the view is shown
def without(heads):
    time.sleep(0.2)
    return AblationEffect(heads=tuple(heads), loss_before=2.0, loss_after=2.5, next=((" <b>it", 0.25, 0.125),), loss_change=())
view = lk.views.attention(random_trace({TOKENS}, layers={LAYERS}, heads={HEADS}), layer=0, head=0, ablate=without)
"""


@pytest.mark.skipif(os.environ.get("LABKIT_COLAB") != "1", reason="looks at an environment of its own: make colab")
def test_the_versions_are_those_of_colab() -> None:
    import anywidget
    import ipywidgets
    import plotly

    assert {name: metadata.version(name) for name in COLAB} == COLAB
    for package in (anywidget, ipywidgets, plotly):
        assert package.__version__ == COLAB[package.__name__]
        assert Path(package.__file__).is_relative_to(sys.prefix)


class FrontEnd:
    """The other side of the kernel's wire: models as their messages make them, and everything else that is said."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.models: dict[str, dict[str, Any]] = {}
        self.updates: list[tuple[str, set[str]]] = []
        self.customs: list[tuple[dict[str, Any], list[bytes]]] = []
        self.shown: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def run(self, code: str) -> None:
        """Run code and hear what it says until it is done."""
        asked = self._client.execute(code)
        idle = False

        def heard(message: dict[str, Any]) -> None:
            nonlocal idle
            own = message["parent_header"].get("msg_id") == asked
            idle = idle or (own and message["content"].get("execution_state") == "idle")

        self.listen(lambda: idle, heard)
        assert self.errors == []

    def send(self, model: str, **data: Any) -> None:
        content = {"comm_id": model, "data": data}
        self._client.shell_channel.send(self._client.session.msg("comm_msg", content))

    def ask(self, model: str, question: str, **args: Any) -> tuple[Any, list[bytes]]:
        """A question of the page, and the answer to it with its buffers."""
        before = len(self.customs)
        self.send(model, method="custom", content={"ask": question, "id": f"q {before}", "args": args})
        self.listen(lambda: len(self.customs) > before)
        answer, buffers = self.customs[-1]
        assert set(answer) == {"answer", "value"}
        assert answer["answer"] == f"q {before}"
        return answer["value"], buffers

    def listen(self, until: Callable[[], bool], heard: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        end = time.monotonic() + 60
        while not until():
            assert time.monotonic() < end, f"nothing more was said; updates {self.updates[-5:]}, errors {self.errors}"
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            self._take(message)
            heard(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        buffers = [bytes(each) for each in message["buffers"]]
        if kind == "comm_open":
            self.models[content["comm_id"]] = {}
            self._merge(content["comm_id"], content["data"], buffers)
        elif kind == "comm_msg" and content["data"]["method"] == "update":
            self._merge(content["comm_id"], content["data"], buffers)
            self.updates.append((content["comm_id"], set(content["data"]["state"]) | _paths(content["data"])))
        elif kind == "comm_msg" and content["data"]["method"] == "custom":
            self.customs.append((content["data"]["content"], buffers))
        elif kind == "display_data":
            self.shown.append(content["data"])
        elif kind == "error":
            self.errors.append("\n".join(content["traceback"]))
        elif kind == "stream" and content["name"] == "stderr":
            self.errors.append(content["text"])

    def _merge(self, model: str, data: dict[str, Any], buffers: list[bytes]) -> None:
        state = dict(data["state"])
        for (name,), buffer in zip(data.get("buffer_paths", []), buffers, strict=True):
            state[name] = buffer
        self.models[model] |= state


def _paths(data: dict[str, Any]) -> set[str]:
    return {path[0] for path in data.get("buffer_paths", [])}


@pytest.fixture(scope="module")
def front_end() -> Iterator[FrontEnd]:
    """A kernel of this very environment with a view in it."""
    manager = KernelManager()
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]  # type: ignore[union-attr]
    manager.start_kernel(env=os.environ | {"JPY_PARENT_PID": str(os.getpid())})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        heard = FrontEnd(client)
        heard.run(VIEW)
        yield heard
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def view(front_end: FrontEnd) -> str:
    """The view's model, shown, its map filled."""
    (model,) = [key for key, state in front_end.models.items() if "map_0" in state]
    front_end.run("from IPython.display import display\ndisplay(view)")
    front_end.listen(lambda: all(front_end.models[model][f"map_{i}"] for i in range(LAYERS)))
    return model


def test_the_kernel_has_the_same_libraries(front_end: FrontEnd) -> None:
    front_end.run(
        "from importlib import metadata\n"
        f"assert {[metadata.version(name) for name in COLAB]!r} == [metadata.version(name) for name in {list(COLAB)!r}]"
    )


def test_the_view_is_displayed_as_a_widget_and_as_what_stays_without_one(front_end: FrontEnd, view: str) -> None:
    bundle = front_end.shown[0]
    assert bundle[WIDGET_MIME]["model_id"] == view
    assert "<img" in bundle["text/html"]
    assert "layer 0 · head 0" in bundle["text/plain"]
    assert len(front_end.shown) == 1, "once, not by the old way and the new"


def test_the_model_that_opens_is_whole(front_end: FrontEnd, view: str) -> None:
    state = front_end.models[view]
    assert "render" in state["_esm"]
    assert ".lk-attention" in state["_css"]
    assert state["_model_module"] == "anywidget"
    pattern = random_trace(TOKENS, layers=LAYERS, heads=HEADS).attention(0, 0).numpy()
    assert state["cells"] == pack(quantize(pattern))


def test_the_worker_thread_sends_each_part_of_the_map_once(front_end: FrontEnd, view: str) -> None:
    parts = [name for model, names in front_end.updates if model == view for name in names if name.startswith("map_")]
    parts = [name for name in parts if name != "map_status"]
    assert sorted(parts) == [f"map_{i}" for i in range(LAYERS)]
    header = np.frombuffer(front_end.models[view]["map_1"][:20], "<i4")
    assert header[3:].tolist() == [1, 1]


def test_a_front_end_opens_another_head(front_end: FrontEnd, view: str) -> None:
    before = len(front_end.updates)
    version = front_end.models[view]["version"]
    front_end.send(view, method="update", state={"layer": 2, "head": 1}, buffer_paths=[])
    front_end.listen(lambda: front_end.models[view]["version"] > version)
    pattern = random_trace(TOKENS, layers=LAYERS, heads=HEADS).attention(2, 1).numpy()
    assert front_end.models[view]["cells"] == pack(quantize(pattern))
    assert (front_end.models[view]["summary"]["layer"], front_end.models[view]["summary"]["head"]) == (2, 1)
    drawn = [names for _, names in front_end.updates[before:] if "cells" in names]
    assert len(drawn) == 1, "the head's bytes travel once"
    assert {"cells", "summary", "version"} <= drawn[0]


def test_an_exact_weight_is_answered(front_end: FrontEnd, view: str) -> None:
    answer, buffers = front_end.ask(view, "exact", trace=0, layer=1, head=1, row=20, column=7, pool=1, aside=False)
    assert answer["weight"] == random_trace(TOKENS, layers=LAYERS, heads=HEADS).attention(1, 1)[20, 7].item()
    assert buffers == []


def test_a_custom_answer_carries_a_buffer(front_end: FrontEnd, view: str) -> None:
    answer, (line,) = front_end.ask(view, "line", trace=0, heads=[[1, 0]], token=30, into=False, aside=False)
    assert answer is None
    row = random_trace(TOKENS, layers=LAYERS, heads=HEADS).attention(1, 0)[30].numpy()
    assert np.frombuffer(line, np.uint8).tolist() == quantize(row).tolist()


def test_a_tile_of_a_long_text_is_answered(front_end: FrontEnd) -> None:
    known = set(front_end.models)
    front_end.run(f"long = lk.views.attention(random_trace({LONG}, layers=1, heads=1))")
    (model,) = [key for key in set(front_end.models) - known if "map_0" in front_end.models[key]]
    shape, (tile,) = front_end.ask(model, "tile", trace=0, layer=0, head=0, row=3, column=2, pool=1, aside=False)
    assert shape == [256, 256]
    pattern = random_trace(LONG, layers=1, heads=1).attention(0, 0).numpy()
    assert (np.frombuffer(tile, np.uint8).reshape(256, 256) == quantize(pattern[768:1024, 512:768])).all()
    front_end.run("long.close()")


def test_ablation_in_a_thread_is_told_as_it_goes(front_end: FrontEnd, view: str) -> None:
    states: list[str] = []

    def note(_: object) -> None:
        state = front_end.models[view]["effect_status"]["state"]
        if state not in ("idle", "waiting", *states):
            states.append(state)

    front_end.send(view, method="custom", content={"ask": "ablate", "id": "a", "args": {"heads": [[1, 1]]}})
    front_end.listen(lambda: states[-1:] == ["done"], note)
    assert states == ["running", "done"]
    effect = front_end.models[view]["effect"]
    assert effect["heads"] == [[1, 1]]
    assert effect["next"] == [{"text": " <b>it", "before": 0.25, "after": 0.125}]


def test_setting_the_first_token_aside_restarts_the_map(front_end: FrontEnd, view: str) -> None:
    front_end.send(view, method="update", state={"aside": True}, buffer_paths=[])

    def there() -> bool:
        parts = [front_end.models[view][f"map_{i}"] for i in range(LAYERS)]
        return all(np.frombuffer(part[:4], "<i4")[0] == 1 for part in parts)

    front_end.listen(there)
    assert front_end.models[view]["summary"]["aside"]
