"""Explanations as one HTML page: no script, nothing loaded, light and dark, any width, any script."""

from __future__ import annotations

import html
from collections.abc import Sequence

from sot_nlp.explanation.view import FAINT, View, shown

# Words of a text beyond which a matrix of pairs is unreadable, and only the strongest pairs are listed.
MATRIX_WORDS = 40

# Blue and orange (Okabe and Ito's) are told apart by colour-blind eyes, and the line under a word is dashed
# where it speaks against. --mix is the strongest colour behind a word: text on it keeps a contrast of 4.5.
STYLE = """
:root {
  color-scheme: light dark; --page: #fff; --card: #f7f7f5; --text: #1d1d1b; --faint: #5f5f5b; --line: #dcdcd7;
  --for: 0 114 178; --against: 213 94 0; --mix: .6; --good: #00664c; --bad: #a33f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161614; --card: #201f1d; --text: #f2f1ec; --faint: #a9a8a1; --line: #3b3a36;
    --for: 86 180 233; --against: 240 138 69; --mix: .48; --good: #4fd0a9; --bad: #f6a06a;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 880px; padding: 20px 16px 48px; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 12px; overflow-wrap: anywhere }
section, .card {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 4px 14px; margin: 16px 0;
}
article { padding: 10px 0; border-top: 1px solid var(--line) }
article:first-child { border-top: 0 }
.head { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; font-size: 14px }
.head b, .head span { overflow-wrap: anywhere; min-width: 0 }
.how, .apart, .note, .legend, details { color: var(--faint); font-size: 13px }
.right { color: var(--good); font-weight: 600 }
.wrong { color: var(--bad); font-weight: 600 }
.text { margin: 8px 0; font-size: 18px; line-height: 2; overflow-wrap: anywhere; white-space: pre-wrap }
.w { padding: 2px 1px; border-radius: 3px; border-bottom: 2px solid transparent }
.pro, .pro-cell {
  background: rgb(var(--for) / calc(var(--s) * var(--mix)));
}
.con, .con-cell {
  background: rgb(var(--against) / calc(var(--s) * var(--mix)));
}
.pro { border-bottom-color: rgb(var(--for) / calc(.25 + .75 * var(--s))) }
.con { border-bottom: 2px dashed rgb(var(--against) / calc(.25 + .75 * var(--s))) }
.cut { color: var(--faint); text-decoration: line-through }
.apart { display: flex; flex-wrap: wrap; gap: 2px 14px; font-variant-numeric: tabular-nums }
.apart b { color: var(--text) }
.apart span { white-space: nowrap }
.note { margin: 6px 0 }
details { margin-top: 6px }
summary { cursor: pointer }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 6px 0 }
td, th { padding: 2px 8px 2px 0; text-align: start; font-weight: 400; vertical-align: bottom }
td.n { text-align: right }
.matrix td { min-width: 2.2em; padding: 3px; text-align: center; font-size: 11px; color: var(--text) }
.matrix th { color: var(--text); font-size: 12px; white-space: nowrap }
.matrix thead th { writing-mode: vertical-rl; padding: 0 3px 4px }
.legend .w { color: var(--text) }
.legend { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center }
.ramp {
  display: inline-block; width: 150px; max-width: 40vw; height: 12px; border-radius: 3px;
  background: linear-gradient(
    to right, rgb(var(--against) / var(--mix)), transparent 50%, rgb(var(--for) / var(--mix))
  );
}
@media print { section { break-inside: avoid } }
"""
# Texts are escaped; this is the second lock, for no script of theirs could run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
LEGEND = (
    '<p class="legend"><span>against <span class="w con" style="--s:1">&nbsp;dashed&nbsp;</span></span>'
    '<span class="ramp"></span><span>for <span class="w pro" style="--s:1">&nbsp;solid&nbsp;</span></span>'
    "<span>the output named; each line has its own scale; hover over a word for its value</span></p>"
)


def page(groups: Sequence[Sequence[View]], title: str = "What drives the decision") -> str:
    """The page as text: a block for each text, in it a line for each model's view of it."""
    title = _escaped(shown(title))
    body = [f"<h1>{title}</h1>", LEGEND]
    for views in groups:
        body.append("<section>" + "".join(_article(view) for view in views) + "</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _article(view: View) -> str:
    verdict = ""
    if view.verdict:
        kind = {True: "right", False: "wrong", None: ""}[view.is_right]
        sign = {True: "\u2713 ", False: "\u2717 ", None: ""}[view.is_right]
        verdict = f'<span class="{kind}">{sign}{_escaped(view.verdict)}</span>'
    parts = [
        f'<div class="head"><b>{_escaped(shown(view.name))}</b>'
        f"<span>{_escaped(view.prediction)}</span>{verdict}"
        f'<span class="how">{_escaped(view.method)}, toward {_escaped(view.label)}</span></div>'
    ]
    for part in range(len(view.explanation.texts)):
        parts.append(f'<p class="text" dir="auto">{_text(view, part)}</p>')
    if view.summary:
        shares = " ".join(
            f"<span>{_escaped(shown(name))} <b>{view.number(share)}</b></span>"
            for name, share in view.summary
        )
        parts.append(f'<div class="apart">{shares}<span>= <b>{view.number(view.total)}</b></span></div>')
    parts += [f'<p class="note">{_escaped(note)}</p>' for note in view.notes]
    if view.explanation.words:
        parts.append(f"<details><summary>Values</summary>{_values(view)}</details>")
    if view.pairs is not None and len(view.pairs):
        parts.append(f"<details><summary>Pairs of words</summary>{_pairs(view)}</details>")
    return f"<article>{''.join(parts)}</article>"


def _text(view: View, part: int) -> str:
    found = []
    for piece in view.pieces(part):
        text = _escaped(piece.text)
        if piece.cut:
            found.append(f'<span class="cut" title="cut off by the length limit">{text}</span>')
        elif piece.word is None:
            found.append(text)
        else:
            found.append(_word(view, piece.word, text))
    return "".join(found)


def _word(view: View, number: int, text: str) -> str:
    strength = view.strength(number)
    value = view.number(view.values[number])
    side = "" if strength == 0 else ' pro" style="--s:' if strength > 0 else ' con" style="--s:'
    color = f"{side}{abs(strength):.2f}" if side else ""
    tokens = view.tokens_of(view.explanation.words[number])
    title = _escaped(f"{value} ({tokens})" if tokens else value)
    return f'<span class="w{color}" title="{title}">{text}</span>'


def _values(view: View) -> str:
    rows = []
    for word, value in zip(view.explanation.words, view.values, strict=True):
        tokens = _escaped(view.tokens_of(word))
        rows.append(
            f'<tr><td class="n">{view.number(value)}</td><td><bdi>{_escaped(shown(word.text))}</bdi></td>'
            f"<td>{tokens}</td></tr>"
        )
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _pairs(view: View) -> str:
    assert view.pairs is not None
    rows = []
    for first, second, value in view.top_pairs():
        pair = f"<bdi>{_escaped(first)}</bdi> \u00d7 <bdi>{_escaped(second)}</bdi>"
        rows.append(f'<tr><td class="n">{view.number(value)}</td><td>{pair}</td></tr>')
    parts = [f"<table>{''.join(rows)}</table>"]
    if len(view.pairs) <= MATRIX_WORDS:
        parts.append(_matrix(view))
    return "".join(parts)


def _matrix(view: View) -> str:
    """The x side's words down, the y side's across."""
    assert view.pairs is not None
    names = [_escaped(shown(word.text)) for word in view.explanation.words]
    largest = float(abs(view.pairs).max()) or 1.0
    head = "".join(f'<th scope="col"><bdi>{name}</bdi></th>' for name in names)
    rows = []
    for name, line in zip(names, view.pairs.tolist(), strict=True):
        cells = []
        for value in line:
            side, sign = ("pro", "+") if value > 0 else ("con", "\u2212")
            cells.append(
                f'<td class="{side}-cell" style="--s:{abs(value) / largest:.2f}" '
                f'title="{view.number(value)}">{sign if abs(value) > FAINT * largest else ""}</td>'
            )
        rows.append(f'<tr><th scope="row"><bdi>{name}</bdi></th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
