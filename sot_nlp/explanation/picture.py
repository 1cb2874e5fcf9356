"""Explanations as a PNG, by matplotlib: for papers and READMEs.

Words are laid out here, line by line, right to left where the text runs so; each word is shaped by matplotlib
(from 3.11 on; before, words of right-to-left scripts come out mirrored, and a note says so).
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from sot_nlp.explanation.view import View, shown

WIDTH = 760  # pixels of the picture at 100 dots per inch; it is drawn at twice that
MARGIN, TEXT_SIZE, SMALL_SIZE = 16, 13, 8.5
LINE, SMALL_LINE = 31, 19
FOR, AGAINST, INK, FAINT_INK = "#0072b2", "#d55e00", "#1d1d1b", "#5f5f5b"
MIX = 0.6
OPENING = ("(", "[", "{", "<", "\u00ab")
MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


class _Piece(NamedTuple):
    """A stretch of text in one style; `strength` as in `View.strength`."""

    text: str
    strength: float = 0.0
    cut: bool = False


@dataclass
class _Pen:
    figure: Any
    renderer: Any
    fonts: list[str]
    height: float = 1.0
    y: float = 0.0
    widths: dict[tuple[str, float], float] = field(default_factory=dict)

    def width(self, text: str, size: float) -> float:
        """Return the width of `text` in pixels, advance included."""
        if (text, size) not in self.widths:
            # A space at an end has no ink, so it is measured between two signs.
            drawn = self.figure.text(0, 0, f"|{text}|", fontsize=size, family=self.fonts, parse_math=False)
            bare = self.figure.text(0, 0, "||", fontsize=size, family=self.fonts, parse_math=False)
            extents = [label.get_window_extent(self.renderer).width for label in (drawn, bare)]
            drawn.remove()
            bare.remove()
            self.widths[text, size] = (extents[0] - extents[1]) * 100 / self.figure.dpi
        return self.widths[text, size]

    def write(self, x: float, text: str, size: float, **style: Any) -> None:
        """Draw text with its base line at the pen's height, `x` pixels from the left."""
        self.figure.text(
            x / WIDTH,
            1 - self.y / self.height,
            text,
            fontsize=size,
            family=self.fonts,
            parse_math=False,
            **{"color": INK, "va": "baseline"} | style,
        )


def png(groups: Sequence[Sequence[View]]) -> tuple[bytes, list[str]]:
    """Return the picture as PNG, and notes on what it could not show."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fonts = _fonts()
    stream = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Twice: the height is known only when the lines are broken.
        height = 10.0
        for final in (False, True):
            figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=200)
            canvas = FigureCanvasAgg(figure)
            pen = _Pen(figure, canvas.get_renderer(), fonts, height=height)
            for views in groups:
                _block(pen, views)
            height = pen.y + 8
            if final:
                figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue(), _notes(
        groups, [str(warning.message) for warning in caught], matplotlib.__version__
    )


def _fonts() -> list[str]:
    """Return matplotlib's own font, then for what it lacks the Noto fonts of this machine."""
    from matplotlib import font_manager

    names = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *sorted(n for n in names if n.startswith("Noto Sans") and "Emoji" not in n)]


def _notes(groups: Sequence[Sequence[View]], messages: Sequence[str], version: str) -> list[str]:
    notes = []
    missing = dict.fromkeys(
        chr(int(match[1])) for message in messages if (match := re.match(r"Glyph (\d+) ", message))
    )
    if missing:
        signs = " ".join(list(missing)[:10])
        notes.append(f"this machine's fonts lack {signs}; install some (Noto has them), or use --html")
    texts = (text for views in groups for view in views[:1] for text in view.explanation.texts)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < (3, 11) and any(direction_of(c) == "R" for text in texts for c in text):
        notes.append(f"matplotlib {version} mirrors right-to-left words; use 3.11 or newer, or --html")
    return notes


def _block(pen: _Pen, views: Sequence[View]) -> None:
    from matplotlib.lines import Line2D

    pen.y += 8
    for number, view in enumerate(views):
        pen.y += SMALL_LINE
        _head(pen, view)
        for part in range(len(view.explanation.texts)):
            _paragraph(pen, view, part)
        if view.summary:
            shares = [f"{shown(name)} {view.number(share)}" for name, share in view.summary]
            _small(pen, [*shares, f"= {view.number(view.total)}"], 14)
        for note in view.notes:
            _small(pen, note.split(), pen.width(" ", SMALL_SIZE))
        if number + 1 < len(views):
            pen.y += 8
    pen.y += 8
    height = 1 - pen.y / pen.height
    edges = [MARGIN / WIDTH, 1 - MARGIN / WIDTH]
    pen.figure.add_artist(Line2D(edges, [height, height], color="#dcdcd7", linewidth=0.8))


def _head(pen: _Pen, view: View) -> None:
    color = {True: "#00664c", False: "#a33f00", None: INK}[view.is_right]
    sign = {True: "\u2713 ", False: "\u2717 ", None: ""}[view.is_right]
    x: float = MARGIN
    for text, style in (
        (shown(view.name), {"fontweight": "bold"}),
        (view.prediction, {}),
        (sign + view.verdict if view.verdict else "", {"color": color}),
        (f"{view.method}, toward {view.label}", {"color": FAINT_INK}),
    ):
        if not text:
            continue
        room = pen.width(text, SMALL_SIZE) * (1.12 if style.get("fontweight") else 1.0)
        if x > MARGIN and x + room > WIDTH - MARGIN:
            x, pen.y = MARGIN, pen.y + SMALL_LINE
        pen.write(x, text, SMALL_SIZE, **style)
        x += room + 14


def _small(pen: _Pen, chunks: Sequence[str], gap: float) -> None:
    """Draw small print, in as many lines as it takes."""
    pen.y += SMALL_LINE
    x: float = MARGIN
    for chunk in chunks:
        room = pen.width(chunk, SMALL_SIZE)
        if x > MARGIN and x + room > WIDTH - MARGIN:
            x, pen.y = MARGIN, pen.y + SMALL_LINE
        pen.write(x, chunk, SMALL_SIZE, color=FAINT_INK)
        x += room + gap


def _paragraph(pen: _Pen, view: View, part: int) -> None:
    base = direction_of(view.explanation.texts[part])
    base = "R" if base == "R" else "L"
    line: list[_Piece] = []
    used = 0.0
    for cell in _cells(view, part):
        room = sum(pen.width(piece.text, TEXT_SIZE) for piece in cell)
        if line and used + room > WIDTH - 2 * MARGIN:
            _draw(pen, line, base)
            line, used = [], 0.0
            cell = [piece for piece in cell if piece.text != " "]
        line += cell
        used += room
    if line:
        _draw(pen, line, base)


def _cells(view: View, part: int) -> Iterator[list[_Piece]]:
    """Yield what no line break may split: a space, or the pieces up to the next one."""
    cell: list[_Piece] = []
    for piece in view.pieces(part):
        strength = 0.0 if piece.word is None else view.strength(piece.word)
        for text in re.findall(r" +|[^ ]+", piece.text):
            if not text.strip():
                if cell:
                    yield cell
                cell = [_Piece(" ")]
            else:
                cell.append(_Piece(text, strength, piece.cut))
    if cell:
        yield cell


def _draw(pen: _Pen, line: Sequence[_Piece], base: str) -> None:
    pen.y += LINE
    widths = [pen.width(piece.text, TEXT_SIZE) for piece in line]
    x = WIDTH - MARGIN - sum(widths) if base == "R" else MARGIN
    for index, direction in visual_order([piece.text for piece in line], base):
        piece, room = line[index], widths[index]
        # A bracket without letters beside it is drawn as matplotlib finds it, so it is turned here.
        turned = direction == "R" and not direction_of(piece.text)
        text = piece.text.translate(MIRRORED)[::-1] if turned and not _is_number(piece.text) else piece.text
        _mark(pen, x, room, piece.strength)
        pen.write(x, text, TEXT_SIZE, color=FAINT_INK if piece.cut else INK)
        x += room


def _mark(pen: _Pen, x: float, width: float, strength: float) -> None:
    """Draw the colour behind a word, and a line under it that is dashed where it speaks against."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    if strength == 0:
        return
    color = FOR if strength > 0 else AGAINST
    low, tall = 1 - (pen.y + 6) / pen.height, 23 / pen.height
    left, right = x / WIDTH, (x + width) / WIDTH
    pen.figure.add_artist(
        Rectangle((left, low), right - left, tall, color=color, alpha=MIX * abs(strength), linewidth=0)
    )
    under = Line2D([left, right], [low, low], color=color, linewidth=1.3, alpha=abs(strength))
    if strength < 0:
        under.set_dashes((2, 1.4))
    pen.figure.add_artist(under)


def direction_of(text: str) -> str:
    """Return L or R by the first letter with a direction of its own; empty without one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return "L" if kind == "L" else "R"
    return ""


def visual_order(texts: Sequence[str], base: str) -> list[tuple[int, str]]:
    """Return the pieces of a line from left to right: (number, direction) of each.

    The Unicode bidirectional algorithm's rules on whole pieces: runs of the other direction are turned around
    within the line; a pair of brackets goes with what it holds, a number with what precedes it, other
    signs with both neighbours where those agree, else with the line.
    """
    brackets = _bracket_directions(texts, base)
    strong: list[str] = []
    last = base
    for text, bracket in zip(texts, brackets, strict=True):
        direction = bracket or direction_of(text)
        last = direction or last
        strong.append(last if _is_number(text) else direction)
    resolved = list(strong)
    for i, direction in enumerate(strong):
        if not direction:
            before = next((d for d in reversed(strong[:i]) if d), base)
            after = next((d for d in strong[i + 1 :] if d), base)
            resolved[i] = before if before == after else base
    order: list[int] = []
    for direction, run in groupby(range(len(resolved)), key=lambda i: resolved[i]):
        pieces = list(run)
        order += pieces if direction == base else pieces[::-1]
    return [(i, resolved[i]) for i in (order if base == "L" else order[::-1])]


def _bracket_directions(texts: Sequence[str], base: str) -> list[str]:
    """Return the direction of each bracket of a pair, by the letters within it; else empty."""
    directions = [""] * len(texts)
    opened: list[int] = []
    for i, text in enumerate(texts):
        if text in OPENING:
            opened.append(i)
        elif opened and text == texts[opened[-1]].translate(MIRRORED):
            start = opened.pop()
            inside = {direction_of(sign) for sign in texts[start + 1 : i]} - {""}
            before = next((d for sign in reversed(texts[:start]) if (d := direction_of(sign))), base)
            if base in inside or (inside and before == base):
                directions[start] = directions[i] = base
            elif inside:
                directions[start] = directions[i] = before
    return directions


def _is_number(text: str) -> bool:
    return text[:1].isdigit() and not direction_of(text)
