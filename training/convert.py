"""Convert the checkpoint of a public ECG Transformer: `python training/convert.py --help`."""

from ecg_hf.cli import convert

if __name__ == "__main__":
    convert()
