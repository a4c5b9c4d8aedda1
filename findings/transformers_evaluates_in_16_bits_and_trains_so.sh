#!/bin/sh
# Evaluation in bfloat16 leaves the network of transformers' Trainer in bfloat16: it learns next to nothing afterwards.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `bf16_full_eval` makes evaluation faster; `train()` computes in 32 bits unless `bf16` asks for less. A network is
# evaluated as it comes, to have a figure to compare with, and then fine-tuned by the same Trainer. It is a small
# vision transformer on ECGs as pictures of 12 rows.
#
# One would guess that training is as it is without that evaluation, and that the weights that are saved are those that
# were trained.
#
# What happens: the weights themselves are rounded to 16 bits, and stay so. Steps of fine-tuning are smaller than the
# distance of two such numbers, and are lost, gradients and states of the optimizer are of 16 bits as well: at a rate
# of 3e-5 the AUROC rises from .476 to .557 instead of .759, without a warning. `evaluate()` after training rounds the
# weights that `save_model()` then writes. `bf16` for training and evaluation keeps 32 bits.
#
# Output seen:
#     set to true     weights in training   AUROC before   after   weights that are saved
#     neither         float32               0.476          0.759   float32
#     bf16            float32               0.476          0.759   float32
#     bf16_full_eval  bfloat16              0.476          0.557   bfloat16
#     transformers evaluates in 16 bits and trains so: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 \
    accelerate==1.15.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import torch
from sklearn.metrics import roc_auc_score
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

LEADS, SAMPLES, LABELS = 12, 64, 4
draw = torch.Generator().manual_seed(3)


def records(number):
    """Pictures of 12 rows and 64 columns; a finding raises a third of the columns of three leads of its own."""
    findings = (torch.rand(number, LABELS, generator=draw) < 0.4).float()
    pictures = torch.randn(number, LEADS, SAMPLES, generator=draw)
    pictures[:, :, 16:37] += 0.5 * findings.repeat_interleave(3, dim=1)[:, :, None]
    return [{"pixel_values": picture[None], "labels": found} for picture, found in zip(pictures, findings)]


training, validation = records(1000), records(1000)


def fine_tuned(setting):
    """Prints and gives the type of the weights in training, and AUROC after it."""
    torch.manual_seed(0)
    network = ViTForImageClassification(
        ViTConfig(
            image_size=(LEADS, SAMPLES),
            patch_size=(LEADS, 8),
            num_channels=1,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=LABELS,
            problem_type="multi_label_classification",
        )
    )
    trainer = Trainer(
        network,
        TrainingArguments(
            output_dir="run",
            num_train_epochs=4,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=100,
            learning_rate=3e-5,
            **({setting: True} if setting != "neither" else {}),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=training,
        eval_dataset=validation,
        compute_metrics=lambda output: {"auroc": roc_auc_score(output.label_ids, output.predictions)},
    )
    stdout, sys.stdout = sys.stdout, sys.stderr  # the Trainer prints its figures
    try:
        before = trainer.evaluate()["eval_auroc"]
        trainer.train()
        trained_in = str(network.dtype).removeprefix("torch.")
        after = trainer.evaluate()["eval_auroc"]
    finally:
        sys.stdout = stdout
    trainer.save_model("saved")
    saved = str(ViTForImageClassification.from_pretrained("saved").dtype).removeprefix("torch.")
    print(f"{setting:15} {trained_in:21} {before:<14.3f} {after:.3f}   {saved}")
    return trained_in, after, saved


print("set to true     weights in training   AUROC before   after   weights that are saved")
neither, both, full = (fine_tuned(setting) for setting in ("neither", "bf16", "bf16_full_eval"))
if (
    neither[::2] == both[::2] == ("float32", "float32")
    and full[::2] == ("bfloat16", "bfloat16")
    and min(neither[1], both[1]) > full[1] + 0.1
):
    print("transformers evaluates in 16 bits and trains so: still so")
else:
    sys.exit("transformers evaluates in 16 bits and trains so: no longer so")
END
