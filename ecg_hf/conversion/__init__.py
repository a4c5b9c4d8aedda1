"""Public ECG Transformers, from their authors' files to this package's model and feature extractor.

    model, feature_extractor = convert_checkpoint("encoder.pth")
    model.save_pretrained("st_mem"); feature_extractor.save_pretrained("st_mem")

One module for each family of checkpoints; `FAMILIES` lists them. A new family is a module with a `Family`: the names
by which its files are known, the rules that rename its tensors, what it drops, and what of its files becomes fields of
the configuration and the extractor.
"""

from .convert import FAMILIES, convert_checkpoint

__all__ = ["FAMILIES", "convert_checkpoint"]
