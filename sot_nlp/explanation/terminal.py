"""Explanations in the terminal: coloured words, or words with their values where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sot_nlp.explanation.view import View, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Colours of full strength; weaker ones are mixed with white, under black letters, so that both light and dark
# terminals show them alike.
FOR, AGAINST = (90, 170, 230), (240, 150, 80)


def show(groups: Sequence[Sequence[View]], console: Console | None = None) -> None:
    """Print a block per text, in it each model's view of it."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    colored = console.color_system in ("256", "truecolor")  # 16 colours are too few for shades
    # Piped into a file or a pager, a text must not be cut into lines.
    whole = not console.is_terminal
    for number, views in enumerate(groups):
        if number:
            console.print()
        for view in views:
            head = Text(shown(view.name), style="bold")
            head.append(f"  {view.prediction}", style="not bold")
            if view.verdict:
                style = {True: "green", False: "red", None: ""}[view.is_right]
                head.append(f"  {view.verdict}", style=f"not bold {style}".strip())
            head.append(f"  ({view.method}, toward {view.label})", style="not bold dim")
            console.print(head, soft_wrap=whole)
            for part in range(len(view.explanation.texts)):
                console.print(_line(view, part, colored), soft_wrap=whole)
            for line in _below(view):
                console.print(Text(line, style="dim"), soft_wrap=whole)


def _line(view: View, part: int, colored: bool) -> Text:
    from rich.text import Text

    line = Text("  ")
    for piece in view.pieces(part):
        if piece.word is None:
            line.append(piece.text, style="dim strike" if piece.cut else "")
            continue
        strength = view.strength(piece.word)
        if not colored:
            line.append(f"{piece.text}({view.number(view.values[piece.word])})")
        elif strength == 0:
            line.append(piece.text)
        else:
            line.append(piece.text, style=_style(strength))
    return line


def _style(strength: float) -> str:
    full = FOR if strength > 0 else AGAINST
    mixed = (round(255 + (channel - 255) * abs(strength)) for channel in full)
    background = "#" + "".join(f"{channel:02x}" for channel in mixed)
    # Not by colour alone: what speaks against is underlined.
    return f"{'' if strength > 0 else 'underline '}#000000 on {background}"


def _below(view: View) -> list[str]:
    lines = []
    if view.summary:
        shares = "  ".join(f"{shown(name)} {view.number(share)}" for name, share in view.summary)
        lines.append(f"  {shares}  = {view.number(view.total)}")
    for first, second, value in view.top_pairs():
        lines.append(f"  {view.number(value)}  {first} \u00d7 {second}")
    lines += [f"  note: {note}" for note in view.notes]
    return lines
