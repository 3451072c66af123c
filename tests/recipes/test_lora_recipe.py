"""labkit.recipes.lora: a table of what was run, by experiment, and where a new sitting begins."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from labkit.recipes import lora


def lines(settings: list[lora.Setting]) -> str:
    return "".join(json.dumps({"key": each.key, **asdict(each), "kl": 1.0}) + "\n" for each in settings)


def test_a_run_stands_in_every_experiment_that_lists_it(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(lines([lora.SMALL, lora.Setting(task="roman")]), "utf-8")
    found = lora.table(tmp_path)
    of_small = found[found["model"] == "labkit-dense"]
    assert set(of_small["experiment"]) == {"rank", "schedule", "targets", "learning_rate"}
    assert list(found[found["task"] == "roman"]["experiment"]) == ["task"]
    assert "key" not in found


def test_all_that_is_listed_is_recorded_on_all_held_out_answers(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_bytes(lora.RECORD.read_bytes())
    found = lora.table(tmp_path)
    listed = {name: len({each.key for each in some.settings}) for name, some in lora.experiments().items()}
    assert dict(found["experiment"].value_counts()) == listed
    assert set(found["measured_on"]) == {lora.HELD_OUT}


def test_the_figures_of_the_shipped_adapters_are_of_their_settings() -> None:
    figures = json.loads(lora.FIGURES.read_text("utf-8"))
    assert {name: facts["setting"] for name, facts in figures.items()} == {
        name: asdict(setting) for name, setting in lora.ADAPTERS.items()
    }
