"""What `import ecg_hf` tells transformers: at once where it is loaded, else when it loads; it loads nothing itself.

A class that nobody asked for would cost seconds: the base class of models brings the compiler of torch, and its parts
for several machines. So

- each registry of `_WHEN_LOADED` is told when its module has been executed, by whomever it was imported;
- the registries of models are told tuples of classes, as the library allows, whose items are imported when they are
  looked at.

Of the library only `register` of the Auto classes is called here, and that the modules have these names is relied on;
two functions of its `utils.hub`, by which every `from_pretrained` and pipeline finds its files, learn the names of the
checkpoints that ship. `ecg_hf.pipelines` says what it touches. `tests/test_cold_start.py` fails where a registry no
longer learns of us.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec

from .shipped import located

_MODELING = "ecg_hf.ecg_transformer.modeling_ecg_transformer"
_PIPELINE = "ecg_hf.ecg_transformer.pipeline_ecg_classification"


class _Classes(tuple):
    """Model classes by their names: `("ECGTransformerModel", ...)` whose items are the classes when they are read."""

    def __getitem__(self, index):
        return tuple(self)[index]

    def __contains__(self, item: object) -> bool:
        return item in tuple(self)

    def __iter__(self) -> Iterator[type]:
        modeling = importlib.import_module(_MODELING)
        return iter([getattr(modeling, name) for name in super().__iter__()])


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig

    AutoConfig.register("ecg_transformer", ECGTransformerConfig, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig

    classifier, pretraining = "ECGTransformerForMultiLabel", "ECGTransformerForPreTraining"
    # The base class first: `architectures` of the checkpoint chooses among them, and names the base by default.
    for auto, *names in (
        (modeling_auto.AutoModel, "ECGTransformerModel", classifier, pretraining),
        (modeling_auto.AutoModelForSequenceClassification, classifier),
        (modeling_auto.AutoModelForPreTraining, pretraining),
    ):
        auto.register(ECGTransformerConfig, _Classes(names), exist_ok=True)


def _register_feature_extractor() -> None:
    from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

    from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
    from .ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor

    AutoFeatureExtractor.register(ECGTransformerConfig, ECGTransformerFeatureExtractor, exist_ok=True)


def _find_shipped_checkpoints() -> None:
    hub = sys.modules["transformers.utils.hub"]

    def of_located(function: Callable) -> Callable:
        @functools.wraps(function)
        def with_folder(path_or_repo_id, *args, **kwargs):
            return function(located(path_or_repo_id), *args, **kwargs)

        return with_folder

    hub.cached_files = of_located(hub.cached_files)
    # Only spares a question to the Hub, and modules that were loaded before have their own name for it.
    hub.resolve_revision = of_located(hub.resolve_revision)


def _load_our_pipelines() -> None:
    importlib.import_module(_PIPELINE)


def _register_pipelines() -> None:
    importlib.import_module("ecg_hf.pipelines")  # registers them at its end


_WHEN_LOADED: dict[str, Callable[[], None]] = {
    "transformers.utils.hub": _find_shipped_checkpoints,
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractor,
    # Ours need the library's, and the other way round: whichever is first, both are whole before they are joined.
    "transformers.pipelines": _load_our_pipelines,
    _PIPELINE: _register_pipelines,
}


class _Watch:
    """Finds the modules of `_WHEN_LOADED` as everything else does, and has their function called once they are
    executed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target=None) -> ModuleSpec | None:
        if name not in _WHEN_LOADED:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _WHEN_LOADED[name]()

            spec.loader.exec_module = execute_and_register
        return spec


def register() -> None:
    """Tell the registries that are loaded, and see to it that the others are told when they load."""
    sys.meta_path.insert(0, _Watch())
    for name, tell in _WHEN_LOADED.items():
        if name in sys.modules:
            tell()


__all__ = ["register"]
