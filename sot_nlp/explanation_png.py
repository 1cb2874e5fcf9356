"""Explanations as a PNG, by matplotlib (the optional extra `plots`): for papers and READMEs.

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
from typing import Any

from sot_nlp.errors import UserError
from sot_nlp.explanation_view import View, shown

WIDTH = 760  # pixels of the picture at 100 dots per inch; it is drawn at twice that
MARGIN, TEXT_SIZE, SMALL_SIZE = 16, 13, 8.5
LINE, SMALL_LINE = 31, 19
FOR, AGAINST, INK, FAINT_INK = "#0072b2", "#d55e00", "#1d1d1b", "#5f5f5b"
MIX = 0.6


@dataclass
class _Cell:
    """A word with the signs that touch it: pieces of one style each, never parted by a line's end."""

    pieces: list[tuple[str, float, bool]] = field(default_factory=list)  # text, strength, cut
    space: bool = False  # white space behind it

    @property
    def direction(self) -> str:
        return direction_of("".join(text for text, _, _ in self.pieces))


@dataclass
class _Pen:
    figure: Any
    renderer: Any
    fonts: list[str]
    height: float = 1.0
    y: float = 0.0
    widths: dict[tuple[str, float], float] = field(default_factory=dict)

    def width(self, text: str, size: float) -> float:
        """Pixels of `text`, advance included."""
        if (text, size) not in self.widths:
            # A space at an end has no ink, so it is measured between two signs.
            drawn = self.figure.text(0, 0, f"|{text}|", fontsize=size, family=self.fonts, parse_math=False)
            bare = self.figure.text(0, 0, "||", fontsize=size, family=self.fonts, parse_math=False)
            extents = [each.get_window_extent(self.renderer).width for each in (drawn, bare)]
            drawn.remove()
            bare.remove()
            self.widths[text, size] = (extents[0] - extents[1]) * 100 / self.figure.dpi
        return self.widths[text, size]

    def write(self, x: float, text: str, size: float, **style: Any) -> None:
        """Text with its base line at the pen's height, `x` pixels from the left."""
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
    """The picture, and notes on what it could not show. UserError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures as PNG need matplotlib: pip install 'sot-nlp[plots]'") from None
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
    return stream.getvalue(), _notes(groups, [str(each.message) for each in caught], matplotlib.__version__)


def _fonts() -> list[str]:
    """Matplotlib's own font first, and for what it lacks the Noto fonts of this machine."""
    from matplotlib import font_manager

    names = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *sorted(n for n in names if n.startswith("Noto Sans") and "Emoji" not in n)]


def _notes(groups: Sequence[Sequence[View]], messages: Sequence[str], version: str) -> list[str]:
    found = []
    missing = dict.fromkeys(
        chr(int(match[1])) for message in messages if (match := re.match(r"Glyph (\d+) ", message))
    )
    if missing:
        signs = " ".join(list(missing)[:10])
        found.append(f"this machine's fonts lack {signs}; install some (Noto has them), or use --html")
    texts = (text for views in groups for view in views[:1] for text in view.explanation.texts)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < (3, 11) and any(direction_of(c) == "R" for text in texts for c in text):
        found.append(f"matplotlib {version} mirrors right-to-left words; use 3.11 or newer, or --html")
    return found


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
    """Small print, in as many lines as it takes."""
    pen.y += SMALL_LINE
    x: float = MARGIN
    for chunk in chunks:
        room = pen.width(chunk, SMALL_SIZE)
        if x > MARGIN and x + room > WIDTH - MARGIN:
            x, pen.y = MARGIN, pen.y + SMALL_LINE
        pen.write(x, chunk, SMALL_SIZE, color=FAINT_INK)
        x += room + gap


def _cells(view: View, part: int) -> Iterator[_Cell]:
    cell = _Cell()
    for piece in view.pieces(part):
        strength = 0.0 if piece.word is None else view.strength(piece.word)
        for text in re.findall(r" +|[^ ]+", piece.text):
            if text.strip():
                cell.pieces.append((text, strength, piece.cut))
            elif cell.pieces:
                cell.space = True
                yield cell
                cell = _Cell()
    if cell.pieces:
        yield cell


def _paragraph(pen: _Pen, view: View, part: int) -> None:
    space = pen.width(" ", TEXT_SIZE)
    base = direction_of(view.explanation.texts[part]) or "L"
    line: list[_Cell] = []
    used = 0.0
    for cell in _cells(view, part):
        room = sum(pen.width(text, TEXT_SIZE) for text, _, _ in cell.pieces)
        if line and used + room > WIDTH - 2 * MARGIN:
            _draw(pen, line, base, space)
            line, used = [], 0.0
        line.append(cell)
        used += room + (space if cell.space else 0)
    if line:
        _draw(pen, line, base, space)


def _draw(pen: _Pen, line: Sequence[_Cell], base: str, space: float) -> None:
    pen.y += LINE
    ordered = visual_order([cell.direction for cell in line], base)
    total = sum(pen.width(text, TEXT_SIZE) for cell in line for text, _, _ in cell.pieces)
    total += space * (len(line) - 1)
    x = WIDTH - MARGIN - total if base == "R" else MARGIN
    for index in ordered:
        cell = line[index]
        pieces = cell.pieces[::-1] if (cell.direction or base) == "R" else cell.pieces
        for text, strength, cut in pieces:
            room = pen.width(text, TEXT_SIZE)
            _mark(pen, x, room, strength)
            pen.write(x, text, TEXT_SIZE, color=FAINT_INK if cut else INK)
            x += room
        x += space


def _mark(pen: _Pen, x: float, width: float, strength: float) -> None:
    """The colour behind a word, and a line under it that is dashed where it speaks against."""
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
    """L or R by the first letter with a direction of its own; empty without one."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return "L" if kind == "L" else "R"
    return ""


def visual_order(directions: Sequence[str], base: str) -> list[int]:
    """The cells of a line from left to right: runs of the other direction are turned around within it.

    A cell without a direction (digits, signs) goes with its neighbours where they agree, else with the line.
    """
    resolved = list(directions)
    for i, direction in enumerate(directions):
        if not direction:
            before = next((d for d in reversed(directions[:i]) if d), base)
            after = next((d for d in directions[i + 1 :] if d), base)
            resolved[i] = before if before == after else base
    order: list[int] = []
    for direction, run in groupby(range(len(resolved)), key=lambda i: resolved[i]):
        cells = list(run)
        order += cells if direction == base else cells[::-1]
    return order if base == "L" else order[::-1]
