"""The structure of the package: which part may import which, and what of the library's trainer is touched."""

import ast
import inspect
import pathlib
import re

import accelerate
import transformers

import ecg_hf
from ecg_hf import PostTrainer, PreTrainer
from ecg_hf.runs.trainer import RunTrainer

PACKAGE = pathlib.Path(ecg_hf.__file__).parent
MAX_LINES = 600

# For each part of the package the parts that it may import, besides itself. Whoever adds an arrow adds it here, and
# it must not lead upwards.
ALLOWED = {
    "arrow": set(),
    "ecg_transformer": set(),
    "files": set(),
    "help": set(),
    "info": {"runs", "version"},
    "loading": set(),
    "model_folder": {"ecg_transformer", "files", "shipped"},
    "memory": set(),
    "processes": set(),
    "readers": {"ecg_transformer"},
    "tables": {"arrow", "ecg_transformer", "files", "memory", "processes", "ptbxl", "readers"},
    "version": set(),
    "pipelines": {"ecg_transformer", "readers", "shipped"},
    "registration": {"ecg_transformer", "shipped"},
    "shipped": set(),
    "plotting": {"ecg_transformer", "files"},
    "curves": {"ecg_transformer", "files", "plotting"},
    "intervals": set(),
    "metrics": {"ecg_transformer", "intervals"},
    "target_metrics": {"ecg_transformer", "intervals", "metrics"},
    "ptbxl": {"arrow", "ecg_transformer", "files"},
    "synthetic": {"ecg_transformer", "files", "ptbxl"},
    "conversion": {"ecg_transformer", "files", "model_folder", "ptbxl"},
    "card_text": set(),
    "card_curves": {"curves", "ecg_transformer", "plotting"},
    "card_stages": set(),
    "card_targets": {"ecg_transformer"},
    "seen_data": set(),
    "cards": {
        "card_curves",
        "card_stages",
        "card_targets",
        "card_text",
        "files",
        "plotting",
        "ptbxl",
        "seen_data",
        "version",
    },
    "hub": {"card_curves", "cards", "ecg_transformer", "files", "model_folder"},
    "command": {"ecg_transformer"},
    "runs": {
        "arrow",
        "cards",
        "command",
        "ecg_transformer",
        "files",
        "memory",
        "model_folder",
        "plotting",
        "processes",
        "ptbxl",
        "readers",
    },
    "post_training": {
        "card_curves",
        "cards",
        "command",
        "curves",
        "ecg_transformer",
        "files",
        "hub",
        "metrics",
        "model_folder",
        "ptbxl",
        "runs",
        "synthetic",
        "tables",
        "target_metrics",
    },
    "evaluation": {
        "curves",
        "ecg_transformer",
        "files",
        "intervals",
        "metrics",
        "model_folder",
        "plotting",
        "post_training",
        "ptbxl",
        "runs",
        "tables",
        "target_metrics",
    },
    "pretraining": {
        "arrow",
        "cards",
        "ecg_transformer",
        "files",
        "memory",
        "metrics",
        "ptbxl",
        "readers",
        "runs",
        "tables",
    },
    "inference": {
        "command",
        "ecg_transformer",
        "files",
        "metrics",
        "model_folder",
        "pipelines",
        "plotting",
        "post_training",
        "pretraining",
        "ptbxl",
        "readers",
        "runs",
        "tables",
        "version",
    },
    "demo": {"cards", "ecg_transformer", "files", "hub", "inference", "plotting", "shipped", "version"},
    # The faces of the package.
    "__init__": None,
    "cli": None,
    "prepare_command": None,
}


def modules() -> dict[str, pathlib.Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str, path: pathlib.Path) -> set[str]:
    """The modules of the package that a module imports, also within functions."""
    known, found = modules(), set()
    parts = name.split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            candidates = [target, *(f"{target}.{alias.name}".strip(".") for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ecg_hf":
            candidates = [node.module.removeprefix("ecg_hf").strip(".")]
        elif isinstance(node, ast.Import):
            candidates = [alias.name[7:] for alias in node.names if alias.name.startswith("ecg_hf.")]
        else:
            continue
        for candidate in candidates:
            package = f"{candidate}.__init__".strip(".")
            found |= {candidate} & known.keys() or {package} & known.keys()
    return found - {name}


def test_no_module_imports_a_part_above_it():
    arrows = {
        (name, target)
        for name, path in modules().items()
        for target in imports_of(name, path)
        if ALLOWED[name.split(".")[0]] is not None
    }
    upward = [
        f"{name} imports {target}"
        for name, target in sorted(arrows)
        if target.split(".")[0] not in {name.split(".")[0], *ALLOWED[name.split(".")[0]]}
    ]
    assert not upward
    assert len(arrows) > 60  # the test sees them


def test_parts_draw_no_circle():
    """The list above has an order: nobody may write a circle into it."""
    remaining = {name: set(allowed) for name, allowed in ALLOWED.items() if allowed is not None}
    while remaining:
        ground = {name for name, allowed in remaining.items() if not allowed & remaining.keys()}
        assert ground, f"a circle among {sorted(remaining)}"
        remaining = {name: allowed for name, allowed in remaining.items() if name not in ground}


def test_modules_draw_no_circle():
    remaining = {name: imports_of(name, path) for name, path in modules().items()}
    while remaining:
        ground = {name for name, targets in remaining.items() if not targets & remaining.keys()}
        assert ground, f"a circle among {sorted(remaining)}"
        remaining = {name: targets for name, targets in remaining.items() if name not in ground}


def test_no_module_is_too_long():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


TRAINERS = (RunTrainer, PostTrainer, PreTrainer)


def test_no_private_part_of_the_librarys_trainer_is_overridden_or_used():
    source = inspect.getsource(transformers.Trainer)
    private = {name for name in re.findall(r"(?:self\.|def )(_[a-z]\w+)", source)}
    assert {"_get_output_dir", "_save_checkpoint"} <= private  # the test sees them
    for trainer in TRAINERS:
        overridden = private & vars(trainer).keys()
        used = private & set(re.findall(r"self\.(_[a-z]\w+)", inspect.getsource(trainer)))
        assert not overridden and not used, trainer


def test_the_one_private_name_that_is_needed_is_still_there():
    """`RunTrainer._forget_preparation` takes this mark away; test_distributed shows what happens without it."""
    prepare = inspect.getsource(accelerate.Accelerator.prepare_model)
    assert re.search(r"_is_accelerate_prepared\"?, False\):\s+if model not in self\._models", prepare)
    assert "model._is_accelerate_prepared = True" in prepare
