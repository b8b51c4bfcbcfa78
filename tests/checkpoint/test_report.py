"""The table of what a load found, and the phrases for what did not fit."""

import torch

from localvit_det.checkpoint.matching import LoadReport


def test_size_counts_every_tensor_of_the_model_once():
    shapes = {"g": (torch.Size([3]), torch.Size([4])), "h": (torch.Size([3]), torch.Size([5]))}
    report = LoadReport("file", "net", (), found={"a", "b", "c", "d", "e"}, new={"f"}, zeroed={"i", "j"}, missing={"k"})
    report.mismatched, report.encoded, report.unexpected = shapes, {"l": torch.int8}, {"z"}
    assert report.size == 5 + 1 + 2 + 1 + 2 + 1
    report.allowed = {"k"}
    assert report.problems == [
        "l is int8",
        "g is (3,) instead of (4,)",
        "h is (3,) instead of (5,)",
        "z is unexpected",
    ]
