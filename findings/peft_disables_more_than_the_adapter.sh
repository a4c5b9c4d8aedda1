#!/bin/sh
# What is left when peft disables an adapter of PiSSA or OLoRA is not the network before the adapter.
#
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0, numpy 2.4.6; Python 3.11.
#
# Adapters that begin with the largest directions of the weights (`init_lora_weights="pissa"`, `"olora"`) are advised
# as faster than plain ones. One network holds an adapter for each hospital; `disable_adapter()` gives the network as
# it was published, for comparison, and `unload()` gives it back.
#
# One would guess that this holds for each way to begin, as it does for plain adapters; and that a second adapter
# changes nothing of the first.
#
# What happens: those directions are taken out of the weights of the network when the adapter is made. Disabled or
# unloaded, the network guesses: .504 of the findings are right instead of .981. A second adapter takes them out once
# more: the first loses from .978 to .952 when the second is made, though nothing is trained; and the second, loaded by
# itself, has .921 where it had .987. `pissa_niter_4`, the fast form, takes out others each time it is loaded. All
# without a warning.
#
# Output seen:
#     the network itself, before any adapter   0.981
#                    adapter A   disabled   unloaded   A, loaded   A, after B is made   adapter B   B, loaded
#     plain          0.979       0.981      0.981      0.979       0.979                0.976       0.976
#     pissa          0.978       0.504      0.504      0.978       0.952                0.987       0.921
#     pissa_niter_4  0.979       0.504      0.504      0.966       0.948                0.984       0.941
#     olora          0.976       0.504      0.504      0.976       0.967                0.986       0.978
#     peft disables more than the adapter: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 \
    accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import copy
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

LEADS, LABELS = 12, 5
draw = torch.Generator().manual_seed(0)
truth = torch.randn(LABELS, LEADS, generator=draw)


def records(number, gains):
    """Heights of the leads, by the gains of a device, and findings."""
    waves = torch.randn(number, LEADS, generator=draw)
    return waves * gains, (waves @ truth.T > 0).float()


def train(network, data):
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(data[0]), data[1]).backward()
        optimizer.step()


def right(network, test):
    """The share of findings that are called rightly."""
    with torch.no_grad():
        return float(((network(test[0]) > 0) == test[1].bool()).float().mean())


torch.manual_seed(0)
base = nn.Sequential(nn.Linear(LEADS, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, LABELS))
train(base, records(2000, 1.0))
gains_a, gains_b = (1 + 0.6 * torch.randn(LEADS, generator=draw).sign() for _ in range(2))
test, test_a, test_b = (records(4000, gains) for gains in (1.0, gains_a, gains_b))
before = right(base, test)
print(f"the network itself, before any adapter   {before:.3f}")
print("               adapter A   disabled   unloaded   A, loaded   A, after B is made   adapter B   B, loaded")
results = {}
for way in ("plain", "pissa", "pissa_niter_4", "olora"):
    torch.manual_seed(1)
    settings = {
        "r": 8,
        "lora_alpha": 8,
        "target_modules": ["0", "2", "4"],
        "init_lora_weights": True if way == "plain" else way,
    }
    network = get_peft_model(copy.deepcopy(base), LoraConfig(**settings), adapter_name="A")
    train(network, records(2000, gains_a))
    trained = right(network, test_a)
    with network.disable_adapter():
        disabled = right(network, test)
    unloaded = right(copy.deepcopy(network).unload(), test)
    network.save_pretrained("adapters")
    loaded = right(PeftModel.from_pretrained(copy.deepcopy(base), "adapters/A"), test_a)
    network.add_adapter("B", LoraConfig(**settings))
    beside = right(network, test_a)
    network.set_adapter("B")
    train(network, records(2000, gains_b))
    trained_b = right(network, test_b)
    network.save_pretrained("adapters")
    loaded_b = right(PeftModel.from_pretrained(copy.deepcopy(base), "adapters/B"), test_b)
    results[way] = trained, disabled, unloaded, loaded, beside, trained_b, loaded_b
    texts = [f"{value:.3f}".ljust(width) for value, width in zip(results[way], (12, 11, 11, 12, 21, 12, 0))]
    print(f"{way:15}{''.join(texts)}")

plain = results.pop("plain")
if (
    plain[0] == plain[3] == plain[4]
    and plain[1] == plain[2] == before
    and plain[5] == plain[6]
    and all(way[1] == way[2] < 0.6 for way in results.values())
    and all(way[4] < way[0] - 0.003 and way[6] < way[5] - 0.003 for way in results.values())
    and results["pissa"][3] > results["pissa"][0] - 0.001
    and results["pissa_niter_4"][3] < results["pissa_niter_4"][0] - 0.003
):
    print("peft disables more than the adapter: still so")
else:
    sys.exit("peft disables more than the adapter: no longer so")
END
