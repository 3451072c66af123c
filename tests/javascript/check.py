"""Types and style of the widgets' JavaScript: TypeScript's `tsc` by the JSDoc types, and a linter.

Run by `make check`. Both tools come from the lock file beside this, once, into .venv/javascript. Users need no node:
where node or npm is missing, or its packages can't be had, this says so and is content, unless LABKIT_REQUIRE_NODE=1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOLS = ROOT / ".venv" / "javascript"
STAMP = TOOLS / "installed.stamp"
GIVEN = ("package.json", "package-lock.json", ".npmrc")


def main() -> int:
    """The exit status: 0 where all is well, or where the checks can't be run and needn't."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        return without(f"{' and '.join(missing)} not found")
    if problem := install():
        return without(problem)
    found = TOOLS / "node_modules"
    run = [
        ["node", str(found / "typescript/bin/tsc"), "--project", str(HERE / "tsconfig.json")],
        ["node", str(found / "typescript/bin/tsc"), "--project", str(HERE / "tsconfig.strict.json")],
        ["node", str(found / "@biomejs/biome/bin/biome"), "lint", "--config-path", str(HERE / "lint.json")],
    ]
    run[-1] += ["--error-on-warnings", "labkit", "tests"]
    failed = [subprocess.run(command, cwd=ROOT, check=False).returncode for command in run]
    return int(any(failed))


def without(problem: str) -> int:
    required = os.environ.get("LABKIT_REQUIRE_NODE") == "1"
    print(f"The JavaScript is not checked: {problem}.", file=sys.stderr if required else sys.stdout)
    return int(required)


def install() -> str | None:
    """The tools of the lock file, where they are not there yet; what is wrong, or None."""
    wanted = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in GIVEN)).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return None
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in GIVEN:
        shutil.copyfile(HERE / name, TOOLS / name)
    npm = [str(shutil.which("npm")), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(npm, cwd=TOOLS, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
        return f"npm could not install its tools ({last})"
    STAMP.write_text(wanted, encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())
