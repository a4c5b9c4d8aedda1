"""The stages of post-training in a card: their names in words, settings, durations and validation metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGE_TITLES = {
    "probe": "Preview linear probing",
    "finetune": "Fine-tuning",
    "lora": "Low-rank adaptation (LoRA)",
}
_WITH_DEPTH = " with stochastic depth"


def drops_paths(recipe: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the stage after the probe had stochastic depth: at the rate of the recipe, or else that of the model."""
    rate = recipe.get("drop_path_rate")
    return bool(config.get("drop_path_rate") if rate is None else rate)


def stage_recipes(recipe: dict, results: dict, metrics: Mapping[str, dict], has_depth: bool) -> list[dict[str, Any]]:
    """Name, title, settings, duration, number of trained parameters and validation metrics of each stage.

    The last two are None where the run did not record them. `has_depth` is what [`drops_paths`] says.
    """
    return [
        {
            "name": stage,
            "title": STAGE_TITLES[stage] + (_WITH_DEPTH if has_depth and stage != "probe" else ""),
            "settings": _stage_settings(recipe, stage),
            "seconds": results.get(f"{stage}_seconds"),
            "num_trained": results.get(f"{stage}_trained_parameters"),
            "metrics": metrics.get(stage),
        }
        for stage in recipe["stages"]
    ]


def _stage_settings(recipe: dict, stage: str) -> dict[str, Any]:
    if stage == "probe":
        return {name.removeprefix("probe_"): value for name, value in recipe.items() if name.startswith("probe_")}
    # LoRA has a learning rate of its own, and shares all else with fine-tuning.
    shared = (
        "stages",
        "seed",
        "metric_for_best_model",
        *(["learning_rate", "layer_decay"] if stage == "lora" else []),
    )
    settings = {
        name: value
        for name, value in own_settings(recipe, "stages").items()
        if not name.startswith("probe_") and name not in shared
    }
    return {name.removeprefix("lora_"): value for name, value in settings.items()}


def own_settings(recipe: dict, *first: str) -> dict[str, Any]:
    """The best known fields of the training itself: from the first of `first` that is there to `seed`.

    Before them stand facts of model and data, after them fields that are seldom changed.
    """
    names = list(recipe)
    start = min(names.index(name) for name in first if name in recipe)
    shown = names[start : names.index("seed") + 1]
    return {name: recipe[name] for name in shown if recipe[name] is not None}


__all__ = ["STAGE_TITLES", "drops_paths", "own_settings", "stage_recipes"]
