"""Conversion of public ECG Transformers, from the authors' files to this package's model and feature extractor.

    model, feature_extractor = convert_checkpoint("encoder.pth")
    model.save_pretrained("st_mem"); feature_extractor.save_pretrained("st_mem")

There is one module for each family of checkpoints, listed in `FAMILIES`. A new family is a module that defines a
`Family`: the tensor names that identify its files, the rules that rename its tensors, the tensors to drop, and the
fields of the configuration and the feature extractor.
"""

from .convert import FAMILIES, convert_checkpoint

__all__ = ["FAMILIES", "convert_checkpoint"]
