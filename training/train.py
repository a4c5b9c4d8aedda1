"""Post-train an ECG Transformer: `accelerate launch training/train.py --help` lists the flags."""

from ecg_hf.cli import train

if __name__ == "__main__":
    train()
