"""Pre-train an ECG Transformer without labels: `accelerate launch training/pretrain.py --help` lists the flags."""

from ecg_hf.cli import pretrain

if __name__ == "__main__":
    pretrain()
