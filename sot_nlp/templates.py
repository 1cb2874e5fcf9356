"""Fill pages and cards from jinja2 templates, which are package data beside the code that fills them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(
    package: str,
    name: str,
    values: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Return the template `name` in `package`'s folder, filled with `values`.

    In `*.html` (`*.xml` and `*.svg` too) everything printed is escaped, unless it is a `markupsafe.Markup`.
    Other templates print text as it is and escape it by a filter of their own. A style file goes in by
    `{% include "page.css" %}`.

    Args:
        package: the room that holds the template, `sot_nlp.explanation`; list the file in setup.cfg's
            `options.package_data`.
        name: the file's name, `page.html`.
        values: the values of the template's names.
        filters: functions that it may use as filters, beside jinja2's own.

    Raises:
        jinja2.UndefinedError: for a name, an attribute or a key that is not there.
    """
    environment = _environment(package)
    if filters:
        environment = environment.overlay()
        environment.filters = {**environment.filters, **filters}
    return environment.get_template(name).render(values)


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=PackageLoader(package, ""),
        autoescape=select_autoescape(["html", "xml", "svg"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
