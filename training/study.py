"""Compare ways of training on PTB-XL's validation fold: `python training/study.py --help` lists the flags."""

from ecg_hf.cli import study

if __name__ == "__main__":
    study()
