"""Take the pictures of the README, the notebooks and the pages anew, from the views themselves, in a real browser.

    python docs/pictures.py      (or: make pictures)

Needs the default model, Pillow, playwright, a Chromium, and a font with Chinese (Debian: fonts-wqy-microhei).
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

import labkit as lk
from labkit.views.chart import Chart
from labkit.views.kit.plots import curves

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
README = IMAGES / "tokens.png"
NOTEBOOKS = ROOT / "notebooks" / "source"  # these go into the notebooks themselves, so they have to be small
NOTEBOOK = NOTEBOOKS / "01_first_look.png"
COPYING = NOTEBOOKS / "02_attention.png"
BRANCHES = NOTEBOOKS / "03_generation.png"
FORMATS = NOTEBOOKS / "04_quantization.png"
TRAINING = NOTEBOOKS / "05_lora.png"
ROUTES = NOTEBOOKS / "06_moe_routing.png"
FEATURES = NOTEBOOKS / "07_sparse_autoencoders.png"
CARRIED = NOTEBOOKS / "08_circuits.png"
FITS = NOTEBOOKS / "09_model_landscape.png"
FAR = NOTEBOOKS / "10_long_context.png"

TEXT = ROOT / "docs" / "architecture.md"
SHORT = "The cat sat on the mat. The cat sat on the"
OTHER = "The dog sat on the mat. The dog sat on the"
LENGTHS = (12, 256, 1024)
WIDTH = 1240


def main() -> None:
    """`python docs/pictures.py attention` takes those of the attention view alone; likewise `tokens`, `copying`, `routes`,
    `features`, `branches`, `formats`, `training`, `carried`, `fits`, `far`."""
    every = ["tokens", "attention", "copying", "routes", "features", "branches", "formats", "training", "carried"]
    every += ["fits", "far"]
    wanted = sys.argv[1:] or every
    browser_path = next(p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n)))
    lab = lk.load()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        if "tokens" in wanted:
            tokens(lab, browser, Path(scratch))
        if "attention" in wanted:
            attention(lab, browser, Path(scratch))
        if "copying" in wanted:
            copying(lab, browser, Path(scratch))
        if "routes" in wanted:
            routes(browser, Path(scratch))
        if "features" in wanted:
            features(browser, Path(scratch))
        if "training" in wanted:
            training(lab, browser, Path(scratch))
        if "branches" in wanted:
            branches(lab, browser, Path(scratch))
        browser.close()
    if "formats" in wanted:
        formats()
    if "carried" in wanted:
        carried(lab)
    if "fits" in wanted:
        fits()
    if "far" in wanted:
        save(lk.views.loss_by_position(lk.context.recorded("labkit-squeeze")), FAR)


def fits() -> None:
    """LLaMA 2 70B on a card of 80 GB, at 16, 8 and 4 bits."""
    asked = {"hardware": "A100-80GB", "tokens": 4096, "batch": 8}
    save(lk.views.footprint([lk.plan("llama-2-70b", precision=p, **asked) for p in ("bfloat16", "int8", "int4")]), FITS)


def formats() -> None:
    """Bytes against damage, rounded to nearest and by GPTQ; a chart, which needs no browser."""
    lab = lk.load("labkit-dense", dtype="float32", device="cpu")
    calibration = [text for of_kind in lk.quantization.texts(4, skip=20).values() for text in of_kind]
    compared = ("int8", "int6", "q5_0", "int4", "int3", "int2")
    table = lk.quantization.by_format(
        lab,
        lk.quantization.texts(10, characters=350),
        compared,
        method=("rtn", "gptq"),
        calibration=calibration,
        progress=False,
    )
    save(lk.views.formats(table), FORMATS)


def carried(lab: lk.Lab) -> None:
    """Where the answer is, layer by layer: notebook 08's first patching, of two positions; a chart, which needs no browser."""
    singular, plural = (lab.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" is", " are"))
    clean, corrupted = "The keys to the old cabinet", "The key to the old cabinet"
    found = lk.patching(
        lab,
        clean,
        corrupted,
        lambda logits: logits[-1, plural] - logits[-1, singular],
        positions=[1, -1],
        progress=False,
    ).table
    last = found.position.max()
    lines = {
        name: (rows.layer.tolist(), rows.effect.tolist())
        for name, rows in (
            ("patched at the noun, “keys”", found[found.position < last]),
            ("patched at the last token, “cabinet”", found[found.position == last]),
        )
    }
    figure = curves(
        lines, x="layer that the patch enters", y="share of the answer that comes back", dashes=("solid", "dash")
    )
    figure.update_layout(
        title="How much of “are” comes back when one position is patched", height=330, margin={"t": 60}
    )
    save(Chart(figure, found), CARRIED)
    print(f"{CARRIED.relative_to(ROOT)}: {CARRIED.stat().st_size:,} bytes")


def save(chart: Any, path: Path) -> None:
    """A chart's PNG in fewer pixels and colours, so that it fits into a notebook."""
    chart.to_png(path)
    with Image.open(path) as image:
        small = image.convert("RGB").resize((image.width * 2 // 5, image.height * 2 // 5), Image.Resampling.LANCZOS)
    # by how far colours lie apart: a median cut would give all of them to the paper and lose the lines' hues
    few = small.quantize(32, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def tokens(lab: lk.Lab, browser: Any, scratch: Path) -> None:
    generation = lab.generate("Why is the sky blue?", max_new_tokens=48)
    page_file = lk.views.tokens(generation, prompt=False).to_html(scratch / "tokens.html")
    for target, width, scale, last in ((README, 860, 1.5, ".lk-panel"), (NOTEBOOK, 700, 1.0, ".lk-scroll")):
        page = browser.new_page(viewport={"width": width, "height": 700}, device_scale_factor=scale)
        page.goto(page_file.as_uri())
        box = page.locator(last).bounding_box()
        assert box is not None
        height = box["y"] + box["height"] + 6
        page.screenshot(path=target, clip={"x": 0, "y": 0, "width": width, "height": height})
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


def branches(lab: lk.Lab, browser: Any, scratch: Path) -> None:
    """A story and two branches of it, each with the second most probable token in one place."""
    story = lab.generate("Once upon a time, there was a", chat=False, max_new_tokens=16)
    view = lk.views.tree(story, prompt=False)
    for at in (2, 8):
        view.branch(at, story.top(2)[at][1].id, of=0)
        view.wait()
    page = browser.new_page(viewport={"width": 700, "height": 900})
    page.goto(view.to_html(scratch / "branches.html").as_uri())
    page.wait_for_timeout(600)
    page.add_style_tag(content=".lk-panel { display: none !important }")  # the token in focus takes half of the room
    text, below = page.locator(".lk-scroll").first.bounding_box(), page.get_by_text("Beside it").first.bounding_box()
    assert text is not None
    assert below is not None
    clip = {"x": 0, "y": text["y"] - 6, "width": 700, "height": below["y"] - text["y"] - 2}
    BRANCHES.write_bytes(few_colours(page.screenshot(clip=clip)))
    print(f"{BRANCHES.relative_to(ROOT)}: {BRANCHES.stat().st_size:,} bytes")
    page.close()


def copying(lab: lk.Lab, browser: Any, scratch: Path) -> None:
    """The head that copies, on random tokens said twice."""
    trace = lab.trace(lk.attention.repeated(lab, length=50, seed=0))
    best = lk.attention.measures(trace).nlargest(1, "induction").iloc[0]
    view = lk.views.attention(trace, layer=int(best["layer"]), head=int(best["head"]))
    page = browser.new_page(viewport={"width": 600, "height": 900})
    page.goto(view.to_html(scratch / "copying.html", heads=[]).as_uri())
    page.locator(".lk-att-title").first.wait_for()
    page.wait_for_timeout(400)
    box = page.locator(".lk-att-plot").first.bounding_box()
    clip = {"x": box["x"], "y": box["y"] - 8, "width": box["width"], "height": box["height"] + 10}
    COPYING.write_bytes(few_colours(page.screenshot(full_page=True, clip=clip)))
    print(f"{COPYING.relative_to(ROOT)}: {COPYING.stat().st_size:,} bytes")
    page.close()


FIVE_KINDS = (
    "The people of the United States have always desired peace.\n"
    "The city is the capital and largest city of the province.\n"
    "def __init__(self, name):\n    return self.name\n"
    "( ph -> ( A e. B /\\ C e. D ) )\n"
    "春风吹雨，江上人归。"
)


def routes(browser: Any, scratch: Path) -> None:
    """Lines of five kinds of text, coloured by the expert that takes each token in the last layer."""
    lab = lk.load("labkit-moe", dtype="float32", device="cpu")
    trace = lab.trace(FIVE_KINDS, keep="routes")
    view = lk.views.routes(trace, layer=5)
    file = view.to_html(scratch / "routes.html").as_uri()
    for target, width, scheme, part in (
        (ROUTES, 660, "light", ".lk-rt-text"),
        (IMAGES / "routes-light.png", WIDTH, "light", None),
        (IMAGES / "routes-dark.png", WIDTH, "dark", None),
    ):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(file)
        page.wait_for_timeout(600)
        shot = page.locator(part).first.screenshot() if part else page.screenshot(full_page=True)
        target.write_bytes(few_colours(shot))
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
        page.close()


def training(lab: lk.Lab, browser: Any, scratch: Path) -> None:
    """The curves of notebook 05's training."""
    task = lk.lora.tasks.dates(n=160, held_out=16)
    run = lk.lora.finetune(lab, task.train, steps=40, batch=4, held_out=task.held_out, measure_every=4).wait()
    view = lk.views.training(run)
    page = browser.new_page(viewport={"width": 660, "height": 900})
    page.goto(view.to_html(scratch / "training.html").as_uri())
    page.wait_for_timeout(600)
    first = [page.locator(".lk-train-charts > *").nth(k).bounding_box() for k in (0, 1)]
    top, bottom = min(box["y"] for box in first), max(box["y"] + box["height"] for box in first)
    clip = {"x": 0, "y": top - 8, "width": 660, "height": bottom - top + 16}
    TRAINING.write_bytes(few_colours(page.screenshot(full_page=True, clip=clip)))
    print(f"{TRAINING.relative_to(ROOT)}: {TRAINING.stat().st_size:,} bytes")
    page.close()


SEA = "The captain saw the white whale in July, and wrote of whaling in the ship's log before the whales were gone."
WHALE = 3084


def features(browser: Any, scratch: Path) -> None:
    """A sentence shaded by the feature of whales, and that feature's dashboard."""
    lab, sae = lk.load(dtype="float32", device="cpu"), lk.sae.load()
    found = lk.sae.features(lab, sae, SEA)
    view = lk.views.features(found, look_up=lambda i: lk.sae.dashboard(lab, sae[i]), feature=WHALE)
    file = view.to_html(scratch / "features.html").as_uri()
    for target, width, scheme, part in (
        (FEATURES, 660, "light", ".lk-fv-passages"),
        (IMAGES / "features-light.png", WIDTH, "light", None),
        (IMAGES / "features-dark.png", WIDTH, "dark", None),
    ):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(file)
        page.wait_for_timeout(600)
        shot = page.locator(part).first.screenshot() if part else page.screenshot(full_page=True)
        target.write_bytes(few_colours(shot))
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
        page.close()


def attention(lab: lk.Lab, browser: Any, scratch: Path) -> None:
    """Every level of the attention view at three lengths, light and dark: the whole view, zoomed, compared, ablated."""
    ids = lab.tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"]
    for tokens_ in LENGTHS:
        trace = lab.trace(SHORT) if tokens_ == LENGTHS[0] else lab.trace(ids[:tokens_])
        first = lk.views.attention(trace, ablate=lk.attention.ablation(lab, trace))
        shown = (first.layer, first.head)
        first.ablate([shown])
        first.wait()
        whole = first.to_html(scratch / f"whole-{tokens_}.html")
        if tokens_ == LENGTHS[0]:
            beside = lk.views.attention(trace, compare=lab.trace(OTHER), names=("cat", "dog"))
        else:
            beside = lk.views.attention(trace, layer=shown[0], head=shown[1], compare=_another(trace, shown))
        compared = beside.to_html(scratch / f"compared-{tokens_}.html", heads=[])
        for dark in (False, True):
            paper = "dark" if dark else "light"
            page = _opened(browser, whole, dark=dark)
            grid = page.locator(".lk-att-grid").first
            _on(page, grid, 0.45, 0.8)
            _keep(page, page.locator(".lk-attention"), f"attention-{tokens_}-{paper}.png")
            page.locator(".lk-att-tokens").focus()
            for key in ("End", "ArrowLeft", "Enter"):
                page.keyboard.press(key)
            grid.focus()
            for _ in range({12: 1, 256: 4, 1024: 6}[tokens_]):
                page.keyboard.press("+")
            _on(page, grid, 0.4, 0.6)
            _keep(page, page.locator(".lk-att-figure").first, f"attention-{tokens_}-zoomed-{paper}.png")
            page.close()
            page = _opened(browser, compared, dark=dark)
            _on(page, page.locator(".lk-att-grid").first, 0.3, 0.7)
            _keep(page, page.locator(".lk-att-heads"), f"attention-{tokens_}-compared-{paper}.png")
            page.close()


def _another(trace: Any, shown: tuple[int, int]) -> tuple[int, int]:
    """The head that looks most at the token before, or the next one where that is the one shown."""
    measured = lk.attention.measures(trace)
    ranked = measured.sort_values("previous", ascending=False)[["layer", "head"]].itertuples(index=False)
    return next((int(layer), int(head)) for layer, head in ranked if (layer, head) != shown)


def _opened(browser: Any, path: Path, *, dark: bool) -> Any:
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="dark" if dark else "light")
    page.goto(path.as_uri())
    page.locator(".lk-att-title").first.wait_for()
    return page


def _on(page: Any, grid: Any, x: float, y: float) -> None:
    """Hold the pointer over a cell, at these shares of the picture's width and height."""
    box = grid.bounding_box()
    grid.hover(position={"x": x * box["width"], "y": y * box["height"]})
    page.wait_for_timeout(400)


def _keep(page: Any, element: Any, name: str) -> None:
    target = IMAGES / name
    target.write_bytes(few_colours(element.screenshot()))
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


def few_colours(picture: bytes) -> bytes:
    """A PNG with 256 colours of its own: about a third of the bytes."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as whole:
        # without dithering, which would put specks into even paper; the median cut takes the colours most used
        few = whole.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    main()
