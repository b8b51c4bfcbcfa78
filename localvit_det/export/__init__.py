"""Detectors and backbones as files for other runtimes."""
