#!/bin/sh
# The Trainer of transformers takes n times the gradient where n small batches are accumulated and labels are several.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, numpy 2.4.6; Python 3.11.
#
# With `gradient_accumulation_steps` a batch that does not fit in memory is taken in parts: 32 records as 8 times 4.
#
# One would guess that loss, gradient and step are those of the whole batch, as far as rounding goes.
#
# What happens: they are with one of several classes (`single_label_classification`) in models of images and
# spectrograms, but with `multi_label_classification` the gradient is as many times as large as there are parts, and so
# is the loss that is logged. The Trainer leaves the division to the model, whose loss for several labels does not
# divide. Steps of SGD are 8 times as long; with AdamW, gradients are cut that `max_grad_norm` (1 by default) would
# leave alone. So a run with less memory learns otherwise than the same run with more, and losses of runs cannot be
# compared. `BertForSequenceClassification` does so for classes as well. There is no warning.
#
# Output seen:
#     ASTForAudioClassification, single_label_classification
#       1 x 32 records: loss 1.628   8 x 4 records: loss 1.628; gradient 1.00 times as large, step of SGD 1.00 times
#     ASTForAudioClassification, multi_label_classification
#       1 x 32 records: loss 0.697   8 x 4 records: loss 5.580; gradient 8.00 times as large, step of SGD 8.00 times
#     ViTForImageClassification, single_label_classification
#       1 x 32 records: loss 1.594   8 x 4 records: loss 1.594; gradient 1.00 times as large, step of SGD 1.00 times
#     ViTForImageClassification, multi_label_classification
#       1 x 32 records: loss 0.705   8 x 4 records: loss 5.641; gradient 8.00 times as large, step of SGD 8.00 times
#     BertForSequenceClassification, single_label_classification
#       1 x 32 records: loss 1.608   8 x 4 records: loss 12.862; gradient 8.00 times as large, step of SGD 8.00 times
#     BertForSequenceClassification, multi_label_classification
#       1 x 32 records: loss 0.693   8 x 4 records: loss 5.547; gradient 8.00 times as large, step of SGD 8.00 times
#     transformers multiplies gradients: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 \
    accelerate==1.15.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -W ignore - <<'END'
import sys

import torch
import transformers

RECORDS, LABELS = 32, 5
draw = torch.Generator().manual_seed(0)
findings = (torch.rand(RECORDS, LABELS, generator=draw) < 0.3).float()
classes = torch.randint(0, LABELS, (RECORDS,), generator=draw)
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {  # spectrograms, pictures of ECGs, words of reports
    "ASTForAudioClassification": (
        transformers.ASTConfig,
        {"max_length": 64, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        {"input_values": torch.randn(RECORDS, 64, 16, generator=draw)},
    ),
    "ViTForImageClassification": (
        transformers.ViTConfig,
        {"image_size": 32, "patch_size": 8},
        {"pixel_values": torch.randn(RECORDS, 3, 32, 32, generator=draw)},
    ),
    "BertForSequenceClassification": (
        transformers.BertConfig,
        {"vocab_size": 100},
        {"input_ids": torch.randint(0, 100, (RECORDS, 10), generator=draw)},
    ),
}


def one_step(name, problem, parts):
    """The loss that is logged, the norm of the gradient, and the length of a step of SGD."""
    config_class, settings, inputs = MODELS[name]
    torch.manual_seed(0)
    config = config_class(num_labels=LABELS, problem_type=problem, **SMALL, **NO_DROPOUT, **settings)
    model = getattr(transformers, name)(config)
    labels = findings if problem == "multi_label_classification" else classes
    rows = [{"labels": labels[row], **{key: value[row] for key, value in inputs.items()}} for row in range(RECORDS)]
    arguments = transformers.TrainingArguments(
        "run", per_device_train_batch_size=RECORDS // parts, gradient_accumulation_steps=parts, max_steps=1,
        logging_steps=1, optim="sgd", learning_rate=0.01, max_grad_norm=1e9, lr_scheduler_type="constant",
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer.train()
    step = (torch.nn.utils.parameters_to_vector(model.parameters()) - before).norm().item()
    log = trainer.state.log_history[0]
    return log["loss"], log["grad_norm"], step


transformers.trainer_callback.PrinterCallback.on_log = lambda *arguments, **options: None
transformers.utils.logging.disable_progress_bar()
ratios = {}
for name in MODELS:
    for problem in ("single_label_classification", "multi_label_classification"):
        whole, in_parts = one_step(name, problem, 1), one_step(name, problem, 8)
        ratios[name, problem] = [part / one for one, part in zip(whole, in_parts, strict=True)]
        print(f"{name}, {problem}")
        print(f"  1 x 32 records: loss {whole[0]:.3f}   8 x 4 records: loss {in_parts[0]:.3f}; ", end="")
        print("gradient {1:.2f} times as large, step of SGD {2:.2f} times".format(*ratios[name, problem]))

several = [ratios[name, "multi_label_classification"] for name in MODELS]
one_class = [ratios[name, "single_label_classification"] for name in MODELS if name[:4] != "Bert"]
if all(7.9 < value < 8.1 for found in several for value in found) and all(
    0.99 < value < 1.01 for found in one_class for value in found
):
    print("transformers multiplies gradients: still so")
else:
    sys.exit("transformers multiplies gradients: no longer so")
END
