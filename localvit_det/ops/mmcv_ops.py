"""Operators in the place of `mmcv._ext`, the compiled ones that `mmcv-lite` does not have.

Those that the detectors here need come from torchvision or plain PyTorch, with the signatures of mmcv 2.1's C++
(`mmcv/ops/csrc/pytorch/pybind.cpp`); any other one raises when it is called. `patches` puts the module in place.
"""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..errors import RequirementError
from ..requirements import is_onedl
from . import roi_align as on_cpu

NAME = "mmcv._ext"
# NMS takes boxes that lie apart in groups of at least about so many.
_NMS_GROUP = 256


def make_module() -> ModuleType:
    """Return a module with all operators."""
    import torchvision  # noqa: F401 - registers torch.ops.torchvision

    module = ModuleType(NAME, __doc__)
    # A spec without a loader tells `mmcv.utils` and `has_compiled_operators` that nothing is compiled.
    module.__spec__ = ModuleSpec(NAME, loader=None)
    vars(module)["__getattr__"] = _missing
    operators = {operator.__name__: operator for operator in OPERATORS}
    vars(module).update(operators, get_compiling_cuda_version=get_compiler_version)
    return module


def _missing(name: str) -> Callable[..., None]:
    """Return an operator that raises, for every other name: mmcv asks at import whether the names exist."""
    if name.startswith("_"):
        raise AttributeError(f"module {NAME!r} has no attribute {name!r}")

    def operator(*args: object, **settings: object) -> None:
        build = (
            "pip uninstall -y mmcv-lite && pip install 'setuptools<81' && pip install --no-build-isolation mmcv==2.1.0"
        )
        if is_onedl():  # the same package, compiled where it finds PyTorch
            build = "pip install --force-reinstall --no-deps --no-build-isolation onedl-mmcv==2.3.6"
        raise RequirementError(
            f"The operator {name!r} exists only in a compiled mmcv, and this one is not: with a compiler at hand run "
            f"`{build}` (from torch 2.14 on, build a source archive in whose setup.py -std=c++17 is raised to c++20)."
        )

    operator.__name__ = name
    return operator


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return indices (K,) of the kept boxes, best first, of `boxes` (N, 4) with `scores` (N,).

    A width is x2 - x1 + `offset`. Equal scores keep their order, which mmcv leaves to chance.
    """
    boxes, scores = boxes.float(), scores.float()
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # mmcv compares in float32, torchvision in float64: 0.3 is a little more in the first.
    threshold = float(np.float32(iou_threshold))
    groups = _apart(boxes) if boxes.is_cpu and threshold >= 0 and len(boxes) > 2 * _NMS_GROUP else []
    if len(groups) < 2:
        return torch.ops.torchvision.nms(boxes, scores, threshold)
    kept = torch.cat([group[torch.ops.torchvision.nms(boxes[group], scores[group], threshold)] for group in groups])
    kept = kept.sort().values
    return kept[scores[kept].sort(descending=True, stable=True).indices]


def _apart(boxes: Tensor) -> list[Tensor]:
    """Return indices of groups of boxes that lie apart in x, each in the order given; none where there is one.

    `batched_nms` moves classes or levels apart, so that they do not meet. All pairs inside groups are many fewer.
    """
    order = boxes[:, 0].argsort()
    left, right = boxes[order, 0], boxes[order, 2].cummax(0).values
    gaps = (left[1:] > right[:-1]).nonzero()[:, 0] + 1  # never true for NaN
    if not len(gaps):
        return []
    wanted = torch.searchsorted(gaps, torch.arange(_NMS_GROUP, len(boxes), _NMS_GROUP)).clamp(max=len(gaps) - 1)
    return [group.sort().values for group in order.tensor_split(gaps[wanted.unique()])]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS on the CPU; methods 0 (naive), 1 (linear), 2 (gaussian).

    Write boxes and lowered scores to the first K rows of `dets` (N, 5) and returns their indices (K,).
    Of equal scores the order is mmcv's, which fills the place of a dropped box with the last one.
    """
    x1, y1, x2, y2 = boxes.detach().float().numpy().T.copy()
    score = scores.detach().float().numpy().copy()
    threshold, sigma, min_score = np.float32(iou_threshold), np.float32(sigma), np.float32(min_score)
    extra = np.float32(offset)
    areas = (x2 - x1 + extra) * (y2 - y1 + extra)
    order = np.arange(len(score))  # the box at each place; the arrays above stay in place

    def overlaps(best: int, rest: np.ndarray) -> np.ndarray:
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + extra
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + extra
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        return intersection / (areas[best] + areas[rest] - intersection)

    place = 0
    with np.errstate(invalid="ignore", divide="ignore"):  # boxes without area give NaN, as in mmcv
        while place < len(order):
            # `<` never holds for NaN, so mmcv leaves a NaN where it is and never moves one forward.
            candidates = score[order[place:]]
            best = place
            if not np.isnan(candidates[0]):
                best += int(np.nanargmax(candidates))
            order[[place, best]] = order[[best, place]]
            rest = order[place + 1 :]
            overlap = overlaps(order[place], rest)
            if method == 2:
                weight = np.exp(-(overlap * overlap) / sigma)
            else:
                weight = np.where(overlap >= threshold, 1 - overlap if method == 1 else np.float32(0), 1)
            score[rest] *= weight.astype(np.float32)
            order = np.concatenate((order[: place + 1], _drop(rest, score[rest] < min_score)))
            place += 1

    kept = torch.from_numpy(order)
    dets[: len(kept), :4] = boxes[kept].to(dets.dtype)
    dets[: len(kept), 4] = torch.from_numpy(score)[kept].to(dets.dtype)
    return kept


def _drop(items: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Remove items by moving the last remaining one into each gap."""
    count = int((~dropped).sum())
    remaining = items[:count].copy()
    remaining[dropped[:count]] = items[count:][~dropped[count:]][::-1]
    return remaining


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (R, C, height, width) from `input` (N, C, H, W) and `rois` (R, 5)."""
    _need_average(pool_mode)
    values, size = _at_least_float32(input), (aligned_height, aligned_width)
    if input.is_cpu:
        _give(output, on_cpu.roi_align(values, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    rois = rois.to(values.dtype)
    output.copy_(torch.ops.torchvision.roi_align(values, rois, spatial_scale, *size, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` (N, C, H, W) from `grad_output` (R, C, height, width)."""
    _need_average(pool_mode)
    grads, size, shape = _at_least_float32(grad_output), (aligned_height, aligned_width), grad_input.shape
    if grads.is_cpu:
        _give(grad_input, on_cpu.roi_align_backward(grads, rois, shape, spatial_scale, sampling_ratio, aligned))
        return
    backward = torch.ops.torchvision._roi_align_backward
    grad_input.copy_(backward(grads, rois.to(grads.dtype), spatial_scale, *size, *shape, sampling_ratio, aligned))


@torch.no_grad()
def _give(target: Tensor, result: Tensor) -> None:
    """Put a result into the tensor that mmcv made for it: without a copy, and channels-last."""
    target.set_(result.to(target.dtype))  # type: ignore[call-overload] # PyTorch's stubs lack this form


def _need_average(pool_mode: int) -> None:
    if pool_mode != 1:
        _missing("roi_align with pool_mode='max'")()


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision counts pixels too coarsely, and torchvision has no bfloat16 RoIAlign."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with the loss of logits `input` (N, C) and classes `target` (N,).

    A target outside 0 … C-1 is background; `weight` is empty or has one factor for each class.
    """
    positive, p, q, log_p, log_q = _focal_terms(input, target)
    loss = torch.where(positive, -alpha * q**gamma * log_p, -(1 - alpha) * p**gamma * log_q)
    output.copy_(_class_weighted(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of the loss by the logits."""
    positive, p, q, log_p, log_q = _focal_terms(input, target)
    of_positive = -alpha * q**gamma * (q - gamma * p * log_p)
    grad = torch.where(positive, of_positive, -(1 - alpha) * p**gamma * (gamma * q * log_q - p))
    grad_input.copy_(_class_weighted(grad, target, weight))


def _focal_terms(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return which logits are positives, then p, 1 - p and their logarithms, with mmcv's floor inside the latter."""
    logits = _at_least_float32(input)
    positive = target[:, None] == torch.arange(logits.shape[1], device=target.device)
    p = logits.sigmoid()
    q = 1 - p
    floor = torch.finfo(torch.float32).tiny
    return positive, p, q, p.clamp(min=floor).log(), q.clamp(min=floor).log()


def _class_weighted(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return values * weight[target, None] if weight.numel() else values


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return weighted sums of values at sampled places: multi-scale deformable attention, of DINO and Mask2Former.

    Args:
        value: Of all levels in a row, (B, keys, heads, d).
        spatial_shapes: Height and width of each level, (levels, 2).
        level_start_index: Where each level begins among the keys, (levels,); not needed.
        sampling_locations: Relative places (x, y) in [0, 1], (B, queries, heads, levels, points, 2).
        attention_weights: Of the same places, (B, queries, heads, levels, points).
        im2col_step: Images at a time in the compiled form; not needed.

    Returns:
        (B, queries, heads·d).
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch as attend

    return attend(value, spatial_shapes.tolist(), sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients; arguments as of :func:`ms_deform_attn_forward`."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
        values, places, weights = inputs
        output = ms_deform_attn_forward(values, spatial_shapes, level_start_index, places, weights, im2col_step)
        grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def get_compiler_version() -> str:
    """Return what environment reports print for mmcv's compiler, and for its CUDA."""
    return "none (operators of torchvision)"


OPERATORS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
    get_compiler_version,
)
