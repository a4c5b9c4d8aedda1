"""Check what `ecg-hf explain` shows of a model, on validation records of PTB-XL: other maps with random weights, and a
loss where the marked tenth is hidden.

    python training/check_attribution.py --model runs/mine --data_dir PTBXL --task superdiagnostic --output check.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from ecg_hf import ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel, check_attribution, load_ptbxl
from ecg_hf.files import write_atomic
from ecg_hf.inference.attribution import METHODS, STEPS


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a post-trained checkpoint")
    parser.add_argument("--data_dir", required=True, help="PTB-XL in PhysioNet's layout")
    parser.add_argument("--task", default="superdiagnostic", help="whose validation records are taken")
    parser.add_argument("--sampling_rate", type=int, default=100, help="of the files that are read, 100 or 500 Hz")
    parser.add_argument("--cache_dir", help="of the data set")
    parser.add_argument("--max_records", type=int, default=100, help="drawn at random, one of each patient")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON to write; by default it is printed alone")
    arguments = parser.parse_args(argv)

    model = ECGTransformerForMultiLabel.from_pretrained(arguments.model)
    extractor = ECGTransformerFeatureExtractor.from_pretrained(arguments.model)
    splits = load_ptbxl(arguments.data_dir, arguments.task, arguments.sampling_rate, cache_dir=arguments.cache_dir)
    records = _one_of_each_patient(splits["validation"], arguments.max_records, arguments.seed)
    found = check_attribution(model, extractor, records, arguments.method, arguments.steps, arguments.seed)
    found = {"model": arguments.model, "task": arguments.task, "split": "validation", **found}
    text = json.dumps(found, indent=2, allow_nan=False)
    print(text)
    if arguments.output:
        write_atomic(arguments.output, text + "\n")
    return found


def _one_of_each_patient(rows, count: int, seed: int) -> list[dict]:
    order = np.random.default_rng(seed).permutation(len(rows))
    patients = np.asarray(rows["patient_id"])[order]
    first = np.sort(np.unique(patients, return_index=True)[1])
    return [rows[int(place)] for place in order[first[:count]]]


if __name__ == "__main__":
    sys.exit(0 if main()["passed"] else 1)
