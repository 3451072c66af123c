"""Interrupting a real kernel: what was generated stays, and the lab goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.real_model


@pytest.fixture
def kernel() -> Iterator[Any]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _run(client: Any, code: str, *, timeout: float = 120) -> tuple[dict[str, Any], str]:
    """(reply, everything printed)."""
    printed: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=timeout, output_hook=hear)
    return reply["content"], "".join(printed)


def test_an_interrupted_kernel_keeps_the_text(kernel: Any) -> None:
    manager, client = kernel
    assert (
        _run(client, "import labkit as lk; lab = lk.load(device='cpu'); lab.generate('Hi', max_new_tokens=1)")[0][
            "status"
        ]
        == "ok"
    )
    message = client.execute("gen = lab.generate('Tell me a long story.', max_new_tokens=4000, show=True)")
    shown = 0
    while shown < 8:  # until the text has been redrawn a few times
        heard = client.get_iopub_msg(timeout=60)
        shown += heard["msg_type"] == "update_display_data"
    manager.interrupt_kernel()
    began = time.monotonic()
    while True:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == message:
            break
    assert reply["content"]["status"] == "ok"
    assert time.monotonic() - began < 10
    answer, printed = _run(
        client, "print(gen.finish_reason, len(gen.ids) > 3, bool(gen.text), lab.generate('Hi', max_new_tokens=2).ids)"
    )
    assert answer["status"] == "ok"
    assert printed.startswith("interrupted True True [")
