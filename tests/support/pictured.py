"""What is to be read in a picture."""

from __future__ import annotations

from labkit.views.drawing.scene import LINE, Path, Picture, Words

__all__ = ["underlined", "words"]


def words(picture: Picture) -> list[str]:
    """What is written, line by line."""
    return [shape.text for shape in picture.shapes if isinstance(shape, Words)]


def underlined(picture: Picture) -> list[str]:
    """The words with a line of their own below them."""
    lines = {shape.points[0] for shape in picture.shapes if isinstance(shape, Path) and shape.stroke != LINE}
    return [each.text for each in picture.shapes if isinstance(each, Words) and (each.x, each.y + 4) in lines]
