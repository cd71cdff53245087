"""The survival networks: plain `torch.nn`, importing torch and nothing of the toolbox."""
