"""labkit.recipes.lora: what its records say of themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from labkit.recipes import lora


def test_records_tell_how_many_held_out_answers_were_measured_on(tmp_path: Path) -> None:
    before, now = lora.experiments()["rank"].settings[:2]
    lines = [{"key": each.key, **asdict(each)} for each in (before, now)]
    lines[1]["measured_on"] = 50
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    found = lora.table(tmp_path)
    ranks = found[found["experiment"] == "rank"]
    assert list(ranks["measured_on"]) == [lora.MEASURED_BEFORE, 50]
