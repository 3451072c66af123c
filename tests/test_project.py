"""The project as a whole: its files agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_conda_environment_is_in_step() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *_ = [d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python")]
    assert python == f"python{PROJECT['requires-python']}"
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["--constraint constraints.txt", *PROJECT["dependencies"], "--editable ."]


def test_the_constraints_pin_every_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from labkit.workshop import places

    pinned = places.constraints()
    assert len(pinned) > 100
    development = PROJECT["optional-dependencies"]["dev"]
    for line in [*PROJECT["dependencies"], *development]:
        requirement = Requirement(line)
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned: make constraints"
        assert requirement.specifier.contains(pin, prereleases=True), line


def test_constraints_hold_no_path_and_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"file:|https?:|@|\+cpu|labkit==", text)


def test_the_lock_of_the_javascript_tools_holds_no_address() -> None:
    # .npmrc leaves out where packages came from; npm writes addresses for donations, which are taken out by hand
    lock = (ROOT / "tests" / "javascript" / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity"' in lock
    assert not re.search(r"https?:|//|resolved", re.sub(r'"integrity": "[^"]+"', "", lock))


def test_javascript_checks_ask_no_user_for_node(tmp_path: Path) -> None:
    def checked(required: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": str(tmp_path), "LABKIT_REQUIRE_NODE": required}
        command = [sys.executable, str(ROOT / "tests" / "javascript" / "check.py")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    told, refused = checked(""), checked("1")
    assert told.returncode == 0
    assert "node and npm not found" in told.stdout
    assert refused.returncode == 1
    assert "node and npm not found" in refused.stderr


def test_versions_agree() -> None:
    import labkit

    assert PROJECT["version"] == labkit.__version__


def test_the_readme_names_the_two_commands_and_every_notebook() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make lab" in readme
    assert "make test" in readme
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.name in readme
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme):
        assert (ROOT / picture).is_file(), picture


@pytest.mark.skipif(sys.platform == "win32", reason="reads tracked files with git")
def test_nothing_tracked_is_large_or_names_a_machine() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split():
        path = ROOT / name
        if path.is_file():
            assert path.stat().st_size < 25_000_000, name
            if path.suffix in {".py", ".md", ".toml", ".ipynb", ".yml", ".json", ".js"}:
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"/(home|root|Users)/\w+/", text), f"{name} names a path of a machine"


def test_the_package_is_typed_strictly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    mypy = project["tool"]["mypy"]
    assert mypy["strict"] is True
    assert mypy["packages"] == ["labkit"]
    own = [rule for rule in mypy["overrides"] if str(rule["module"]).startswith("labkit")]
    assert {name for rule in own for name in rule} == {"module", "warn_return_any"}  # no other ease
    others = [rule for rule in mypy["overrides"] if rule not in own]
    assert others == [{"module": "bitsandbytes.*", "follow_imports": "skip"}]
    words = [
        word for path in (ROOT / "labkit").rglob("*.py") for word in re.findall(r"\bAny\b", path.read_text("utf-8"))
    ]
    assert len(words) <= 250


def test_an_installed_labkit_says_that_it_is_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (ROOT / "labkit" / "py.typed").read_text(encoding="utf-8") == ""
    # hatch takes every file of the package that git does not ignore, unless told otherwise
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["labkit"]
    assert not {"include", "only-include", "exclude"} & (wheel.keys() | project["tool"]["hatch"]["build"].keys())
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert "typed" not in ignored


def test_no_trl_is_let_in_that_packs_wrongly_or_makes_all_logits() -> None:
    from packaging.requirements import Requirement

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (trl,) = (Requirement(each) for each in packages if Requirement(each).name == "trl")
    assert not trl.specifier.contains("1.14.0")
