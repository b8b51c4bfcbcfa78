"""mmcv's operators of multi-scale deformable attention, which DINO and Mask2Former use, in plain PyTorch.

On a CPU mmcv takes its own PyTorch form; on a GPU it calls the compiled operators. Here both are the same few lines,
with the signatures of mmcv 2.1's C++.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of values at sampled places.

    Args:
        value: Of all levels in a row, (B, keys, heads, d).
        spatial_shapes: Height and width of each level, (levels, 2).
        level_start_index: Where each level begins among the keys, (levels,); not needed.
        sampling_locations: Relative places (x, y) in [0, 1], (B, queries, heads, levels, points, 2).
        attention_weights: Of the same places, (B, queries, heads, levels, points).
        im2col_step: Images at a time in the compiled form; not needed.

    Returns:
        Tensor of shape (B, queries, heads·d).
    """
    batch, _, heads, width = value.shape
    queries, levels, points = attention_weights.shape[1], *attention_weights.shape[3:]
    sizes = [(height, width) for height, width in spatial_shapes.tolist()]
    maps = value.split([height * width for height, width in sizes], dim=1)
    grids = 2 * sampling_locations - 1
    sampled = []
    for level, (height_of_map, width_of_map) in enumerate(sizes):
        # B, keys, heads, d -> B·heads, d, H, W
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, width, height_of_map, width_of_map)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # B·heads, queries, points, 2
        sampled.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    # B, queries, heads, levels, points -> B·heads, 1, queries, levels·points
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    mixed = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # B·heads, d, queries
    return mixed.view(batch, heads * width, queries).transpose(1, 2).contiguous()


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
    """Fills the three gradients; arguments as of :func:`ms_deform_attn_forward`."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
        output = ms_deform_attn_forward(inputs[0], spatial_shapes, level_start_index, *inputs[1:], im2col_step)
        grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
