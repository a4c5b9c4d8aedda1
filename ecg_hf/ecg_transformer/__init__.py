"""The ECG Transformer as a Hugging Face model: configuration, model, feature extractor and pipeline.

A saved checkpoint carries the files of this folder, so that it loads without the package; they import nothing but
torch, NumPy, SciPy and transformers (and wfdb where it is there).
"""
