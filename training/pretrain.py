"""Pre-train an ECG Transformer without labels: `accelerate launch training/pretrain.py --help` lists the flags."""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
