"""Backbones on a GPU without one: devices, waiting for numbers, memory layouts, and the mask of attention."""

import pytest
import torch
from fake_gpu import BATCH, backward, fake_gpu
from families import FEW, build, build_short

from localvit_det.ops import cpu_kernels

SLOW = pytest.mark.slow

# A convolution that does not find its input in channels-last memory copies it first, forward and backward. cuDNN takes
# everything else: PyTorch gives it depth-wise convolutions, too, if and only if they are channels-last
# (`use_cudnn_depthwise` in ATen's Convolution.cpp); its own depth-wise kernel reads the other layout.
# Feature maps that two stages and three blocks cast in a forward pass: LayerNorm gives fp32 under autocast, products
# take fp16. BatchNorm keeps the type.
CASTS = {"DWNet": 7, "DynamicDWNet": 7, "GGTransformer": 12, "IDynamicDWNet": 13, "MSGTransformer": 18}
CASTS |= {"ShuffleTransformer": 4, "TwinsPCPVT": 34, "TwinsSVT": 20}
LEFT = (
    "These operators take maps that are not channels-last, which a GPU copies: {}. What runs before them has left the "
    "layout, as GroupNorm, a view in another order or a reshape does: use BN or LN2d, or return x.contiguous"
    "(memory_format=torch.channels_last)."
)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float16),
        pytest.param({}, None, marks=SLOW),
        pytest.param({"recompute_activations": False}, None, marks=SLOW),
        pytest.param({"with_cp": True}, None, marks=SLOW),
    ],
    ids=["half", "single", "kept", "checkpointed"],
)
@pytest.mark.parametrize("family", FEW)
def test_training_stays_on_the_gpu_in_its_layout(family, options, dtype):
    """Fake tensors have no numbers: whatever asks for one raises, and so does an operator on two devices."""
    net = build_short(family, **options).train()
    with fake_gpu(net, dtype=dtype) as watch:
        outputs = net(torch.empty(BATCH, 3, 61, 100))
        assert dtype is None or watch.casts <= CASTS.get(family, 40)
        assert len(backward(outputs)) == len(list(net.parameters()))
    assert [out.device.type for out in outputs] == ["cuda"] * 2
    assert not watch.moves
    assert not watch.scattered.total(), LEFT.format(+watch.scattered)


@pytest.mark.parametrize("family", FEW)
def test_fused_inference_stays_on_the_gpu(family):
    net = build_short(family).fuse()
    with fake_gpu(net) as watch, torch.no_grad():
        outputs = net(torch.empty(BATCH, 3, 61, 100))
    assert [out.device.type for out in outputs] == ["cuda"] * 2
    assert not watch.moves
    assert not watch.scattered.total(), LEFT.format(+watch.scattered)


def test_what_waits_is_noticed():
    """The rehearsal itself: each of these would make a processor wait for a GPU."""
    net = build("DWNet")
    with fake_gpu(net) as watch:
        x = torch.empty(4)
        for wait in (x.sum().item, x.nonzero, x.tolist, lambda: x[x > 0], lambda: bool(x.any())):
            with pytest.raises(Exception, match=r"[Dd]ata.dependent|aten\.nonzero|_local_scalar_dense|guard"):
                wait()
        with pytest.raises(Exception, match=r"[Dd]evice"):
            x + torch.empty(4, device="cpu")
        x.cpu()
        assert watch.moves == {("cuda", "cpu"): 1}


@pytest.mark.parametrize("dtype", [pytest.param(None, marks=SLOW), torch.float16], ids=["single", "half"])
@pytest.mark.parametrize("family", [family for family in FEW if "DWNet" not in family.values[0]])
def test_attention_reaches_an_efficient_kernel(family, dtype, monkeypatch):
    """What PyTorch asks for before it calls its memory-efficient kernel without copying anything.

    By `preprocess_mask` in ATen's attention.cpp and `_efficient_attention_forward` in its attention.cu: the type of the
    query, rows that start at multiples of eight elements, channels after each other.
    """
    masks = []

    def kernel(query, key, value, attn_mask=None, dropout_p=0.0):
        for x in (query, key, value):
            assert x.dtype == (dtype or torch.float32)
            assert x.stride(-1) == 1
            assert all(stride % 8 == 0 for stride in (*x.stride()[:-1], x.shape[-1]))
        if attn_mask is not None:
            masks.append(attn_mask.shape)
            assert attn_mask.dtype == query.dtype
            assert attn_mask.stride(-1) == 1
            assert all(stride % 8 == 0 for stride in attn_mask.stride()[:-1])
            # Not larger than it has to be: PyTorch expands it, as a view.
            rows = attn_mask.shape[:-1].numel()
            assert attn_mask.untyped_storage().nbytes() <= rows * 16 * attn_mask.element_size()
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        drop, grad = dropout_p, torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, grad, drop)[0]

    monkeypatch.setattr(cpu_kernels.F, "scaled_dot_product_attention", kernel)
    net = build_short(family).train()
    with fake_gpu(net, dtype=dtype):
        net(torch.empty(BATCH, 3, 61, 100))
    expected = {"GGTransformer": 3, "MSGTransformer": 3, "ShuffleTransformer": 3, "TwinsSVT": 2}
    assert len(masks) == expected.get(family, 0)
