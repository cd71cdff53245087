"""How pixels are read: by TIAToolbox's reader, or TIFF tiles decoded directly."""
