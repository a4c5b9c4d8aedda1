"""Which of the ways to compute attention a training run takes where nobody says."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.utils import logging

from .arguments import RunArguments

logger = logging.get_logger(__name__)

MOST_TOKENS = 400


def set_attention(model: PreTrainedModel, given: str | None, args: RunArguments) -> None:
    """Let the model compute attention as `given`, or, where that is None, in the way that was measured to be fastest.

    On a CPU in bfloat16 that is `eager` for windows of up to `MOST_TOKENS` tokens: PyTorch's fused kernel (`sdpa`, the
    library's choice) is made for long sequences, and for more tokens the weights of `eager` fill the memory. Weights
    after training differ by rounding, and the saved configuration names neither. Seconds of a training step with
    `sdpa` over those with `eager`, of the encoder `ptbxl_100hz` on one core of an AMD EPYC with AVX512 and native
    bfloat16, PyTorch 2.13, by `python training/benchmark.py steps attention`:

    | tokens | 25 | 50 | 100 | 200 | 400 | 800 |
    |---|---|---|---|---|---|---|
    | float32 | 1.01 | .98 | .97 | .96 | .81 | .76 |
    | bfloat16 | 1.66 | 1.65 | 1.70 | 1.37 | 1.07 | 1.27 |
    """
    if given is not None:
        model.set_attn_implementation(given)
        return
    tokens = num_tokens(model.config)
    if args.device.type != "cpu" or not args.bf16 or args.torch_compile or tokens > MOST_TOKENS:
        return
    model.set_attn_implementation("eager")
    logger.warning(
        f"Attention is computed by `eager`, the fastest way on a CPU in bfloat16 for windows of {tokens} tokens; "
        "`--attn_implementation` chooses another."
    )


def num_tokens(config) -> int:
    """Patches of a window, of all leads where these have tokens of their own."""
    return config.num_patches * (config.num_leads if config.lead_layout == "tokens" else 1)


__all__ = ["MOST_TOKENS", "num_tokens", "set_attention"]
