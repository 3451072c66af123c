"""The base of the views: modules joined, pages written, texts that can't break out, displaying with either ipywidgets."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anywidget
import pytest
import traitlets

import labkit.views
from labkit.errors import BadInput
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.kit.modules import module_files
from labkit.views.sampling_view import TemperatureView
from labkit.views.tokens_view import TokensView

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
BREAKERS = ["</script>", "<!--", "<script>", "]]>", "\u2028", "\u2029", "&amp;", "\ud800", "\x00", '"', "\\"]


class Toy(View):
    _title = "Toy </title><script>"
    _esm = "function render({ el }) { el.textContent = 'x'; }\nexport default { render };"
    _css = style()

    words = traitlets.List(traitlets.Unicode()).tag(sync=True)
    raw = traitlets.Bytes(b"").tag(sync=True)
    private_to_python = traitlets.Int(3)

    def _describe(self) -> str:
        return f"{len(self.words)} words"

    def _static_text(self) -> str:
        return " ".join(self.words)


def page_state(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="labkit-state">(.*?)</script>', page, re.S)[1])


def test_package_imports_views_only_when_asked() -> None:
    code = (
        "import sys, labkit.views\n"
        "assert 'anywidget' not in sys.modules and 'torch' not in sys.modules\n"
        "assert {'tokens', 'temperature'} <= set(dir(labkit.views))\n"
        "labkit.views.tokens\n"
        "assert 'anywidget' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_view_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_view"):
        labkit.views.no_such_view  # noqa: B018


@pytest.mark.parametrize("view", [TokensView, TemperatureView])
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_joined_module_is_one_module_with_a_render(view: type[View], tmp_path: Path) -> None:
    source = view.__dict__["_esm"]
    assert not re.search(r"^(import|export (?!default))", source, re.M)
    assert "innerHTML" not in source
    assert "insertAdjacentHTML" not in source
    (tmp_path / "view.mjs").write_text(source, "utf-8")
    code = "import('./view.mjs').then(m => { if (typeof m.default.render !== 'function') process.exit(1); })"
    subprocess.run(["node", "-e", code], cwd=tmp_path, check=True)


def test_module_takes_what_its_entry_imports_and_nothing_else() -> None:
    joined = module("kit/token_list.js")
    assert "import" not in re.sub(r"//.*|/\*.*?\*/", "", joined, flags=re.S)
    assert "function tokenList" in joined
    assert "function followTheme" not in joined
    assert joined.count("function visibleRuns") == 1


def written(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.js").write_text(text, "utf-8")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_files_of_a_module_keep_their_names_to_themselves(tmp_path: Path) -> None:
    written(
        tmp_path,
        one='const own = "one";\nexport function name() {\n  return own;\n}\nexport const COUNT = 1;\n',
        two='import { COUNT, name as first } from "./one.js";\n\nconst own = "two";\nexport class Two {\n'
        "  say() {\n    return `${own} after ${first()} (${COUNT})`;\n  }\n}\n",
        entry='import { Two } from "./two.js";\nimport {\n  COUNT,\n  name,\n} from "./one.js";\n\n'
        'const own = "entry";\nexport default { said: [own, name(), COUNT, new Two().say()] };\n',
    )
    assert [path.name for path in module_files(tmp_path / "entry.js")] == ["one.js", "two.js", "entry.js"]
    (tmp_path / "joined.mjs").write_text(module(tmp_path / "entry.js"), "utf-8")
    code = "import('./joined.mjs').then(m => console.log(JSON.stringify(m.default.said)))"
    done = subprocess.run(["node", "-e", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == ["entry", "one", 1, "two after one (1)"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('import * as all from "./one.js";\n', r'entry.js: "import \* as all .*" can\'t be joined; write import'),
        ('import { x } from "elsewhere";\n', "entry.js: \"import { x } from .* can't be joined"),
        ("export let count = 1;\n", 'entry.js: "export let count = 1;" can\'t be joined; write export before'),
        ('import { self } from "./entry.js";\n', "entry.js imports itself"),
    ],
)
def test_module_refuses_what_it_cannot_join(text: str, why: str, tmp_path: Path) -> None:
    written(tmp_path, one="export const x = 1;\n", entry=text)
    with pytest.raises(ValueError, match=why):
        module(tmp_path / "entry.js")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("plain 😀", "plain 😀"), ("\ud83d\ude00", "😀"), ("a\ud800b", "a\ufffdb"), ("\udfff", "\ufffd"), ("", "")],
)
def test_clean_leaves_text_that_every_encoding_takes(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    clean(text).encode("utf-8")


def test_visible_names_what_cannot_be_seen() -> None:
    assert visible("a\u202eb\x00\n\tc\u2028") == "a⟨U+202E⟩b⟨U+0000⟩\n\tc⟨U+2028⟩"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"


def test_page_carries_the_state_and_nothing_breaks_out(tmp_path: Path) -> None:
    toy = Toy(words=BREAKERS, raw=bytes(range(256)))
    path = toy.to_html(tmp_path / "toy.html")
    page = path.read_text("utf-8")
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert "<!--" not in page
    assert "<title>Toy &lt;/title&gt;&lt;script&gt;</title>" in page
    state = page_state(page)
    assert state["values"] == {"exported": True, "words": BREAKERS}
    assert base64.b64decode(state["bytes"]["raw"]) == bytes(range(256))
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|https?://", page)


@pytest.mark.parametrize("view", [TokensView, TemperatureView])
def test_views_name_no_address(view: type[View]) -> None:
    assert not re.search(r"https?://|url\(|@import|fetch\(", view.__dict__["_esm"] + view.__dict__["_css"])


def test_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"can't be written .*missing.*; give a file name in a folder that exists"):
        Toy().to_html(tmp_path / "missing" / "toy.html")


def test_traits_never_hide_an_attribute_of_widgets() -> None:
    for view in (TokensView, TemperatureView):
        own = set(view.class_traits(sync=True)) - set(anywidget.AnyWidget.class_traits())
        assert not {name for name in own if hasattr(anywidget.AnyWidget, name)}
        assert own


def test_repr_has_no_address() -> None:
    assert repr(Toy(words=["a", "b"])) == "Toy(2 words)"


def test_bundle_has_widget_text_and_escaped_html() -> None:
    toy = Toy(words=["<b>", "\u202e", "\ud800"])
    data, _ = toy._repr_mimebundle_()
    assert data[WIDGET_MIME]["model_id"] == toy.model_id
    assert data["text/plain"] == "<b> ⟨U+202E⟩ \ufffd"
    kept = re.fullmatch(
        r'<img src="data:image/svg\+xml;base64,(.*)" alt="(.*)" style="max-width:100%">', data["text/html"]
    )
    assert kept
    assert kept[2] == "&lt;b&gt; ⟨U+202E⟩ \ufffd"
    assert kept[2] in base64.b64decode(kept[1]).decode()
    json.dumps(data, ensure_ascii=False).encode("utf-8")


def test_closed_view_still_has_its_text() -> None:
    toy = Toy(words=["a"])
    toy.close()
    data, _ = View._repr_mimebundle_(toy)
    assert set(data) == {"text/plain", "text/html"}
    assert repr(toy) == "Toy(1 words)"


def test_colab_gets_no_html_beside_the_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(words=["a"])
    monkeypatch.setattr("labkit.views.base.in_colab", lambda: True)
    data, _ = toy._repr_mimebundle_()
    assert set(data) == {"text/plain", WIDGET_MIME}


def test_displaying_gives_the_bundle_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the way the installed ipywidgets takes: 8 is asked for a bundle, 7 displays itself."""
    from IPython.core.formatters import DisplayFormatter

    shown: list[dict] = []
    monkeypatch.setattr("labkit.views.base.display", lambda data, **_: shown.append(data))
    data, _ = DisplayFormatter().format(Toy(words=["a"]))
    shown += [data] if data else []
    assert len(shown) == 1
    assert shown[0]["text/plain"] == "a"
    assert WIDGET_MIME in shown[0]
