"""`import labkit` against `import transformers`, each in a fresh Python that times the statement alone."""

from __future__ import annotations

import subprocess
import sys

from common import compare, report

TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def in_fresh_python(module: str) -> float:
    done = subprocess.run([sys.executable, "-c", TIMED.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    report(
        [
            compare(
                "import",
                ("import labkit", lambda: in_fresh_python("labkit")),
                ("import transformers", lambda: in_fresh_python("transformers")),
                rounds=7,
            )
        ]
    )
