"""The arguments of each command: a module with `read(argv)`, which imports neither PyTorch nor MMDetection."""
