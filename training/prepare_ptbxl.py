"""Build PTB-XL as Parquet, with a card, and push it: `python training/prepare_ptbxl.py --help` lists the flags."""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["prepare-ptbxl", *sys.argv[1:]])
