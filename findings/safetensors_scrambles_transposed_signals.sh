#!/bin/sh
# A transposed ECG that is saved by safetensors.numpy comes back with its samples spread over all leads.
#
# Versions: safetensors 0.8.0 (and 0.7.0, which is right), numpy 2.4.6; Python 3.11.
#
# Readers give an ECG as (samples, leads), networks want (leads, samples): `signal.T` in NumPy is a view on the same
# memory. So are some of the leads, and a crop.
#
# One would guess that `safetensors.numpy.save_file` stores the values of the array that it is given, as `numpy.save`
# does and as it did until 0.7.0, or that it refuses a view, as `safetensors.torch.save_file` does.
#
# What happens in 0.8.0: the memory is written as it lies, under the shape of the view. The file is valid and loads
# without a complaint; lead I then holds the first samples of all leads in turn, and a crop what lies beside it. The
# docstring asks for "contiguous and dense" tensors, and nothing checks. Weights that were transposed for another
# layout are scrambled alike.
#
# Output seen:
#     12 leads x 5,000 samples; sample s of lead l is 10,000 l + s
#     0.7.0  values that differ
#       transposed             0 of 60,000
#       every second lead      0 of 30,000
#       crop                   0 of 15,000
#       a copy                 0 of 60,000
#       lead II of the transposed: given [10000 10001 10002 10003], read [10000 10001 10002 10003]
#     0.8.0  values that differ
#       transposed             59,998 of 60,000
#       every second lead      29,999 of 30,000
#       crop                   13,750 of 15,000
#       a copy                 0 of 60,000
#       lead II of the transposed: given [10000 10001 10002 10003], read [ 80416  90416 100416 110416]
#     views are stored as other values: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.7.0 0.8.0; do
    "${PYTHON:-python3}" -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check safetensors==$version numpy==2.4.6
done
cd "$folder"
cat > round_trip.py <<'END'
import json
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

LEADS, SAMPLES = 12, 5000

# As a reader gives it.
signal = (10_000 * np.arange(LEADS) + np.arange(SAMPLES)[:, None]).astype(np.float32)
views = {
    "transposed": signal.T,
    "every second lead": signal[:, ::2],
    "crop": np.ascontiguousarray(signal.T)[:, 1000:2250],
    "a copy": signal.T.copy(),
}
wrong = {}
print(f"{version('safetensors')}  values that differ")
for name, view in views.items():
    save_file({"signal": view}, "signal.safetensors")
    read = load_file("signal.safetensors")["signal"]
    assert read.shape == view.shape and read.dtype == view.dtype
    wrong[name] = int((read != view).sum())
    print(f"  {name:23}{wrong[name]:,} of {view.size:,}")
    if name == "transposed":
        second = view[1, :4].astype(int), read[1, :4].astype(int)
print(f"  lead II of the transposed: given {second[0]}, read {second[1]}")
json.dump(wrong, open(sys.argv[1], "w"))
END
echo "12 leads x 5,000 samples; sample s of lead l is 10,000 l + s"
for version in 0.7.0 0.8.0; do
    "$version/bin/python" -W error::UserWarning round_trip.py $version.json
done
0.8.0/bin/python - <<'END'
import json
import sys

old, new = (json.load(open(f"{version}.json")) for version in ("0.7.0", "0.8.0"))
if not any(old.values()) and all(new[name] > 1000 for name in new if name != "a copy") and new["a copy"] == 0:
    print("views are stored as other values: still so")
else:
    sys.exit("views are stored as other values: no longer so")
END
