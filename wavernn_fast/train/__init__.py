"""Training, in plain PyTorch; never imports the engine. Imported by the commands that train."""
