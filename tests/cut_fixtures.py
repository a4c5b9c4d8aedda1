"""Cuts the shared fixtures down to what tests/fixtures holds: `python tests/cut_fixtures.py SHARED/fixtures`.

Nothing is computed anew: every number is one that the authors' code gave.
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

# Of the tokens, and of the samples of processed records, every tenth is kept.
STEP = 10

CHECKPOINTS = {
    "st_mem": ["checkpoint_finetuned.pth"],
    "ecg_fm": ["checkpoint_finetuned.pt"],
    "hubert_ecg": ["checkpoint_finetune_linear.pt"],
    "ecg_jepa_kim": ["checkpoint_finetuned.pth", "checkpoint_variant.pth"],
    "ecg_jepa_weimann": ["checkpoint_finetuned_attn.pt", "checkpoint_variant_3leads_250hz_patch20.pt"],
    "mtecg": ["checkpoint_gap.pth"],
}

# The input is kept as far as the cases read it: the first 1003 samples for ECG-FM's `odd_length`, a crop for Weimann.
NUM_SAMPLES = {"ecg_fm": 1003, "ecg_jepa_weimann": 1250}

# Of each recorded batch the first row.
IO = {
    "st_mem": [
        "finetuned/pooled",
        "finetuned/logits",
        "finetuned/tokens_prenorm_first_sample",
        *(
            f"case_{name}/{output}"
            for name in ("shorter_1125", "one_patch_75", "precordial_zeroed", "small_amplitude_x0.004")
            for output in ("pooled", "logits")
        ),
        *(f"case_{name}_model/{output}" for name in ("limb", "lead1", "lead2") for output in ("pooled", "logits")),
        "case_all_zero/logits",
        "case_leads_reversed/logits",
    ],
    "ecg_fm": [
        *(
            f"finetuned_{name}/{output}"
            for name in ("short", "odd_length", "len250", "len31")
            for output in ("pooled", "logits", "tokens")
        ),
        "finetuned_len16/pooled",
        "finetuned_len16/logits",
        "finetuned_saliency400/logits",
    ],
    "hubert_ecg": [
        "pooled",
        "tokens",
        "finetuned/linear/logits",
        *(f"mask_per_lead/{part}" for part in ("attention_mask", "pooled", "logits_linear", "backbone_tokens")),
        *(
            f"length_{length}/{part}"
            for length in (500, 82)
            for part in ("input", "pooled", "logits_linear", "tokens")
        ),
    ],
    "ecg_jepa_kim": ["finetuned/pooled", "finetuned/logits", "variant/pooled", "variant/tokens"],
    "ecg_jepa_weimann": [
        f"{name}/{output}"
        for name in ("finetuned_attn", "variant_3leads_250hz_patch20")
        for output in ("pooled", "logits", "tokens")
    ],
    "mtecg": ["gap/pooled", "gap/logits", "gap/tokens_prenorm", "case_all_zero/logits_gap"],
}

# The same without a batch: the logits of the windows of the first real record.
REAL = {
    "ecg_fm": {"end_to_end/0/logits": slice(None), "end_to_end/0/aggregated": slice(None)},
    "hubert_ecg": {"real_windows/logits_linear": slice(2)},
}

# What the authors' code makes of the first real record.
PROCESSED = {
    "st_mem": ["processed/0", "limb_lead_lead0/0", "lead2/0", "as_if_400hz_lead0/0"],
    "ecg_fm": ["processed/0"],
    "hubert_ecg": ["processed/0_window0", "processed/0_window1", "special/flat_lead4", "special/short_1500"],
    "ecg_jepa_kim": ["processed/0", "processed_finetune/0"],
    "ecg_jepa_weimann": ["processed/0", "processed_250hz_II_V1_V5/0", "processed_pretraining_statistics/0"],
    "mtecg": ["processed/0"],
}
WITH_PROCESSED = {
    "st_mem": ["finetuned_logits/0"],
    "ecg_jepa_kim": ["end_to_end/finetuned_logits/0"],
    "ecg_jepa_weimann": [
        "mean",
        "std",
        "mean_250hz",
        "std_250hz",
        *(
            f"end_to_end/{name}/{logits}/0"
            for name in ("finetuned_attn", "variant_3leads_250hz_patch20")
            for logits in ("logits", "crop_logits")
        ),
    ],
}


def cut_record(folder: pathlib.Path) -> torch.Tensor:
    """The first real record, which is the same for all families, in whole µV: int16 (12, 5000)."""
    records = [load_file(folder / family / "preprocess.safetensors")["raw/0"] for family in CHECKPOINTS]
    microvolts = (records[0] * 1000).round().to(torch.int16)
    assert all(torch.equal(microvolts.float() / 1000, record) for record in records)
    return microvolts


def cut_numbers(folder: pathlib.Path, family: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of `io` and `preprocess`."""
    whole = load_file(folder / family / "io.safetensors")
    io = {name: whole[name][:1] for name in ["input", *IO[family]]}
    io["input"] = io["input"][..., : NUM_SAMPLES.get(family)]
    for name, values in io.items():
        if "tokens" in name:
            io[name] = values[:, ::STEP]
    io |= {name: whole[name][rows] for name, rows in REAL.get(family, {}).items()}

    whole = load_file(folder / family / "preprocess.safetensors")
    preprocess = {name: whole[name] for name in WITH_PROCESSED.get(family, [])}
    for name in PROCESSED[family]:
        values = whole[name].view(12, -1) if family == "hubert_ecg" else whole[name]
        preprocess[name] = values[..., ::STEP]
    return {
        file: {name: values.contiguous() for name, values in tensors.items()}
        for file, tensors in (("io", io), ("preprocess", preprocess))
    }


def main(source: pathlib.Path):
    target = pathlib.Path(__file__).parent / "fixtures"
    target.mkdir(exist_ok=True)
    save_file({"microvolts": cut_record(source)}, target / "record.safetensors")
    for family, checkpoints in CHECKPOINTS.items():
        (target / family).mkdir(exist_ok=True)
        for name, tensors in cut_numbers(source, family).items():
            save_file(tensors, target / family / f"{name}.safetensors")
        for name in checkpoints:
            shutil.copyfile(source / family / name, target / family / name)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
