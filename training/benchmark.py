"""How fast the package is, each figure a ratio that is measured in turn in one run.

`benchmark.py` alone measures all rows of `benchmark_rows/table.py` and prints them as a table. One measurement with
flags of its own is `benchmark.py NAME ...`, where NAME is

  pretrain, train   a trainer beside a bare loop over its model; the flags are those of `ecg-hf NAME`
  reading           file formats beside their libraries, and how reading grows
  steps             prepared records, ways of attention, evaluation between epochs
  cold              cold processes, also beside another checkout
  growth            how cost grows with the number of records
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version

from benchmark_rows.table import ROWS, Row, Setting, measure_rows

from ecg_hf.files import write_atomic

OWN_FLAGS = ("reading", "steps", "cold", "growth")
PACKAGES = ("torch", "transformers", "datasets", "numpy", "scipy", "wfdb")


def main(argv: Sequence[str] | None = None) -> list[dict] | None:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in ("pretrain", "train"):
        return importlib.import_module("benchmark_rows.trainer").main(argv)
    if argv and argv[0] in OWN_FLAGS:
        return importlib.import_module(f"benchmark_rows.{argv[0]}").main(argv[1:])
    return _table(argv)


def _table(argv: Sequence[str]) -> list[dict]:
    """Measure rows, print the table, and write the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--output", type=pathlib.Path, help="JSON with machine, versions and rows")
    parser.add_argument("--data_dir", help="PTB-XL with files of 100 Hz; simulated by default")
    parser.add_argument("--data_dir_500hz", help="PTB-XL with files of 500 Hz; simulated by default")
    parser.add_argument("--num_records", type=int, default=256)
    parser.add_argument("--num_rounds", type=int, default=3, help="repetitions in turn, of which the median counts")
    options = vars(parser.parse_args(argv))
    if options["num_rounds"] < 1 or options["num_records"] < 32:
        parser.error("`num_rounds` must be at least 1 and `num_records` at least 32.")
    only, output = options.pop("only"), options.pop("output")
    if output is not None and not output.parent.is_dir():
        parser.error(f"`output`: the folder {output.parent} does not exist.")
    for name, records in (("data_dir", "records100"), ("data_dir_500hz", "records500")):
        if options[name] is not None and not pathlib.Path(options[name], records).is_dir():
            parser.error(f"`{name}`: there is no folder `{records}` in {options[name]}, as PTB-XL has it.")
    rows = []
    print("| row | what | before | aim | measured |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row, measured in measure_rows(only, Setting(pathlib.Path(folder), **options)):
            measured = round(measured, 4)  # the same number in the table and in the file
            print(f"| {row.name} | {row.what} | {row.before:g} | {row.aim:g} | {measured:.2f} |", flush=True)
            rows.append(_as_dict(row, measured))
    if output is not None:
        write_atomic(output, json.dumps({**_machine(), **options, "rows": rows}, indent=1) + "\n")
    return rows


def _as_dict(row: Row, measured: float) -> dict:
    reached = measured >= row.aim if row.more else measured <= row.aim
    names = {name: getattr(row, name) for name in ("name", "what", "before", "aim")}
    return {**names, "measured": measured, "reached": reached}


def _machine() -> dict:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(), "load": load}
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"machine": machine, "versions": versions}


if __name__ == "__main__":
    main()
