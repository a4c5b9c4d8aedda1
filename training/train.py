"""Post-train an ECG Transformer: `accelerate launch training/train.py --help` lists the flags."""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
