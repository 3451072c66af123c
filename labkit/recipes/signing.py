"""The checksums beside what labkit ships."""

import hashlib
import json
from pathlib import Path


def sign(folder: Path) -> None:
    """Write the checksums that are verified whenever the model is opened."""
    read = sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".csv") and p.name != "SHA256.json"
    )
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in read}
    (folder / "SHA256.json").write_text(json.dumps(sums, indent=1) + "\n", "utf-8")
    print(folder.name, sum(p.stat().st_size for p in read) / 1e6, "MB")
