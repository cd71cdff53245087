"""CrossFusion survival prediction from whole-slide images, for TIAToolbox."""

__version__ = "0.1.0"
