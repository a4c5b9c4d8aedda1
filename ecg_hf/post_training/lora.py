"""The stage `lora`: low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of a frozen encoder, by `peft`.

To a weight W (out, in) of a block is added `alpha / rank` times B A, with B (out, rank), at first zero, and A (rank,
in), at first random. When the stage ends, the sum becomes the weight, so that the model is an ordinary one again.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from transformers import set_seed

from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import whole_folder
from .arguments import PostTrainingArguments

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FOLDER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

# Of the blocks alone: the pooling has projections of the same names.
_ATTENTION, _MLP = r"attention\.[qkvo]_proj", r"mlp\.fc[12]"


def target_modules(mlp: bool) -> str:
    """Regular expression of the names of the linear maps that get an adapter."""
    maps = f"{_ATTENTION}|{_MLP}" if mlp else _ATTENTION
    return rf"(.*\.)?layers\.\d+\.({maps})"


@contextlib.contextmanager
def adapted(model: ECGTransformerForMultiLabel, args: PostTrainingArguments) -> Iterator[PeftModel]:
    """A block in which `model` has new adapters and all of it but these and its head is frozen; yields peft's view.

    The model is changed in place. When the block ends the adapters are merged; where it raises they are taken out, and
    the head of before is put back.
    """
    from peft import LoraConfig, get_peft_model

    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    head = model.classifier
    set_seed(args.seed)  # of the first values of A, in every process
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=target_modules(args.lora_mlp),
        modules_to_save=["classifier"],
    )
    view = get_peft_model(model, config)
    try:
        yield view
    except BaseException:  # an interrupt too leaves the model as it was; it is raised again
        view.unload()
        model.classifier = head
        raise
    else:
        view.merge_and_unload()
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in learned)


def num_trained_parameters(model: ECGTransformerForMultiLabel) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def write_adapter(view: PeftModel, folder: pathlib.Path) -> None:
    """Write the adapters and the head to a folder, from which `PeftModel.from_pretrained(base, folder)` reads them.

    The base is named by its id on the Hub, or by the name of its folder, not by a path of this machine.
    """
    config = view.peft_config[view.active_adapter]
    config.base_model_name_or_path = (view.get_base_model().config.provenance or {}).get("base")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was stopped right after it
    with whole_folder(folder) as unfinished:
        # Otherwise the Hub would be asked whether the base has other embeddings.
        view.save_pretrained(unfinished, save_embedding_layers=False)
        for file in unfinished.iterdir():
            if file.name not in ADAPTER_FILES:  # a card with blanks to fill in
                file.unlink()


__all__ = ["ADAPTER_FILES", "ADAPTER_FOLDER", "adapted", "num_trained_parameters", "target_modules", "write_adapter"]
