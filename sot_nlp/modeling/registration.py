"""Make transformers' Auto classes know the SoT models, without importing transformers before others do.

`import sot_nlp` has to stay light, and yet `AutoModelForSequenceClassification.from_pretrained(<SoT
checkpoint>)` has to work after it, in whichever order the two packages are imported. So an import hook
registers the classes as soon as transformers' registries are there; and only between imports, never inside
one of transformers' own or of the SoT classes, which would meet half-made modules.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WATCHED = ("transformers.", "sot_nlp.modeling.")
CONFIG_REGISTRY = "transformers.models.auto.configuration_auto"
MODEL_REGISTRY = "transformers.models.auto.modeling_auto"
FAMILIES = ("Bert", "Roberta", "OpenAIGPT", "GPT2", "Generic")

# Which registries have been executed since the classes were last registered with them.
_waiting: set[str] = set()


def install() -> None:
    """Watch imports from now on, and register what is there already; a second call does nothing."""
    if any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        return
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)
    _waiting.update(name for name in (CONFIG_REGISTRY, MODEL_REGISTRY) if name in sys.modules)
    _register()


class _Watcher(MetaPathFinder):
    """Leaves the finding to the other finders, and extends the loading of the watched modules.

    It stays on `sys.meta_path`, so that a reload of a registry registers the classes again.
    """

    def __init__(self) -> None:
        self.thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(WATCHED):
            return None
        specs = (
            finder.find_spec(fullname, path, target)
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        )
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = functools.partial(self.execute, spec.loader.exec_module)  # type: ignore[union-attr]
            spec.loader.exec_module = execute  # type: ignore[union-attr, method-assign]
        return spec

    def execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Run a module's code; behind the outermost watched one, register where a registry has come."""
        depth = getattr(self.thread, "depth", 0)
        self.thread.depth = depth + 1
        try:
            execute(module)
        finally:
            self.thread.depth = depth
        if module.__name__ in (CONFIG_REGISTRY, MODEL_REGISTRY):
            _waiting.add(module.__name__)
        if depth == 0 and _waiting:
            _register()


def _register() -> None:
    if CONFIG_REGISTRY in _waiting:
        _waiting.discard(CONFIG_REGISTRY)
        registry: Any = sys.modules[CONFIG_REGISTRY]
        configs = importlib.import_module(".configuration_sot", __package__)
        for family in FAMILIES:
            config_class = getattr(configs, f"SoT{family}Config".replace("Generic", ""))
            registry.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    if MODEL_REGISTRY in _waiting:
        _waiting.discard(MODEL_REGISTRY)
        registry = sys.modules[MODEL_REGISTRY]
        models = importlib.import_module(".modeling_sot", __package__)
        backbones = importlib.import_module(".backbone", __package__)
        for family in FAMILIES:
            classifier = getattr(models, f"SoT{family}ForSequenceClassification")
            config_class = classifier.config_class
            registry.AutoModelForSequenceClassification.register(config_class, classifier, exist_ok=True)
            registry.AutoModel.register(config_class, getattr(backbones, f"SoT{family}Model"), exist_ok=True)
