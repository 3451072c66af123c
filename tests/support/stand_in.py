"""A view's own render() in a page, on a stand-in for the model that a notebook's kernel would keep.

In the page, `window.asked` holds what the view sent, `window.saved` what it saved, `window.held` its listeners, and
`window.done()` takes it away.
"""

from __future__ import annotations

import base64
from typing import Any

import anywidget

State = list[dict[str, Any]]

STAND_IN = """
([state, bytes]) => {
    const values = new Map(Object.entries(state));
    const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
    const keep = (bytes) => {
        for (const [name, text] of Object.entries(bytes)) values.set(name, view(text));
    };
    keep(bytes);
    const held = [];
    const tell = (name) => {
        for (const [event, callback] of [...held]) if (event === `change:${name}`) callback();
    };
    const changed = new Set();
    const model = {
        get: (name) => values.get(name),
        set(name, value) {
            if (values.get(name) === value) return;
            values.set(name, value);
            changed.add(name);
            tell(name);
        },
        save_changes() {
            window.saved.push(Object.fromEntries([...changed].map((name) => [name, values.get(name)])));
            changed.clear();
        },
        send(content) { window.asked.push(content); },
        on: (event, callback) => held.push([event, callback]),
        off(event, callback) {
            const i = held.findIndex(([e, c]) => e === event && c === callback);
            if (i >= 0) held.splice(i, 1);
        },
    };
    window.saved = [];
    window.asked = [];
    window.held = held;
    window.answer = (content, buffers) => {
        for (const [event, callback] of [...held]) if (event === "msg:custom") callback(content, buffers.map(view));
    };
    window.receive = (state, bytes) => {  // all of a message first, then what changed
        const before = new Map(values);
        keep(bytes);
        for (const [name, value] of Object.entries(state)) values.set(name, value);
        for (const name of [...Object.keys(bytes), ...Object.keys(state)]) {
            if (JSON.stringify(before.get(name)) !== JSON.stringify(values.get(name)) || name in bytes) tell(name);
        }
    };
    const el = document.createElement("div");
    document.getElementById("labkit-view").replaceChildren(el);
    window.done = window.labkit.render({ model, el });
}
"""


def state(view: anywidget.AnyWidget) -> State:
    """All that a kernel would send: numbers and texts by name, and apart from them bytes (base64) by name."""
    own = set(type(view).class_traits(sync=True)) - set(anywidget.AnyWidget.class_traits())
    values = {name: getattr(view, name) for name in own if not name.startswith("_")}
    raw = {name: base64.b64encode(value).decode() for name, value in values.items() if isinstance(value, bytes)}
    return [{name: value for name, value in values.items() if name not in raw}, raw]


def draw(page: Any, view: anywidget.AnyWidget, given: State | None = None) -> None:
    """Draw the view in its exported page, in place of what is there, from what the kernel sent (default: its state now)."""
    module = str(view._esm).replace("export default", "window.labkit =")
    page.add_script_tag(content=f"{{{module}}}")
    page.evaluate(STAND_IN, state(view) if given is None else given)


def receive(page: Any, given: State) -> None:
    """Another message of the kernel: values and bytes that may have changed."""
    page.evaluate("([state, bytes]) => window.receive(state, bytes)", given)


def answer(page: Any, content: Any, buffers: list[Any]) -> None:
    """The kernel's answer to something that the view sent."""
    texts = [base64.b64encode(bytes(buffer)).decode() for buffer in buffers]
    page.evaluate("([content, buffers]) => window.answer(content, buffers)", [content, texts])


def pump(page: Any, view: anywidget.AnyWidget) -> list[dict[str, Any]]:
    """Bring what the page set and asked for to the real view, and its answers back, as a kernel would; what it asked."""
    asked, saved = page.evaluate("[window.asked.splice(0), window.saved.splice(0)]")
    for change in saved:
        view.set_state(change)
    answers: list[tuple[Any, list[Any]]] = []
    view.send = lambda content, buffers=None: answers.append((content, buffers or []))  # type: ignore[method-assign]
    for question in asked:
        view._handle_custom_msg(question, [])
    for content, buffers in answers:
        answer(page, content, buffers)
    return list(asked)


def tell(page: Any, view: Any, seconds: float = 10.0) -> None:
    """What the page asked for, done by the view, and the page told."""
    pump(page, view)
    assert view.wait(seconds)
    receive(page, state(view))
