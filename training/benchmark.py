"""Compare a trainer's speed with a bare loop: `python training/benchmark.py train --help` lists the flags."""

from ecg_hf.cli import benchmark

if __name__ == "__main__":
    benchmark()
