"""Register your own parts of the head: `sot_nlp.register_pooling`, `register_normalization`, ...

A registered part is chosen by its name, trained, saved and loaded as the others are; its file is saved with
the model. Nothing here imports torch until a part is registered.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from .parts import REGISTRY, FusionPart, NormalizationPart, Part, PoolingPart


def register_pooling(
    name: str,
    module: type,
    *,
    doc: str = "",
    gives: Literal["matrix", "vector"] = "vector",
    exact: bool = False,
    own_settings: Mapping[str, Any] | None = None,
) -> None:
    """Register a pooling, so that the setting `pooling` can name it.

    Args:
        name: the value of the setting.
        module: a subclass of `sot_nlp.WordPooling`, in a file of its own, which is saved with the model.
        doc: one line on what it does.
        gives: `vector`, (B, M, D) features for M groups, or `matrix`, (B, M, P, Q).
        exact: whether its `shares` gives each word's exact share of the word logits.
        own_settings: names and defaults (numbers, texts, true or false) of its own settings. `part_settings`
            of a head overrides them; the module reads them with `config.setting("name")`.

    Raises:
        ValueError: if the name is taken, or the module or its settings are not valid.
    """
    _add(
        PoolingPart(
            name=name,
            source=module,
            doc=doc,
            own_settings=own_settings or {},
            gives=gives,
            inexact="" if exact else "gives no exact shares",
        ),
    )


def register_normalization(
    name: str,
    module: type,
    *,
    doc: str = "",
    takes: Iterable[Literal["matrix", "vector"]] = ("matrix", "vector"),
    exact: bool = False,
    own_settings: Mapping[str, Any] | None = None,
) -> None:
    """Register a normalisation, so that the setting `normalization` can name it.

    Args:
        name: the value of the setting.
        module: a subclass of `sot_nlp.Normalization`, in a file of its own, which is saved with the model.
        doc: one line on what it does.
        takes: what it can follow: a `matrix` (B, M, P, Q), a `vector` (B, M, D), or both.
        exact: whether it multiplies each head by one number, which its `gain` returns; words then have exact
            shares of the logits.
        own_settings: as in `register_pooling`.

    Raises:
        ValueError: if the name is taken, or the module or its settings are not valid.
    """
    _add(
        NormalizationPart(
            name=name,
            source=module,
            doc=doc,
            own_settings=own_settings or {},
            takes=tuple(takes),
            exact="yes" if exact else "no",
            scalar_gain=lambda config: exact,
        ),
    )


def register_fusion(
    name: str,
    module: type,
    *,
    doc: str = "",
    own_settings: Mapping[str, Any] | None = None,
) -> None:
    """Register a fusion of words and classification token, so that the setting `fusion` can name it.

    Args:
        name: the value of the setting.
        module: a subclass of `sot_nlp.Fusion`, in a file of its own, which is saved with the model.
        doc: one line on what it does.
        own_settings: as in `register_pooling`.

    Raises:
        ValueError: if the name is taken, or the module or its settings are not valid.
    """
    _add(FusionPart(name=name, source=module, doc=doc, own_settings=own_settings or {}))


def register_head(name: str, module: type) -> None:
    """Register a whole head, so that the setting `module` can name it; `from_pretrained(head=...)` does too.

    Args:
        name: the value of the setting.
        module: a subclass of `torch.nn.Module`, in a file of its own. Its constructor takes `hidden_size`,
            `num_labels` and the settings in the module's attribute `settings` (a dict of plain values); its
            forward takes hidden states, the words' mask and the classification token, as `SoTHead.forward`
            does, and returns logits (B, K).

    Raises:
        ValueError: if the name is taken, or the module is not such a class.
    """
    accepted = inspect.signature(module).parameters if inspect.isclass(module) else {}
    if not {"hidden_size", "num_labels"} <= set(accepted):
        raise ValueError(
            f"head {name!r}: {getattr(module, '__name__', module)} must be a class whose constructor takes "
            "hidden_size and num_labels"
        )
    _add(Part(name=name, source=module, doc=""))


_BASES = {
    "pooling": ("word_pooling", "WordPooling"),
    "normalization": ("normalizers", "Normalization"),
    "fusion": ("fusion", "Fusion"),
}


def _add(part: Part) -> None:
    kind = part.kind
    parts = REGISTRY[kind]
    present = parts.get(part.name)
    if present is not None and not _same_class(present.source, part.source):
        raise ValueError(f"{kind} {part.name!r} is there already: choose another name")
    if not part.name.isidentifier():
        raise ValueError(f"{kind} {part.name!r}: a name is made of letters, digits and _")
    if kind in _BASES:
        file, name = _BASES[kind]
        base = getattr(importlib.import_module(f".{file}", __package__), name)
        if not inspect.isclass(part.source) or not issubclass(part.source, base):
            raise ValueError(f"{kind} {part.name!r}: {part.source!r} is no subclass of sot_nlp.{name}")
    for setting, value in part.own_settings.items():
        if not isinstance(value, (bool, int, float, str)):
            raise ValueError(
                f"{kind} {part.name!r}: own setting {setting}={value!r} is no number, text, true or false"
            )
    parts[part.name] = part


def _same_class(present: str | type, new: str | type) -> bool:
    """Return whether a part is registered again, as a notebook's cell or a reload does."""
    if isinstance(present, str) or isinstance(new, str):
        return False
    return (present.__module__, present.__qualname__) == (new.__module__, new.__qualname__)
