"""The data flow that every backbone of this package shares: stem -> stages of blocks -> output norms."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..deprecation import warn_renamed
from ..errors import ConfigError
from ..hub import HubFiles, HubModel
from ..layers import (
    Block,
    ConvMlp,
    PatchEmbed,
    PatchMerging,
    Stage,
    build_norm,
    built_on,
    fuse_children,
    shared_in_pass,
)
from ..ops import channels_last, recompute_activations
from .family import (
    Declarations,
    FeatureInfo,
    check_stages,
    drop_path_ramp,
    for_each_stage,
    parameters_without_decay,
    stage_widths,
)


class LocalViT(HubModel, Declarations, BaseModule):
    """Base of the backbones: a hierarchical network whose blocks mix tokens locally.

    Feature maps are N×C×H×W in shape and channels-last in memory from the stem to the pyramid, at any H×W. The layers
    are Swin's unless a family overrides :meth:`make_stem`, :meth:`make_downsample` or :meth:`make_block`; a family must
    define :meth:`make_mixer`, and a constructor that keeps its own settings, if it has any, and then calls
    :meth:`build`, which makes the modules. This class's constructor makes none.

    Args:
        arch: Name of a published size (a key of ``arch_settings``), or a dict with the same keys.
        in_channels: Channels of the image.
        embed_dims: Channels of each stage, or of the first one, doubled by each later one. Default: as ``arch`` says.
        depths: Blocks per stage. Default: as ``arch`` says.
        window_size: Side of a window or kernel, in tokens.
        mlp_ratio: Width of the MLP's hidden layer over its input, per stage or one for all. Default: as ``arch`` says,
            else 4.
        drop_rate: Dropout in MLPs and after projections.
        drop_path_rate: Largest probability of dropping a residual branch. Default: as ``arch`` says.
        norm_cfg: Norms inside blocks. Default: the family's ``default_norm_cfg``.
        act_cfg: Activation of MLPs. Default: the family's ``default_act_cfg``.
        out_indices: Stages whose feature maps are returned.
        out_norm_cfg: Norm on each returned feature map; None for no norm; 'default' for the family's ``norm_cfg``.
        frozen_stages: -1: train all; 0: freeze the stem; n: the stem, the first n stages and their output norms.
        norm_eval: Keep all BatchNorms in eval mode (fixed statistics) while training.
        recompute_activations: Recompute norms and activations in backward instead of keeping them: about a quarter less
            is kept, a twentieth slower.
        with_cp: Recompute whole blocks: a fifth or less is kept, about a third slower.
        init_cfg: How MMEngine initialises weights, for example ``dict(type='Pretrained', checkpoint=...)``.
        lean: Former name of ``recompute_activations``.
        device: Where modules are built, as `torch.nn.utils.skip_init` gives it; None for the current default.

    Raises:
        ValueError: If ``arch`` is unknown, or ``out_indices``, ``frozen_stages`` or what stands per stage does not fit.
    """

    def __init__(
        self,
        arch: str | dict = "tiny",
        in_channels: int = 3,
        embed_dims: int | Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        window_size: int = 7,
        mlp_ratio: float | Sequence[float] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_cfg: dict | str | None = "default",
        frozen_stages: int = -1,
        norm_eval: bool = False,
        recompute_activations: bool = True,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        lean: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if lean is not None:
            warn_renamed("lean", "recompute_activations")
            recompute_activations = lean
        self.arch = self.resolve_arch(arch)
        self.in_channels = in_channels
        widths = self.setting("embed_dims", embed_dims)
        self.depths: tuple[int, ...] = tuple(self.setting("depths", depths))
        self.channels = stage_widths(widths, len(self.depths))  # of each stage
        self.embed_dims = self.channels[0]
        self.window_size = window_size
        ratios = self.arch.get("mlp_ratio", 4.0) if mlp_ratio is None else mlp_ratio
        self.mlp_ratios = for_each_stage("mlp_ratio", ratios, len(self.depths))
        self.drop_rate = drop_rate
        self.drop_path_rate: float = self.setting("drop_path_rate", drop_path_rate)
        self.norm_cfg = norm_cfg or self.default_norm_cfg
        self.act_cfg = act_cfg or self.default_act_cfg
        self.out_indices = check_stages(out_indices, len(self.depths))
        if isinstance(out_norm_cfg, str):
            if out_norm_cfg != "default":
                raise ValueError(f"out_norm_cfg={out_norm_cfg!r} must be a dict, None or 'default'.")
            out_norm_cfg = self.norm_cfg
        self.out_norm_cfg = out_norm_cfg
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.recompute_activations = recompute_activations
        self.with_cp = with_cp
        self._built = False
        self._device = device
        if not -1 <= frozen_stages <= len(self.depths):
            raise ValueError(f"frozen_stages={frozen_stages} must lie between -1 and {len(self.depths)}.")
        if window_size < 1:
            raise ValueError(f"window_size={window_size} must be at least 1 token.")

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        init: Any = vars(cls).get("__init__")
        own = inspect.signature(init).parameters if init else {}
        if any(p.kind is p.VAR_KEYWORD for p in own.values()):
            # Whoever inspects it (help, skip_init) sees the parent's arguments in place of `**common`.
            common = inspect.signature(super(cls, cls).__init__).parameters
            rest = [p.replace(kind=p.KEYWORD_ONLY) for name, p in common.items() if name not in own]
            init.__signature__ = inspect.Signature([*(p for p in own.values() if p.kind is not p.VAR_KEYWORD), *rest])

    def setting(self, name: str, value: Any) -> Any:
        """Return ``value`` if one was given, else what ``arch`` says; raise a ValueError if neither says anything."""
        if value is None and name not in self.arch:
            raise ValueError(f"{type(self).__name__} needs '{name}': give it, or put it into the arch dict.")
        return self.arch[name] if value is None else value

    @classmethod
    def accepted_arguments(cls) -> set[str]:
        """Return the names of all config keys that this backbone takes."""
        return set(cls.default_arguments())

    @classmethod
    def default_arguments(cls) -> dict[str, Any]:
        """Return the default of each config key, a subclass's before its parent's."""
        return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    @classmethod
    def out_channels_of(cls, cfg: dict) -> tuple[int, ...]:
        """Return the channels of the feature maps of a backbone with this config, without building it."""
        settings = {**LocalViT.default_arguments(), **cls.default_arguments(), **cfg}
        arch = cls.resolve_arch(settings["arch"])
        depths = settings["depths"] or arch["depths"]
        widths = stage_widths(settings["embed_dims"] or arch["embed_dims"], len(depths))
        return tuple(widths[i] for i in check_stages(settings["out_indices"], len(depths)))

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned feature map."""
        return tuple(self.channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Pixels of the image per token of each returned feature map."""
        return tuple(4 * 2**i for i in self.out_indices)

    @property
    def strides(self) -> tuple[int, ...]:
        """Former name of `out_strides`."""
        warn_renamed("strides", "out_strides")
        return self.out_strides

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay (timm's name for it): norms and positions."""
        return parameters_without_decay(self, self.no_weight_decay_keywords)

    @property
    def feature_info(self) -> FeatureInfo:
        """The same, as timm's models report it: ``feature_info.channels()``, ``feature_info.reduction()``."""
        strides = [4 * 2**i for i in range(len(self.depths))]
        return FeatureInfo(self.channels, strides, [f"out_norms.{i}" for i in self.out_norms], self.out_indices)

    def hub_files(self) -> HubFiles:
        """Return what `save_pretrained` and `push_to_hub` write.

        Raises:
            ConfigError: The layers are not those that the arguments make, so that they could not be read.
        """
        # What is made from others or depends on where it runs is left out; widths and ratios as they came to be.
        kept = self.accepted_arguments() - {"arch", "embed_dims", "mlp_ratio", "init_cfg", "lean", "device"}
        settings: dict[str, Any] = {"arch": self.arch, "embed_dims": self.channels, "mlp_ratio": self.mlp_ratios}
        settings |= {name: getattr(self, name) for name in sorted(kept)}
        name, weights = type(self).__name__, self.state_dict()
        with torch.device("meta"):
            if type(self)(**settings).state_dict().keys() != weights.keys():
                raise ConfigError(
                    f"This {name} was changed after it was made (by fuse(), adapters or the like), and could not be "
                    "read back: write it before that."
                )
        title, address = self.paper
        about = f"A backbone of localvit_det with strides {self.out_strides} and {self.out_channels} channels."
        about += f" [{title}]({address})" if title else ""
        named = self.title or name
        return HubFiles(weights, {"type": name, **settings}, named, about, "image-feature-extraction")

    # ------------------------------------------------------------------ construction

    def build(self) -> None:
        """Make all modules; the last step of a family's constructor."""
        with built_on(self._device):
            self.stem = self.make_stem()
            self.stages = nn.ModuleList()
            for stage, rates in enumerate(self.drop_path_rates()[: self.out_indices[-1] + 1]):
                downsample = self.make_downsample(stage) if stage else nn.Identity()
                blocks = [self.make_block(stage, index, rate) for index, rate in enumerate(rates)]
                self.stages.append(Stage(downsample, blocks, self.with_cp))
            self.out_norms = nn.ModuleDict()
            for stage in range(len(self.stages)):
                normed = self.out_norm_cfg is not None and stage in self.normed_stages()
                norm = build_norm(self.out_norm_cfg or {}, self.channels[stage]) if normed else nn.Identity()
                self.out_norms[str(stage)] = norm
            self.reset_parameters()
        self._built = True
        self._freeze()

    def reset_parameters(self) -> None:
        """Initialise all weights anew, as construction does.

        A family adds what its official code initialises in another way than the layers do by themselves.
        """
        if self._built:  # else the layers have just done so
            for module in reversed(list(self.modules())[1:]):  # a layer after its parts, which it may overrule
                if reset := getattr(module, "reset_parameters", None):
                    reset()

    def normed_stages(self) -> Sequence[int]:
        """Return the stages that end in an output norm, where there are any: those whose feature maps are returned."""
        return self.out_indices

    def drop_path_rates(self) -> list[list[float]]:
        """Return the probability of dropping each block's branches: rising linearly over all blocks, as in Swin."""
        rates = iter(drop_path_ramp(self.drop_path_rate, sum(self.depths)))
        return [[next(rates) for _ in range(depth)] for depth in self.depths]

    def make_stem(self) -> nn.Module:
        """Make the stem: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        return PatchEmbed(self.in_channels, self.embed_dims)

    def make_downsample(self, stage: int) -> nn.Module:
        """Make the downsampling before ``stage``: (B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        return PatchMerging(self.channels[stage - 1], self.channels[stage])

    def make_block(self, stage: int, index: int, drop_path_rate: float) -> nn.Module:
        """Make block ``index`` of ``stage``: (B, C, H, W) -> (B, C, H, W)."""
        return Block(**self.make_branches(stage, index, drop_path_rate))

    def make_branches(self, stage: int, index: int, drop_path_rate: float) -> dict[str, Any]:
        """Make what :class:`Block` takes."""
        channels = self.channels[stage]
        return {
            "norm1": self.make_mixer_norm(channels),
            "mixer": self.make_mixer(channels, stage, index),
            "norm2": build_norm(self.norm_cfg, channels),
            "mlp": self.make_mlp(channels, stage),
            "drop_path_rate": drop_path_rate,
        }

    def make_mixer_norm(self, channels: int) -> nn.Module:
        """Make the norm before a mixer."""
        return build_norm(self.norm_cfg, channels)

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make the token mixer of block ``index`` of ``stage``: (B, C, H, W) -> (B, C, H, W) for any H×W."""
        raise NotImplementedError(f"{type(self).__name__} must define make_mixer().")

    def make_mlp(self, channels: int, stage: int) -> nn.Module:
        """Make the MLP of a block of ``stage``: (B, C, H, W) -> (B, C, H, W)."""
        return ConvMlp(channels, int(channels * self.mlp_ratios[stage]), self.act_cfg, self.drop_rate)

    # ------------------------------------------------------------------ running

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one feature map (B, C_i, ⌈H/s_i⌉, ⌈W/s_i⌉) for each of ``out_indices``, s_i = 4·2^i."""
        if "stem" not in self._modules:
            raise RuntimeError(
                f"{type(self).__name__} has no layers: give it a constructor that ends with self.build()."
            )
        features = []
        with recompute_activations(self.recompute_activations), shared_in_pass():
            x = self.stem(channels_last(x))  # B, C_0, ⌈H/4⌉, ⌈W/4⌉
            for i, stage in enumerate(self.stages):
                x, out = self.end_stage(stage(x), i)  # each B, C_i, ⌈H/s_i⌉, ⌈W/s_i⌉
                if i in self.out_indices:
                    features.append(out)
        return tuple(features)

    def end_stage(self, x: Any, stage: int) -> tuple[Any, Tensor]:
        """Return what the next stage takes, and the feature map that is returned: by default only that is normed."""
        return x, self.out_norms[str(stage)](x)

    def lacks(self, name: str) -> bool:
        """Whether a weight belongs to a stage after the last one that is returned, which is not built."""
        part, _, rest = name.partition(".")
        stage = rest.partition(".")[0]
        return part in ("stages", "out_norms") and stage.isdecimal() and int(stage) >= len(self.stages)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        own = [name for name in state_dict if name.startswith(prefix)]
        left = [name for name in own if self.lacks(name[len(prefix) :])]
        for name in left:
            del state_dict[name]  # of a copy
        if left:
            print_log(
                f"out_indices={self.out_indices} need no later stages: {len(left)} of their tensors are left out."
            )
        if local_metadata.get("assign_to_params_buffers"):  # of files from when weights were channels-last
            state_dict.update({name: state_dict[name].contiguous() for name in own if name not in left})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def fuse(self) -> LocalViT:
        """Prepare for inference: the same feature maps, faster; return the backbone itself.

        Norms are folded into neighbouring convolutions; on a CPU, branches of blocks then run over bands of rows, on
        weights that are laid out once (at the cost of a second copy of the weights of 1×1 convolutions). See
        `localvit_det.fused`. It cannot be undone, and the state dict changes: load weights first. The backbone is
        put into eval mode; it can still be moved, copied, traced and compiled. Weights that it has may be written to in
        any way. What somebody listens to (hooks), and layers that are wrapped, parametrized or quantized, are left as
        they are; hooks that are registered later see, on a CPU, bands inside a block. Doing so again changes nothing.
        """
        self.eval()
        fuse_children(self)
        return self

    def switch_to_deploy(self) -> None:
        """Fuse; this is the name that tools of MMPretrain and MMYOLO call."""
        self.fuse()

    def train(self, mode: bool = True) -> LocalViT:
        """Switch to train or eval mode, in which what is frozen stays; return the module itself."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        frozen: list[nn.Module] = [self.stem] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.stages[i], self.out_norms[str(i)]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


class AttentionViT(LocalViT):
    """Base of the backbones whose mixers are attention with several heads.

    Takes all arguments of :class:`LocalViT`, and those below.

    Args:
        num_heads: Heads per stage. Default: as ``arch`` says.
        qkv_bias: Whether query, key and value have a bias.
        attn_drop_rate: Dropout on the attention weights.
    """

    def __init__(
        self,
        arch: str | dict = "tiny",
        num_heads: Sequence[int] | None = None,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(arch, **common)
        self.num_heads: tuple[int, ...] = tuple(self.setting("num_heads", num_heads))
        self.qkv_bias = qkv_bias
        self.attn_drop_rate = attn_drop_rate

    @property
    def attention(self) -> dict[str, Any]:
        """What all attention layers are given."""
        return {"qkv_bias": self.qkv_bias, "attn_drop_rate": self.attn_drop_rate, "drop_rate": self.drop_rate}
