"""Post-train an ECG Transformer: `python training/train.py --help` lists the flags.

`accelerate launch --quiet --config_file training/launch/single.yaml training/train.py` adds no notices of its own.
"""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
