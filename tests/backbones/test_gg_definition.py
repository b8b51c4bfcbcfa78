"""GG-Transformer, of which no official code exists, against a definition by loops written from the paper."""

import pytest
import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

HEADS, WINDOW, KERNELS = (1, 2), 3, (5, 3)


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    """LayerNorm over the channels of (B, H, W, C)."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * layer.weight + layer.bias


def dense(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A linear layer over the channels of (B, H, W, C)."""
    y = x @ layer.weight.flatten(1).T
    return y if layer.bias is None else y + layer.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def patches(x: Tensor, side: int, columns_last: bool) -> Tensor:
    """Put the ``side``² neighbours of (B, H, W, C) into the channels, zeros beyond the border."""
    batch, height, width, channels = x.shape
    whole = x.new_zeros(batch, -(-height // side) * side, -(-width // side) * side, channels)
    whole[:, :height, :width] = x
    places = [(dy, dx) for dx in range(side) for dy in range(side)]  # Swin's order
    if not columns_last:
        places = [(dy, dx) for dy in range(side) for dx in range(side)]
    return torch.cat([whole[:, dy::side, dx::side] for dy, dx in places], dim=-1)


def glance(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend, from each token, to the real tokens at distances of whole dilations (section 3.2), by loops."""
    batch, height, width, channels = query.shape
    dilation = -(-height // WINDOW), -(-width // WINDOW)
    size = channels // heads
    out = torch.zeros_like(value)
    for top in range(dilation[0]):
        for left in range(dilation[1]):
            rows, columns = range(top, height, dilation[0]), range(left, width, dilation[1])
            tokens = [(y, x) for y in rows for x in columns]
            for image in range(batch):
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    k = torch.stack([key[image, y, x, part] for y, x in tokens])
                    v = torch.stack([value[image, y, x, part] for y, x in tokens])
                    for y, x in tokens:
                        weights = (k @ query[image, y, x, part] / size**0.5).softmax(0)
                        out[image, y, x, part] = weights @ v
    return out


def gaze(value: Tensor, layer: nn.Conv2d) -> Tensor:
    """Convolve each channel of the values by itself (section 3.3), by loops over the kernel."""
    height, width = value.shape[1:3]
    kernel = layer.weight.shape[-1]
    around = nn.functional.pad(value, (0, 0, kernel // 2, kernel // 2, kernel // 2, kernel // 2))
    taps = [
        around[:, dy : dy + height, dx : dx + width] * layer.weight[:, 0, dy, dx]
        for dy in range(kernel)
        for dx in range(kernel)
    ]
    return sum(taps) + layer.bias


def network(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the normed feature maps of all stages, (B, H, W, C)."""
    kernel = net.stem.proj.weight.permute(0, 2, 3, 1).flatten(1)  # C', 4·4·3
    x = norm(patches(x.permute(0, 2, 3, 1), 4, columns_last=False) @ kernel.T + net.stem.proj.bias, net.stem.norm)
    maps = []
    for index, stage in enumerate(net.stages):
        if index:
            x = dense(norm(patches(x, 2, columns_last=True), stage.downsample.norm), stage.downsample.reduction)
        for block in stage.blocks:
            query, key, value = dense(norm(x, block.norm1), block.mixer.qkv).chunk(3, dim=-1)
            x = x + dense(glance(query, key, value, HEADS[index]) + gaze(value, block.mixer.gaze), block.mixer.proj)
            x = x + dense(gelu(dense(norm(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
        maps.append(norm(x, net.out_norms[str(index)]))
    return maps


# Sides that windows divide, and sides that they do not: no token looks at padding.
@pytest.mark.parametrize("size", [(24, 48), (29, 46)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_equals_definition_by_loops(size, mode):
    arch = {"embed_dims": 32, "depths": (2, 1), "num_heads": HEADS, "drop_path_rate": 0.0}
    options = {"window_size": WINDOW, "mlp_ratio": 2, "gaze_kernels": KERNELS, "out_indices": (0, 1)}
    net = MODELS.build({"type": "GGTransformer", "arch": arch, **options}).double().train(mode == "train")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    results = []
    for maps_of in (lambda: [m.permute(0, 2, 3, 1) for m in net(x)], lambda: network(net, x)):
        maps = maps_of()
        torch.manual_seed(1)
        loss = sum((m * torch.randn(m.shape, dtype=m.dtype)).sum() for m in maps)
        results.append((maps, torch.autograd.grad(loss, list(net.parameters()))))
    for found, defined in zip(*results, strict=True):
        torch.testing.assert_close(list(found), list(defined), rtol=1e-10, atol=1e-10)
