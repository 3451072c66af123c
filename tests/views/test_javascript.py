"""The widgets' pure JavaScript, in node's own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_the_pure_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        if os.environ.get("LABKIT_REQUIRE_BROWSER") == "1":
            pytest.fail("node is needed for these tests")
        pytest.skip("node is not here")
    files = sorted(str(path) for path in TESTS.glob("*/*.test.mjs"))
    assert files
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
