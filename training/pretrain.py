"""Pre-train an ECG Transformer without labels: `python training/pretrain.py --help` lists the flags.

`accelerate launch --quiet --config_file training/launch/single.yaml training/pretrain.py` adds no notices of its own.
"""

import sys

from ecg_hf.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
