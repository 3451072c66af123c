"""The view of docs/adding_a_view.md in a real Chromium: its exported file, and its widget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import view_page

pytestmark = pytest.mark.browser


def test_the_page_s_view_is_drawn(chromium: Any, tmp_path: Path) -> None:
    assert chromium is not None  # the copy's tests start one of their own
    assert "1 passed" in view_page.tested(view_page.build(tmp_path), "tests/browser/test_loss_page.py")
