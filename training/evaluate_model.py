"""Evaluate a post-trained checkpoint on a split of PTB-XL: `python training/evaluate_model.py --help`."""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
