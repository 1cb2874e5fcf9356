"""What mkdocs adds while it builds the site: linked source files, and the table of settings.

A page links to a file of the repository as it stands, `../sot_nlp/training/loop.py`, so that the link works
where the page is read without the site; in the site the file becomes a page of its own below `code/`.
"""

import dataclasses
import html
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from sot_nlp.settings.arguments import FIELDS, GROUPS, TRAITS, TYPES

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(\.\./([\w./-]+\.(?:py|yaml|cfg|toml))\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".cfg": "ini"}
SETTINGS = "<!-- the table of all settings -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to."""
    linked = {
        name
        for file in files.documentation_pages()
        for name in LINK.findall(Path(str(file.abs_src_path)).read_text(encoding="utf-8"))
    }
    for name in sorted(linked):
        if (ROOT / name).is_file():  # else the link stays as it is, and the strict build names it
            source = (ROOT / name).read_text(encoding="utf-8")
            fence = f"``` {{ .{LANGUAGES[Path(name).suffix]} linenums='1' }}"
            text = f"---\ntitle: {name}\nsearch: {{exclude: true}}\n---\n# `{name}`\n\n{fence}\n{source}```\n"
            files.append(
                File.generated(config, f"code/{name}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV)
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository at their pages, and write the table of settings."""

    def to_page(link: re.Match[str]) -> str:
        there = files.get_file_from_path(f"code/{link[1]}.md")
        return link[0] if there is None else f"](code/{link[1]}.md)"

    return LINK.sub(to_page, markdown).replace(SETTINGS, settings_tables())


def settings_tables() -> str:
    """Return a table per group of settings: name, type and default; meaning, choices and other names."""
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| setting | what it is |", "|---|---|"]
        lines += [_row(name) for name in group.__annotations__]
        lines.append("")
    return "\n".join(lines)


def _row(name: str) -> str:
    default, traits, kind = FIELDS[name].default, TRAITS[name], TYPES[name]
    words = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    setting = f"`{name}`<br>{html.escape(words)}"
    if default is not dataclasses.MISSING:
        setting += f" = {html.escape(repr(default))}"
    meaning = html.escape(traits.help)
    if traits.choices:
        meaning += "; one of " + ", ".join(f"`{choice}`" for choice in traits.choices)
    if traits.aliases:
        meaning += "; also called " + ", ".join(f"`{alias}`" for alias in traits.aliases)
    return "| " + " | ".join(cell.replace("|", "&#124;") for cell in (setting, meaning)) + " |"
