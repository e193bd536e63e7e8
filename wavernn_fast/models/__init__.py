"""PyTorch twins of the engine cores."""
