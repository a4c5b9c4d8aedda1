"""Build PTB-XL as Parquet, with a card, and push it: `python training/prepare_ptbxl.py --help` lists the flags."""

from ecg_hf.cli import prepare_ptbxl

if __name__ == "__main__":
    prepare_ptbxl()
