"""Evaluate a post-trained checkpoint on a split of PTB-XL: `python training/evaluate_model.py --help`."""

from ecg_hf.cli import evaluate

if __name__ == "__main__":
    evaluate()
