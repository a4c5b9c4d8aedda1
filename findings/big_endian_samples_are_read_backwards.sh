#!/bin/sh
# onnxruntime, xgboost and soundfile take the bytes of big endian samples backwards.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, xgboost 3.2.0, scikit-learn 1.9.1, soundfile 0.14.0, h5py 3.16.0, numpy
# 2.4.6; Python 3.11.
#
# HDF5 and NetCDF files, MATLAB files and `.npy` files may be big endian, and MFER and the format 61 of WFDB are. Their
# readers give numpy arrays with the type ">f4" or ">i2", which hold and print the right voltages, and with which numpy,
# scipy and scikit-learn compute rightly.
#
# One would guess that other packages do so too, or refuse the type, as torch and pyarrow do.
#
# What happens: three of the most used ones take no notice of the order, without a warning. A network that is run by
# onnxruntime gets 4.6e-41 mV for 1 mV, and gives all records the same answer; xgboost gets numbers from 1e-38 to 1e38,
# so that a classifier of good records is a guess on these, and one that is trained on these a guess on good ones; a
# WAV file of 1,000 uV holds -6,141.
#
# Output seen:
#     share of records that are classified rightly
#       little endian  onnxruntime 1.000   xgboost 1.000
#       big endian     onnxruntime 0.502   xgboost 0.489
#       xgboost, trained on big endian records, on little endian ones 0.503
#     1000 -250 3 uV in little endian, read from a WAV file: 1000 -250 3
#     1000 -250 3 uV in big endian, read from a WAV file: -6141 1791 768
#     big endian samples are read backwards: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 xgboost==3.2.0 \
    scikit-learn==1.9.1 soundfile==0.14.0 h5py==3.16.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import h5py
import numpy as np
import onnxruntime
import soundfile
from onnx import TensorProto, helper
from xgboost import XGBClassifier

# R and S of 2,000 records in mV: the one or the other is high.
generator = np.random.default_rng(0)
axis = generator.random(2000) < 0.5
waves = np.where(axis[:, None], [1.2, -0.3], [0.4, -1.1]) + 0.1 * generator.normal(size=(2000, 2))
with h5py.File("records.h5", "w") as file:
    file["little"], file["big"] = waves.astype("<f4"), waves.astype(">f4")
with h5py.File("records.h5") as file:
    records = {"little endian": file["little"][:], "big endian": file["big"][:]}
assert np.array_equal(*records.values())

weights = helper.make_tensor("weights", TensorProto.FLOAT, [2, 1], [1.0, 1.0])
graph = helper.make_graph(
    [helper.make_node("MatMul", ["waves", "weights"], ["sum"]), helper.make_node("Sigmoid", ["sum"], ["axis"])],
    "axis",
    [helper.make_tensor_value_info("waves", TensorProto.FLOAT, ["records", 2])],
    [helper.make_tensor_value_info("axis", TensorProto.FLOAT, ["records", 1])],
    [weights],
)
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
trees = {name: XGBClassifier(n_estimators=5, n_jobs=1).fit(values, axis) for name, values in records.items()}

print("share of records that are classified rightly")
right = {}
for name, values in records.items():
    output = session.run(None, {"waves": values})[0][:, 0]
    right[name] = (
        np.mean((output > 0.5) == axis),
        np.mean(trees["little endian"].predict(values) == axis),
        np.mean(trees["big endian"].predict(records["little endian"]) == axis) if name == "big endian" else np.nan,
    )
    print(f"  {name:14} onnxruntime {right[name][0]:.3f}   xgboost {right[name][1]:.3f}")
print(f"  xgboost, trained on big endian records, on little endian ones {right['big endian'][2]:.3f}")

samples = {name: np.array([1000, -250, 3], dtype) for name, dtype in {"little": "<i2", "big": ">i2"}.items()}
stored = {}
for name, values in samples.items():
    soundfile.write(f"{name}.wav", values, 500)
    stored[name] = soundfile.read(f"{name}.wav", dtype="int16")[0].tolist()
    print(f"1000 -250 3 uV in {name} endian, read from a WAV file:", *stored[name])

if (
    min(right["little endian"][:2]) > 0.95
    and max(right["big endian"]) < 0.7
    and stored["little"] == [1000, -250, 3]
    and stored["big"] == samples["big"].view("<i2").tolist()
):
    print("big endian samples are read backwards: still so")
else:
    sys.exit("big endian samples are read backwards: no longer so")
END
