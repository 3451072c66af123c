"""Train models of bytes, byte pairs and patches longer than a lesson can, and write down what came of it.

    python -m labkit.recipes.units [--steps 600]

Writes labkit/recipes/records/units.json, which `lk.tokenization.recorded_units()` reads: a row for each kind, as
`compare_units(steps=600)` gives them. It takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from labkit.tokenization.comparing import RECORD, compare_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--to", type=Path, default=RECORD)
    given = parser.parse_args()
    found = compare_units(steps=given.steps)
    about = {"documents": found.documents, "draws": found.draws, "seed": found.seed}
    rows = found.table.drop(columns="seconds").to_dict("records")
    given.to.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", "utf-8")
    print(found.table.T.to_string())


if __name__ == "__main__":
    main()
