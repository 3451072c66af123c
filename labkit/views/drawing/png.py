"""A picture as PNG, drawn by Pillow: no browser is needed."""

from __future__ import annotations

import io
import math
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import Unavailable
from labkit.markup import visible
from labkit.views.drawing.scene import Box, Dot, Path, Picture, Point, Raster, Shape, Words, text_width

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

FINER = 2  # lines and edges are drawn at so many times the size, and averaged
MOST_PIXELS = 60_000_000  # of the finer drawing, 240 MB
# Families that many systems have; the first that is found is the main one, and a character that it lacks is taken from the
# first further one that has it.
FONTS = {
    False: (
        "LiberationSans-Regular.ttf",
        "Arial.ttf",
        "arial.ttf",
        "Helvetica.ttc",
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
    ),
    True: ("LiberationSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf", "DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf"),
}
MORE = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
    "seguisym.ttf",
    "Symbola.ttf",
    "NotoEmoji-Regular.ttf",
)


def png(picture: Picture, *, scale: float = 2.0) -> bytes:
    """scale: pixels of the file for each of the picture. Raises Unavailable where Pillow is not installed."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise Unavailable(
            "A PNG is drawn by Pillow, which is not installed: pip install 'labkit[pictures]' (or pillow). "
            "to_svg needs nothing."
        ) from error
    size = (max(1, math.ceil(picture.width * scale)), max(1, math.ceil(picture.height * scale)))
    finer = FINER if size[0] * size[1] * FINER**2 <= MOST_PIXELS else 1
    image = Image.new("RGBA", (size[0] * finer, size[1] * finer), picture.paper)
    texts: list[Words] = []
    brush = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Words):
            texts.append(shape)
        elif isinstance(shape, Box | Path) and shape.opacity == 0:
            continue  # there to be pointed at alone
        elif getattr(shape, "opacity", 1.0) < 1 or _clear(shape):
            layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
            _draw(shape, layer, ImageDraw.Draw(layer), scale * finer)
            image.alpha_composite(layer)
        else:
            _draw(shape, image, brush, scale * finer)
    if finer > 1:
        image = image.resize(size, Image.Resampling.BOX)
    for shape in texts:  # texts last, at the file's own size: the font has its own smooth edges
        _write(shape, image, scale)
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "PNG", optimize=True)
        return file.getvalue()


def _clear(shape: Shape) -> bool:
    return any(str(getattr(shape, name, None) or "").startswith("rgba") for name in ("fill", "stroke"))


def _draw(shape: Shape, image: Image, brush: ImageDraw, scale: float) -> None:
    if isinstance(shape, Raster):
        from PIL import Image as images

        box = [round(v * scale) for v in (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)]
        cells = images.fromarray(np.ascontiguousarray(shape.pixels), "RGBA")
        drawn = cells.resize((max(1, box[2] - box[0]), max(1, box[3] - box[1])), images.Resampling.NEAREST)
        image.alpha_composite(drawn, (box[0], box[1]))
        return
    opacity = getattr(shape, "opacity", 1.0)
    if isinstance(shape, Box):
        sides = (
            shape.x * scale,
            shape.y * scale,
            (shape.x + shape.width) * scale - 1,
            (shape.y + shape.height) * scale - 1,
        )
        if sides[2] >= sides[0] and sides[3] >= sides[1]:
            brush.rectangle(sides, fill=_colour(shape.fill, opacity))
    elif isinstance(shape, Dot):
        centre, radius = (shape.x * scale, shape.y * scale), shape.radius * scale
        fill = _colour(shape.fill, 1.0) if shape.fill else None
        edge = _colour(shape.stroke, 1.0) if shape.stroke else None
        brush.circle(centre, radius, fill=fill, outline=edge, width=max(1, round(shape.width * scale)))
    elif isinstance(shape, Path):
        for points in _strokes(shape):
            at = [(x * scale, y * scale) for x, y in points]
            if shape.fill and len(at) > 2:
                brush.polygon(at, fill=_colour(shape.fill, opacity))
            if shape.stroke:
                ends = [*at, at[0]] if shape.closed else at
                width = max(1, round(shape.width * scale))
                for part in _dashed(ends, [length * scale for length in shape.dash]):
                    brush.line(part, fill=_colour(shape.stroke, opacity), width=width, joint="curve")


def _strokes(path: Path) -> list[list[Point]]:
    strokes: list[list[Point]] = [[]]
    for x, y in path.points:
        if math.isfinite(x) and math.isfinite(y):
            strokes[-1].append((x, y))
        else:
            strokes.append([])
    return [points for points in strokes if points]


def _dashed(points: list[Point], dash: list[float]) -> list[list[Point]]:
    """The line in its strokes."""
    if not dash or sum(dash) <= 0:
        return [points]
    if len(dash) % 2:
        dash = dash * 2
    parts: list[list[Point]] = [[points[0]]]
    i, left = 0, dash[0]
    for (x, y), (to_x, to_y) in pairwise(points):
        length = math.hypot(to_x - x, to_y - y)
        gone = 0.0
        while length - gone > left:
            gone += left
            at = (x + (to_x - x) * gone / length, y + (to_y - y) * gone / length)
            if i % 2 == 0:
                parts[-1].append(at)
            i, left = (i + 1) % len(dash), dash[(i + 1) % len(dash)]
            if i % 2 == 0:
                parts.append([at])
        left -= length - gone
        if i % 2 == 0:
            parts[-1].append((to_x, to_y))
    return [part for part in parts if len(part) > 1]


def _colour(colour: str, opacity: float) -> tuple[int, int, int, int]:
    from PIL import ImageColor

    if colour.startswith("rgba"):
        red, green, blue, alpha = colour[5:-1].split(",")
        return int(red), int(green), int(blue), round(255 * float(alpha) * opacity)
    return (*ImageColor.getrgb(colour)[:3], round(255 * opacity))


# texts ----------------------------------------------------------------------------------------------------------------


def _write(words: Words, image: Image, scale: float) -> None:
    text = visible(words.text)
    if not text.strip():
        return
    size = words.size * scale
    wanted = text_width(text, size, bold=words.bold) * 1.04
    drawn = _length(text, size, words.bold)
    size *= min(1.0, wanted / drawn) if drawn else 1.0  # a font that is wider than the picture was laid out for
    width = _length(text, size, words.bold)
    before = {"start": 0.0, "middle": width / 2, "end": width}[words.anchor]
    if not words.angle:
        _runs(text, image, (words.x * scale - before, words.y * scale), size, words)
        return
    from PIL import Image as images

    side = 2 * math.ceil(width + 2 * size)
    layer = images.new("RGBA", (side, side), (0, 0, 0, 0))
    _runs(text, layer, (side / 2 - before, side / 2), size, words)
    turned = layer.rotate(-words.angle, images.Resampling.BICUBIC)
    corner = (round(words.x * scale - side / 2), round(words.y * scale - side / 2))
    whole = images.new("RGBA", image.size, (0, 0, 0, 0))
    whole.paste(turned, corner)
    image.alpha_composite(whole)


def _runs(text: str, image: Image, at: Point, size: float, words: Words) -> None:
    from PIL import ImageDraw

    brush, x = ImageDraw.Draw(image), at[0]
    for run, place in _split(text, words.bold):
        font = _font(place, size)
        brush.text((x, at[1]), run, font=font, fill=_colour(words.colour, 1.0), anchor="ls")
        x += font.getlength(run)


def _length(text: str, size: float, bold: bool) -> float:
    return sum(_font(place, size).getlength(run) for run, place in _split(text, bold))


def _split(text: str, bold: bool) -> list[tuple[str, str]]:
    """Runs of characters that one font has, and that font."""
    runs: list[tuple[str, str]] = []
    for character in text:
        place = _home(character, bold)
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0] + character, place)
        else:
            runs.append((character, place))
    return runs


@cache
def _home(character: str, bold: bool) -> str:
    """The font that has a character; the main one where none has it, which then draws its sign for what it lacks."""
    places = _places(bold)
    if character == " ":
        return places[0]
    return next((place for place in places if _has(place, character)), places[0])


@cache
def _places(bold: bool) -> tuple[str, ...]:
    main = [name for name in FONTS[bold] if _there(name)][:1]
    return tuple(main + [name for name in MORE if _there(name) and name not in main]) or ("",)


@cache
def _there(name: str) -> bool:
    from PIL import ImageFont

    try:
        ImageFont.truetype(name, 10)
    except OSError:
        return False
    return True


@cache
def _has(place: str, character: str) -> bool:
    font = _font(place, 24)
    lacking = font.getmask("\U0010ffff")
    mask = font.getmask(character)
    return mask.size != lacking.size or bytes(mask) != bytes(lacking)


def _font(place: str, size: float) -> FreeTypeFont:
    return _of_size(place, max(1, round(size * 2)) / 2)


@cache
def _of_size(place: str, size: float) -> FreeTypeFont:
    from PIL import ImageFont

    if place:
        return ImageFont.truetype(place, size)
    found = ImageFont.load_default(size)  # Pillow's own, which has Latin letters alone
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise Unavailable("This Pillow was built without fonts: pip install --upgrade pillow. to_svg needs nothing.")
    return found
