"""State dicts with the names of the official codes, written down from their published formats, values random."""

import re

import torch


def norm(name: str, channels: int) -> dict[str, torch.Tensor]:
    """BatchNorm."""
    state = {f"{name}.{part}": torch.rand(channels) + 0.5 for part in ("weight", "bias", "running_mean", "running_var")}
    return state | {f"{name}.num_batches_tracked": torch.tensor(3)}


def affine(name: str, *shape: int) -> dict[str, torch.Tensor]:
    """LayerNorm, convolution or linear layer, with a bias."""
    return {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}


def shuffle(channels: int = 32, depths: tuple = (2, 2, 2, 2), window: int = 5, heads: int = 2) -> dict:
    """`models/shuffle_transformer.py` of mulinmeng/Shuffle-Transformer."""
    state = affine("to_token.conv1.0", 32, 3, 3, 3) | norm("to_token.conv1.1", 32)
    state |= affine("to_token.conv2.0", channels, 32, 3, 3) | norm("to_token.conv2.1", channels)
    state |= affine("to_token.conv3", channels, channels, 1, 1)
    for stage, depth in enumerate(depths):
        c = channels * 2**stage
        if stage:
            name = f"stage{stage + 1}.patch_partition"
            state |= norm(f"{name}.norm", c // 2) | {f"{name}.reduction.weight": torch.randn(c, c // 2, 2, 2)}
        for block in range(depth):
            name = f"stage{stage + 1}.layers.{block // 2}.{block % 2}"
            state |= norm(f"{name}.norm1", c)
            state[f"{name}.attn.relative_position_bias_table"] = torch.randn((2 * window - 1) ** 2, heads * 2**stage)
            state[f"{name}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            state[f"{name}.attn.to_qkv.weight"] = torch.randn(3 * c, c, 1, 1)
            state |= affine(f"{name}.attn.proj", c, c, 1, 1) | affine(f"{name}.local", c, 1, window, window)
            state |= norm(f"{name}.norm2", c) | affine(f"{name}.mlp.fc1", 4 * c, c, 1, 1)
            state |= affine(f"{name}.mlp.fc2", c, 4 * c, 1, 1) | norm(f"{name}.norm3", c)
    return state | affine("head", 10, 8 * channels)


def dwnet(
    channels: int = 32, depths: tuple = (2, 2, 2, 2), kind: str = "static", window: int = 7, detection: bool = False
) -> dict:
    """`models/dwnet.py` of Atten4Vis/DemystifyLocalViT, or the copy in its downstreams/detection."""
    state = affine("patch_embed.proj", channels, 3, 4, 4) | affine("patch_embed.norm", channels)
    for stage, depth in enumerate(depths):
        c = channels * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            state[f"{name}.attn2conv.conv0.weight"] = torch.randn(c, c, 1, 1)
            state |= norm(f"{name}.attn2conv.bn0", c)
            conv = f"{name}.attn2conv.conv"
            if kind == "static":
                state |= affine(conv, c, 1, window, window)
            elif kind == "dynamic":
                state[f"{conv}.bias"] = torch.randn(c)
                state[f"{conv}.conv1.weight"] = torch.randn(c // 4, c, 1, 1)
                state |= norm(f"{conv}.bn", c // 4) | affine(f"{conv}.conv2", c * window**2, c // 4, 1, 1)
            else:
                state |= affine(f"{conv}.conv1.0", c // 4, c, 1, 1) | norm(f"{conv}.conv1.1", c // 4)
                groups = c // max(1, c // 32)
                state |= affine(f"{conv}.conv2.0", groups * window**2, c // 4, 1, 1)
            state |= norm(f"{name}.attn2conv.bn", c)
            state[f"{name}.attn2conv.conv2.weight"] = torch.randn(c, c, 1, 1)
            state |= norm(f"{name}.attn2conv.bn2", c) | affine(f"{name}.mlp.fc1", 4 * c, c)
            state |= affine(f"{name}.mlp.fc2", c, 4 * c) | norm(f"{name}.bn", c)
        if stage < 3:
            name = f"layers.{stage}.downsample"
            state |= affine(f"{name}.norm", 4 * c) | {f"{name}.reduction.weight": torch.randn(2 * c, 4 * c)}
        if detection:
            state |= norm(f"norm{stage}", c)
    return state if detection else state | affine("norm", 8 * channels) | affine("head", 10, 8 * channels)


def swin(channels: int = 24, depth: int = 2, heads: int = 2, window: int = 7, timm: bool = False) -> dict:
    """`swin_transformer.py` of microsoft/Swin-Transformer, or of timm, whose downsampling belongs to the next stage."""
    state = affine("patch_embed.proj", channels, 3, 4, 4) | affine("patch_embed.norm", channels)
    for stage in range(4):
        c = channels * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            state |= affine(f"{name}.norm1", c) | affine(f"{name}.norm2", c)
            state |= affine(f"{name}.attn.qkv", 3 * c, c) | affine(f"{name}.attn.proj", c, c)
            state[f"{name}.attn.relative_position_bias_table"] = torch.randn((2 * window - 1) ** 2, heads * 2**stage)
            if not timm:
                state[f"{name}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            if block % 2 and stage < 3 and not timm:
                state[f"{name}.attn_mask"] = torch.zeros(4, window**2, window**2)
            state |= affine(f"{name}.mlp.fc1", 4 * c, c) | affine(f"{name}.mlp.fc2", c, 4 * c)
        if stage < 3:
            name = f"layers.{stage + timm}.downsample"
            state |= affine(f"{name}.norm", 4 * c) | {f"{name}.reduction.weight": torch.randn(2 * c, 4 * c)}
    return state | affine("norm", 8 * channels) | affine("head.fc" if timm else "head", 10, 8 * channels)


def hugging_face_swin(official: dict, prefix: str = "swin.") -> dict:
    """The same weights as `transformers` names them: of a classifier, without a prefix of a backbone."""
    state = {}
    for name, tensor in official.items():
        for theirs, here in (
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
            ("patch_embed.norm.", "embeddings.norm."),
            ("layers.", "encoder.layers."),
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            (".attn.proj.", ".attention.output.dense."),
            (".attn.", ".attention.self."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ):
            name = name.replace(theirs, here)
        if ".qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"{prefix}{name.replace('.qkv.', f'.{part}.')}"] = rows
        elif name.startswith("head."):
            state[name.replace("head.", "classifier.")] = tensor
        elif not name.endswith("attn_mask"):
            state[prefix + (name.replace("norm.", "layernorm.") if name.startswith("norm.") else name)] = tensor
    return state


def pvt(channels: tuple = (16, 32, 80, 128), ratios: tuple = (8, 8, 4, 4), pixels: int = 224) -> dict:
    """`classification/pvt.py` of whai362/PVT, one block a stage."""
    state = {"cls_token": torch.randn(1, 1, channels[-1])}
    for stage, (c, sr) in enumerate(zip(channels, (8, 4, 2, 1), strict=True)):
        tokens = (pixels // (4 * 2**stage)) ** 2 + (stage == 3)  # one for the class
        state[f"pos_embed{stage + 1}"] = torch.randn(1, tokens, c)
        patch = (3, 4, 4) if stage == 0 else (channels[stage - 1], 2, 2)
        state |= affine(f"patch_embed{stage + 1}.proj", c, *patch) | affine(f"patch_embed{stage + 1}.norm", c)
        name = f"block{stage + 1}.0"
        state |= affine(f"{name}.norm1", c) | affine(f"{name}.norm2", c)
        state |= (
            affine(f"{name}.attn.q", c, c) | affine(f"{name}.attn.kv", 2 * c, c) | affine(f"{name}.attn.proj", c, c)
        )
        if sr > 1:
            state |= affine(f"{name}.attn.sr", c, c, sr, sr) | affine(f"{name}.attn.norm", c)
        hidden = ratios[stage] * c
        state |= affine(f"{name}.mlp.fc1", hidden, c) | affine(f"{name}.mlp.fc2", c, hidden)
    return state | affine("norm", channels[-1]) | affine("head", 10, channels[-1])


def pvt_v2(channels: tuple = (32, 64, 160, 256), ratios: tuple = (8, 8, 4, 4), depths: tuple = (1, 1, 1, 1)) -> dict:
    """`classification/pvt_v2.py` of whai362/PVT."""
    state = {}
    for stage, (c, sr) in enumerate(zip(channels, (8, 4, 2, 1), strict=True)):
        patch = (3, 7, 7) if stage == 0 else (channels[stage - 1], 3, 3)
        state |= affine(f"patch_embed{stage + 1}.proj", c, *patch) | affine(f"patch_embed{stage + 1}.norm", c)
        for block in range(depths[stage]):
            name, hidden = f"block{stage + 1}.{block}", ratios[stage] * c
            state |= affine(f"{name}.norm1", c) | affine(f"{name}.norm2", c) | affine(f"{name}.attn.q", c, c)
            state |= affine(f"{name}.attn.kv", 2 * c, c) | affine(f"{name}.attn.proj", c, c)
            if sr > 1:
                state |= affine(f"{name}.attn.sr", c, c, sr, sr) | affine(f"{name}.attn.norm", c)
            state |= affine(f"{name}.mlp.fc1", hidden, c) | affine(f"{name}.mlp.fc2", c, hidden)
            state |= affine(f"{name}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
        state |= affine(f"norm{stage + 1}", c)
    return state | affine("head", 10, channels[-1])


def twins(
    kind: str,
    channels: tuple = (32, 64, 128, 256),
    depths: tuple = (2, 2, 2, 2),
    ratios: tuple = (4, 4, 4, 4),
    detection: bool = False,
) -> dict:
    """`gvt.py` of Meituan-AutoML/Twins and `twins.py` of timm, or the copy in its detection folder."""
    state = {}
    for stage, (c, depth, sr) in enumerate(zip(channels, depths, (8, 4, 2, 1), strict=True)):
        patch = (3, 4, 4) if stage == 0 else (channels[stage - 1], 2, 2)
        state |= affine(f"patch_embeds.{stage}.proj", c, *patch) | affine(f"patch_embeds.{stage}.norm", c)
        state |= affine(f"pos_block.{stage}.proj.0", c, 1, 3, 3)
        for block in range(depth):
            name = f"blocks.{stage}.{block}"
            state |= affine(f"{name}.norm1", c) | affine(f"{name}.norm2", c) | affine(f"{name}.attn.proj", c, c)
            if kind == "TwinsSVT" and block % 2 == 0:
                state |= affine(f"{name}.attn.qkv", 3 * c, c)
            else:
                state |= affine(f"{name}.attn.q", c, c) | affine(f"{name}.attn.kv", 2 * c, c)
                if sr > 1:
                    state |= affine(f"{name}.attn.sr", c, c, sr, sr) | affine(f"{name}.attn.norm", c)
            hidden = ratios[stage] * c
            state |= affine(f"{name}.mlp.fc1", hidden, c) | affine(f"{name}.mlp.fc2", c, hidden)
        if detection and kind == "TwinsSVT":
            state |= affine(f"norm_list.{stage}", c)
    return state | affine("norm", channels[-1]) | affine("head", 10, channels[-1])


def openmmlab_twins(official: dict, library: str) -> dict:
    """The same tensors as MMPretrain's classifier or MMSegmentation's backbone calls them."""
    blocks = {"mmpretrain": "stages", "mmseg": "layers"}[library]
    rules = [
        (r"^patch_embeds\.(\d)\.proj\.", r"patch_embeds.\1.projection."),
        (r"^pos_block\.(\d)\.proj\.0\.", r"position_encodings.\1.proj."),
        (r"^blocks\.", f"{blocks}."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    ]
    state = {}
    for name, tensor in official.items():
        if library == "mmseg" and name.startswith(("norm.", "head.")):
            continue
        if library == "mmseg" and f"{name.rpartition('.attn.')[0]}.attn.q.bias" in official and ".attn." in name:
            name = name.replace(".attn.proj.", ".attn.attn.out_proj.")
            if ".attn.kv." in name:
                continue
            if ".attn.q." in name:
                tensor = torch.cat((tensor, official[name.replace(".q.", ".kv.")]))
                name = name.replace(".attn.q.", ".attn.attn.in_proj_")
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    if library == "mmpretrain":
        own = {"norm.": "norm_after_stage3.", "head.": "head.fc."}
        state = {
            next((n + k.removeprefix(o) for o, n in own.items() if k.startswith(o)), k): v for k, v in state.items()
        }
        state = {name if name.startswith("head.") else f"backbone.{name}": tensor for name, tensor in state.items()}
    return state


def msg(channels: int = 32, depths: tuple = (2, 2, 2, 2), window: int = 7, heads: int = 2, region: int = 4) -> dict:
    """`models/msg_transformer.py` of hustvl/MSG-Transformer."""
    state = {"msg_tokens": torch.randn(1, region**2, 1, channels)}
    state |= affine("patch_embed.proj", channels, 3, 7, 7) | affine("patch_embed.norm", channels)
    for stage, depth in enumerate(depths):
        c = channels * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            state |= affine(f"{name}.norm1", c) | affine(f"{name}.norm2", c)
            state[f"{name}.attn.relative_position_bias_table"] = torch.randn((2 * window - 1) ** 2, heads * 2**stage)
            state[f"{name}.attn.rel_pos_msg"] = torch.randn(heads * 2**stage, 2, 1, 1)
            state[f"{name}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            state |= affine(f"{name}.attn.qkv", 3 * c, c) | affine(f"{name}.attn.proj", c, c)
            state |= affine(f"{name}.mlp.fc1", 4 * c, c) | affine(f"{name}.mlp.fc2", c, 4 * c)
        if stage < 3:
            name = f"layers.{stage}.downsample"
            state |= affine(f"{name}.reduction", 2 * c, c, 3, 3) | affine(f"{name}.norm", 2 * c)
    return state | affine("norm", 8 * channels) | affine("head", 10, 8 * channels)


def conv(name: str, *shape: int, with_norm: bool = False) -> dict[str, torch.Tensor]:
    """ConvModule of mmcv: without a bias before its norm."""
    if with_norm:
        return {f"{name}.conv.weight": torch.randn(shape)} | norm(f"{name}.bn", shape[0])
    return affine(f"{name}.conv", *shape)


def cascade_v2(backbone: dict, channels: int, classes: int = 80) -> dict[str, torch.Tensor]:
    """A Cascade Mask R-CNN of MMDetection 2.11 in the recipe of DWNet: 4conv1fc heads with norms."""
    state = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    for level in range(4):
        state |= conv(f"neck.lateral_convs.{level}", 256, channels * 2**level, 1, 1)
        state |= conv(f"neck.fpn_convs.{level}", 256, 256, 3, 3)
    state |= affine("rpn_head.rpn_conv", 256, 256, 3, 3) | affine("rpn_head.rpn_cls", 3, 256, 1, 1)
    state |= affine("rpn_head.rpn_reg", 12, 256, 1, 1)
    for stage in range(3):
        name = f"roi_head.bbox_head.{stage}"
        state |= affine(f"{name}.fc_cls", classes + 1, 1024) | affine(f"{name}.fc_reg", 4 * classes, 1024)
        for i in range(4):
            state |= conv(f"{name}.shared_convs.{i}", 256, 256, 3, 3, with_norm=True)
        state |= affine(f"{name}.shared_fcs.0", 1024, 256 * 49)
        name = f"roi_head.mask_head.{stage}"
        for i in range(4):
            state |= conv(f"{name}.convs.{i}", 256, 256, 3, 3)
        state |= affine(f"{name}.upsample", 256, 256, 2, 2) | affine(f"{name}.conv_logits", classes, 256, 1, 1)
    return state


# Where tensors of the same shape could be swapped without any shape telling it.
PAIRS = {
    "MSGTransformer": {
        "msg_tokens": "stem.messengers",
        "patch_embed.norm.bias": "stem.norm.bias",
        "layers.0.blocks.1.norm1.weight": "stages.0.blocks.1.norm1.weight",
        "layers.0.blocks.1.norm2.weight": "stages.0.blocks.1.norm2.weight",
        "layers.2.blocks.0.attn.rel_pos_msg": "stages.2.blocks.0.mixer.rel_pos_msg",
        "layers.1.downsample.reduction.bias": "stages.2.downsample.reduction.bias",
        "layers.1.downsample.norm.bias": "stages.2.downsample.norm.bias",
    },
    "ShuffleTransformer": {
        "to_token.conv2.1.running_var": "stem.norm2.running_var",
        "stage1.layers.0.1.norm1.weight": "stages.0.blocks.1.norm1.weight",
        "stage3.layers.0.0.norm2.bias": "stages.2.blocks.0.norm_local.bias",
        "stage3.layers.0.0.norm3.bias": "stages.2.blocks.0.norm2.bias",
        "stage4.layers.0.1.attn.to_qkv.weight": "stages.3.blocks.1.mixer.qkv.weight",
        "stage2.patch_partition.norm.weight": "stages.1.downsample.norm.weight",
    },
    "DWNet": {
        "layers.0.blocks.1.attn2conv.conv0.weight": "stages.0.blocks.1.mixer.expand.weight",
        "layers.0.blocks.1.attn2conv.conv2.weight": "stages.0.blocks.1.mixer.project.weight",
        "layers.2.blocks.0.attn2conv.bn0.weight": "stages.2.blocks.0.mixer.norm1.weight",
        "layers.2.blocks.0.attn2conv.bn.weight": "stages.2.blocks.0.mixer.norm2.weight",
        "layers.2.blocks.0.attn2conv.bn2.weight": "stages.2.blocks.0.mixer.norm3.weight",
        "layers.2.blocks.0.bn.weight": "stages.2.blocks.0.norm2.weight",
        "layers.1.downsample.norm.bias": "stages.2.downsample.norm.bias",
    },
    "DynamicDWNet": {
        "layers.1.blocks.0.attn2conv.conv.bn.bias": "stages.1.blocks.0.mixer.conv.norm.bias",
        "layers.1.blocks.0.attn2conv.conv.conv2.bias": "stages.1.blocks.0.mixer.conv.generate.bias",
        "layers.1.blocks.0.attn2conv.conv2.weight": "stages.1.blocks.0.mixer.project.weight",
    },
    "IDynamicDWNet": {
        "layers.1.blocks.0.attn2conv.conv.conv1.0.bias": "stages.1.blocks.0.mixer.conv.reduce.bias",
        "layers.1.blocks.0.attn2conv.conv.conv1.1.bias": "stages.1.blocks.0.mixer.conv.norm.bias",
        "layers.1.blocks.0.attn2conv.conv.conv2.0.bias": "stages.1.blocks.0.mixer.conv.generate.bias",
    },
    "TwinsPCPVT": {
        "patch_embeds.0.norm.bias": "stem.norm.bias",
        "patch_embeds.2.norm.bias": "stages.2.downsample.norm.bias",
        "blocks.0.0.norm1.weight": "stages.0.blocks.0.norm1.weight",
        "blocks.1.1.attn.norm.weight": "stages.1.blocks.1.mixer.norm.weight",  # no output norm, for all its name
        "blocks.1.1.attn.q.weight": "stages.1.blocks.1.mixer.query.weight",
        "blocks.1.1.attn.proj.weight": "stages.1.blocks.1.mixer.proj.weight",
        "pos_block.2.proj.0.weight": "stages.2.blocks.0.position.weight",
    },
    "TwinsSVT": {
        "blocks.0.0.attn.qkv.weight": "stages.0.blocks.0.mixer.qkv.weight",
        "blocks.0.1.attn.kv.bias": "stages.0.blocks.1.mixer.key_value.bias",
        "blocks.2.1.attn.norm.bias": "stages.2.blocks.1.mixer.norm.bias",
        "blocks.3.0.attn.proj.bias": "stages.3.blocks.0.mixer.proj.bias",
        "pos_block.3.proj.0.bias": "stages.3.blocks.0.position.bias",
    },
}
