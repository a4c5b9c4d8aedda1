#!/bin/sh
# In a model quantised by onnxruntime an ECG's outputs depend on the other ECGs of its batch.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; Python 3.11.
#
# `onnxruntime.quantization.quantize_dynamic` stores the weights of linear layers in 8 bits and rounds their inputs
# when they come: "dynamic". No layer of the network mixes records.
#
# One would guess that a record's outputs are those that it has alone, as in the float32 file.
#
# What happens: one step of rounding is chosen for the whole batch, by its largest value. One record with an artefact,
# of an electrode that moved, makes the step coarse for all: here their error grows sixfold, to a third of the spread
# of the outputs over records. Alone, each record is as near to float32 as one expects of 8 bits.
#
# Output seen:
#     largest difference to a record alone in float32, in SD of the records' outputs
#       float32, beside an artefact           0.00
#       int8, each alone                      0.05
#       int8, in one batch                    0.05
#       int8, in one batch with an artefact   0.31
#     int8 outputs depend on the batch: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import logging
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

LEADS, SAMPLES, WIDTH, OUTPUTS, RECORDS = 12, 25, 64, 5, 32
logging.disable(logging.WARNING)  # advice to optimise the file before
generator = np.random.default_rng(0)


def weights(rows, columns):
    return generator.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)


# Tokens of a quarter of a second, two linear layers, the mean over the tokens.
arrays = {"first": weights(LEADS * SAMPLES, WIDTH), "second": weights(WIDTH, OUTPUTS), "axis": np.array([1])}
nodes = [
    helper.make_node("MatMul", ["tokens", "first"], ["hidden"]),
    helper.make_node("Tanh", ["hidden"], ["limited"]),
    helper.make_node("MatMul", ["limited", "second"], ["scores"]),
    helper.make_node("ReduceMean", ["scores", "axis"], ["outputs"], keepdims=0),
]
graph = helper.make_graph(
    nodes,
    "network",
    [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", 10, LEADS * SAMPLES])],
    [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", OUTPUTS])],
    [numpy_helper.from_array(array, name) for name, array in arrays.items()],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "float32.onnx")
quantize_dynamic("float32.onnx", "int8.onnx", weight_type=QuantType.QInt8)
sessions = {name: onnxruntime.InferenceSession(f"{name}.onnx") for name in ("float32", "int8")}


def run(name, records):
    return sessions[name].run(None, {"tokens": records})[0]


def alone(name, records):
    return np.concatenate([run(name, record[None]) for record in records])


records = generator.normal(size=(RECORDS, 10, LEADS * SAMPLES)).astype(np.float32)
# A second of 20 mV in one lead, where signals of .2 mV have been scaled to a standard deviation of 1.
artefact = records[:1].copy()
artefact[:, :4, :SAMPLES] = 100
truth = alone("float32", records)
spread = truth.std(axis=0).mean()


def error(name, outputs):
    """Prints -> the largest difference to float32, in standard deviations of the outputs over records."""
    value = float(np.abs(outputs - truth).max() / spread)
    print(f"  {name:38}{value:.2f}")
    return value


print("largest difference to a record alone in float32, in SD of the records' outputs")
float32 = error("float32, beside an artefact", run("float32", np.concatenate([artefact, records]))[1:])
each = error("int8, each alone", alone("int8", records))
error("int8, in one batch", run("int8", records))
beside = error("int8, in one batch with an artefact", run("int8", np.concatenate([artefact, records]))[1:])
if float32 < 0.001 and each < 0.1 and beside > 0.2:
    print("int8 outputs depend on the batch: still so")
else:
    sys.exit("int8 outputs depend on the batch: no longer so")
END
