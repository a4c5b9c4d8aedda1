"""What the machine at hand computes with: which precision `bf16: auto` stands for, and its device in words."""

from __future__ import annotations

import argparse
import os

import torch
from transformers.hf_argparser import string_to_bool
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

AUTO = "auto"


def has_accelerator() -> bool:
    """Whether there is a GPU, or another device than the CPU."""
    return torch.accelerator.is_available() or is_torch_xla_available()


def computes_in_bf16(use_cpu: bool) -> bool:
    """Whether the device has instructions for bfloat16; where these are emulated, float32 is faster.

    Of CPUs those with AVX512-BF16 or AMX, of CUDA devices those of compute capability 8.0 on.
    """
    if use_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def resolve_bf16(value: bool | str, use_cpu: bool, fp16: bool) -> bool:
    """Whether to compute in bfloat16: true or false, or, for `auto`, what launcher, `fp16` and device allow.

    Raises `ValueError` for anything else.
    """
    if str(value).lower() == AUTO:
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        return not fp16 and (computes_in_bf16(use_cpu) if launched == "no" else launched == "bf16")
    try:
        return string_to_bool(value if isinstance(value, bool) else str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"`bf16` must be true, false or auto, got `{value}`.") from error


def device_in_words(device: torch.device) -> str:
    """`CPU (2 threads)`, or the name of a GPU."""
    if device.type == "cpu":
        count = torch.get_num_threads()
        return f"CPU ({count} thread{'s' if count > 1 else ''})"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


__all__ = ["AUTO", "computes_in_bf16", "device_in_words", "has_accelerator", "resolve_bf16"]
