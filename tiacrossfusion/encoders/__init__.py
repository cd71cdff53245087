"""Patch encoders: an image batch in, a feature matrix out.

The room knows nothing of slides, bags or survival. Importing it loads neither torch nor timm nor
TIAToolbox; `load_encoder` and `available_encoders` load what the named encoder needs.
"""
