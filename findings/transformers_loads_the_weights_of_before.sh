#!/bin/sh
# A folder that is saved again in shards loads with the weights of the save before.
#
# Versions: transformers 5.23.0, torch 2.13.0, safetensors 0.8.0; Python 3.11.
#
# `save_pretrained` writes one file of weights, or with a smaller `max_shard_size` several and an index, as for
# checkpoints of long recordings or for a Hub that wants small files. The network here is PatchTST, the library's own
# Transformer for time series.
#
# One would guess that the folder holds the weights that were saved last, in whichever form, and that these load.
#
# What happens: the one file of the first save stays beside the shards of the second, and `from_pretrained` takes it.
# The model is that of before the training, without a warning. The other way round the shards are deleted and the new
# file loads; only the index of shards that are gone stays, and a push of the folder uploads it.
#
# Output seen:
#     saved in one file, trained, saved in shards
#       the folder has model.safetensors, model.safetensors.index.json and 5 shards
#       largest difference of the loaded weights to those saved last 1.0, to those saved first 0.0
#       warnings: 0
#     saved in shards, trained, saved in one file
#       the folder has model.safetensors, model.safetensors.index.json and 0 shards
#       largest difference of the loaded weights to those saved last 0.0, to those saved first 1.0
#       warnings: 0
#     the weights of before are loaded: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 \
    safetensors==0.8.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python - <<'END'
import logging
import pathlib
import sys
import warnings

import torch
from transformers import PatchTSTConfig, PatchTSTModel
from transformers.utils import logging as of_transformers

SIZES = {"in one file": "1GB", "in shards": "20KB"}
seen = []


class Note(logging.Handler):
    def emit(self, record):
        seen.append(record.getMessage())


of_transformers.get_logger("transformers").addHandler(Note(logging.WARNING))
of_transformers.disable_progress_bar()
config = PatchTSTConfig(num_input_channels=12, context_length=250, d_model=32, ffn_dim=64, num_hidden_layers=2)


def difference(model, weights):
    return max((model.state_dict()[name] - weight).abs().max().item() for name, weight in weights.items())


results = {}
for first, second in (("in one file", "in shards"), ("in shards", "in one file")):
    place = pathlib.Path(first.replace(" ", "_"))
    model = PatchTSTModel(config)
    model.save_pretrained(place, max_shard_size=SIZES[first])
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad():  # stands for a training
        for weight in model.parameters():
            weight += 1
    model.save_pretrained(place, max_shard_size=SIZES[second])
    after = {name: weight.clone() for name, weight in model.named_parameters()}
    seen.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PatchTSTModel.from_pretrained(place)
    whole = sorted(path.name for path in place.glob("model.safetensors*"))
    shards = len(list(place.glob("model-*-of-*.safetensors")))
    to_last, to_first = difference(loaded, after), difference(loaded, before)
    results[first] = (whole, shards > 0, round(to_last, 3), round(to_first, 3))
    print(f"saved {first}, trained, saved {second}")
    print(f"  the folder has {', '.join(whole)} and {shards} shards")
    print(f"  largest difference of the loaded weights to those saved last {to_last:.1f}", end="")
    print(f", to those saved first {to_first:.1f}")
    print(f"  warnings: {len(seen) + len(caught)}")
files = ["model.safetensors", "model.safetensors.index.json"]
if results == {"in one file": (files, True, 1.0, 0.0), "in shards": (files, False, 0.0, 1.0)}:
    print("the weights of before are loaded: still so")
else:
    sys.exit("the weights of before are loaded: no longer so")
END
