"""Convert the checkpoint of a public ECG Transformer: `python training/convert.py --help`."""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
