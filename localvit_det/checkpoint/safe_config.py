"""The config inside a checkpoint: find it, and take from it the model, the test pipeline and the classes.

MMEngine runs the text of a config, imports whatever a `type` in it names and calls it with the other keys; MMCV
evaluates the `type` of an NMS, and some detectors and losses read files. So the text is parsed (:mod:`.config_text`),
types are taken from `TYPES` alone, and values are numbers and words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mmengine.registry import MODELS, TASK_UTILS, TRANSFORMS

from ..config_names import type_name
from ..errors import CheckpointError
from .config_text import NotPlain, as_text, parse

TRUST = "pass --trust-file if you know who made it"

# Scopes that MMEngine imports by their name.
SCOPES = ("mmdet", "mmengine", "mmcv", "mmseg", "mmpretrain")

# A constructor on this list reads no file, opens no address, evaluates no text: tests/checkpoint/test_safe_config.py.
TYPES: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "detectors, segmentors and classifiers": """
            ATSS AutoAssign BoxInst CascadeRCNN CenterNet CondInst ConditionalDETR CornerNet CrowdDet DABDETR DDOD
            DDQDETR DETR DINO DeformableDETR EncoderDecoder CascadeEncoderDecoder FCOS FOVEA FSAF FastRCNN FasterRCNN
            GFL GridRCNN HybridTaskCascade ImageClassifier Mask2Former MaskFormer MaskRCNN MaskScoringRCNN NASFCOS PAA
            PanopticFPN PointRend QueryInst RPN RTMDet RepPointsDetector RetinaNet SCNet SOLO SOLOv2
            SingleStageDetector SparseRCNN TOOD TridentFasterRCNN TwoStageDetector VFNet YOLACT YOLOF YOLOV3 YOLOX
        """,
        "backbones": """
            CSPDarknet CSPNeXt ConvNeXt Darknet DetectoRS_ResNeXt DetectoRS_ResNet EfficientNet HRNet HourglassNet
            MobileNetV2 PyramidVisionTransformer PyramidVisionTransformerV2 RegNet Res2Net ResLayer ResNeSt ResNeXt
            ResNet ResNetV1c ResNetV1d SSDVGG SwinTransformer TridentResNet
        """,
        "necks": """
            BFP CSPNeXtPAFPN CTResNetNeck ChannelMapper DilatedEncoder DyHead FPG FPN FPN_CARAFE FPN_DropBlock
            GlobalAveragePooling HRFPN NASFCOS_FPN NASFPN PAFPN RFP SSDNeck SSH YOLOV3Neck YOLOXPAFPN
        """,
        "dense heads": """
            ATSSHead AnchorHead AutoAssignHead BoxInstBboxHead BoxInstMaskHead CascadeRPNHead CenterNetHead
            CenterNetUpdateHead CentripetalHead CondInstBboxHead CondInstMaskHead ConditionalDETRHead CornerHead
            DABDETRHead DDODHead DDQDETRHead DETRHead DINOHead DecoupledSOLOHead DecoupledSOLOLightHead
            DeformableDETRHead EmbeddingRPNHead FCOSHead FSAFHead FoveaHead FreeAnchorRetinaHead GARPNHead
            GARetinaHead GFLHead LDHead NASFCOSHead PAAHead PISARetinaHead PISASSDHead RPNHead RTMDetHead
            RTMDetInsHead RTMDetInsSepBNHead RTMDetSepBNHead RepPointsHead RetinaHead RetinaSepBNHead SABLRetinaHead
            SOLOHead SOLOV2Head SSDHead StageCascadeRPNHead TOODHead VFNetHead YOLACTHead YOLACTProtonet YOLOFHead
            YOLOV3Head YOLOXHead
        """,
        "heads on regions": """
            BBoxHead CascadeRoIHead CoarseMaskHead ConvFCBBoxHead DIIHead DoubleConvFCBBoxHead
            DoubleHeadRoIHead DynamicMaskHead DynamicRoIHead FCNMaskHead FeatureRelayHead FusedSemanticHead
            GlobalContextHead GridHead GridRoIHead HTCMaskHead HybridTaskCascadeRoIHead MaskIoUHead MaskPointHead
            MaskScoringRoIHead MultiInstanceBBoxHead MultiInstanceRoIHead PISARoIHead PointRendRoIHead SABLHead
            SCNetBBoxHead SCNetMaskHead SCNetRoIHead SCNetSemanticHead Shared2FCBBoxHead Shared4Conv1FCBBoxHead
            SparseRoIHead StandardRoIHead TridentRoIHead GenericRoIExtractor SingleRoIExtractor
        """,
        "segmentation and classification heads": """
            Mask2FormerHead MaskFormerHead PanopticFPNHead HeuristicFusionHead MaskFormerFusionHead PixelDecoder
            TransformerEncoderPixelDecoder MSDeformAttnPixelDecoder
            ASPPHead DepthwiseSeparableASPPHead DepthwiseSeparableFCNHead FCNHead FPNHead PSPHead SegformerHead
            UPerHead ClsHead LinearClsHead
        """,
        "layers": """
            BN BN1d BN2d FrozenBN GN IN IN1d IN2d LN LN2d MMSyncBN SyncBN
            Conv Conv1d Conv2d ConvAWS ConvModule ConvWS DCN DCNv2 Linear NormedConv2d NormedLinear SAC deconv
            Clamp Clip ELU GELU HSigmoid HSwish LeakyReLU PReLU ReLU ReLU6 SiLU Sigmoid Swish Tanh
            bilinear carafe nearest pixel_shuffle reflect replicate zero
            ContextBlock DropBlock DropPath Dropout DynamicConv GeneralizedAttention NonLocal2d
            BaseTransformerLayer FFN LearnedPositionalEncoding MultiScaleDeformableAttention MultiheadAttention
            SinePositionalEncoding TransformerLayerSequence
        """,
        "losses": """
            AssociativeEmbeddingLoss BalancedL1Loss BoundedIoULoss CIoULoss CrossEntropyCustomLoss CrossEntropyLoss
            DIoULoss DiceLoss DistributionFocalLoss EIoULoss EQLV2Loss FocalCustomLoss FocalLoss GHMC GHMR GIoULoss
            GaussianFocalLoss IoULoss KnowledgeDistillationKLDivLoss L1Loss LabelSmoothLoss MSELoss OhemCrossEntropy
            QualityFocalLoss SIoULoss SeesawLoss SmoothL1Loss VarifocalLoss
        """,
        "initializers": "Caffe2Xavier Constant Kaiming Normal TruncNormal Uniform Xavier",
        "anchors, coders, assigners, costs and samplers": """
            AnchorGenerator LegacyAnchorGenerator LegacySSDAnchorGenerator MlvlPointGenerator PointGenerator
            SSDAnchorGenerator YOLOAnchorGenerator
            BucketingBBoxCoder DeltaXYWHBBoxCoder DistancePointBBoxCoder LegacyDeltaXYWHBBoxCoder PseudoBBoxCoder
            TBLRBBoxCoder YOLOBBoxCoder
            ATSSAssigner ApproxMaxIoUAssigner CenterRegionAssigner DynamicSoftLabelAssigner GridAssigner
            HungarianAssigner MaxIoUAssigner MultiInstanceAssigner PointAssigner RegionAssigner SimOTAAssigner
            TaskAlignedAssigner TopkHungarianAssigner UniformAssigner
            BBoxL1Cost BboxOverlaps2D BinaryFocalLossCost ClassificationCost CrossEntropyLossCost DiceCost
            FocalLossCost IoUCost
            CombinedSampler InstanceBalancedPosSampler IoUBalancedNegSampler MaskPseudoSampler MultiInsRandomSampler
            OHEMPixelSampler OHEMSampler PseudoSampler RandomSampler ScoreHLRSampler
        """,
        "data preprocessors": """
            BaseDataPreprocessor BoxInstDataPreprocessor ClsDataPreprocessor DetDataPreprocessor ImgDataPreprocessor
            SegDataPreProcessor BatchFixedSizePad BatchResize BatchSyncRandomResize CutMix Mixup
        """,
        "transforms": """
            FitInside LoadImageFromFile LoadAnnotations LoadPanopticAnnotations LoadEmptyAnnotations CenterCrop
            CropObject FixScaleResize FixShapeResize Normalize Pad RandomCenterCropPad RandomFlip RandomGrayscale Resize
            ResizeEdge ResizeShortestEdge ResizeToMultiple SegRescale TestTimeAug PackDetInputs PackInputs PackSegInputs
        """,
    }.items()
}
# Names that registries don't have: operators of mmcv.ops, and layers that one module picks by itself.
OPERATORS = frozenset(
    (
        *("nms", "soft_nms", "nms_match", "RoIAlign", "RoIPool", "PrRoIPool", "DeformRoIPool", "DeformRoIPoolPack"),
        *("ModulatedDeformRoIPoolPack", "SimpleRoIAlign", "conv", "last_conv", "interpolation_conv"),
    )
)
_OWN = ("localvit_det.backbones.", "localvit_det.heads")  # others read files: the detector of an exported model
_TRANSFORMS = TYPES["transforms"]
_MODEL = frozenset().union(*TYPES.values(), OPERATORS) - _TRANSFORMS

# Packages whose long names, in configs in the newer style, stand for the registered short ones.
_PACKAGES = (*SCOPES, "localvit_det", "torch")
_WORD = re.compile(r"(?:[\w +-]|(?<=\d)\.(?=\d))*")  # names no file with an ending, in no other folder
_READS = re.compile(r"(?:\w*_)?(?:file|path|dir|url|root|ckpt|checkpoint|config|teacher)(?:_\w*)?")
_ELSEWHERE = ("backend_args", "file_client_args")  # where files are read from; they are local here
_MAX_DEPTH, _MAX_INT = 60, 1_000_001  # no channels, blocks or boxes are more
_OF_THE_RUN = (
    *("work_dir", "launcher", "load_from", "resume", "load_policy", "pretrained", "runner_type", "compile", "draw"),
    *("strategy", "strategy_wrapper", "model_wrapper_cfg", "auto_resume", "experiment_name"),
)


def read_config(content: Mapping[str, Any], source: object, trusted: bool = False) -> dict[str, Any]:
    """Read the config that a checkpoint carries: what `take` takes.

    Args:
        source: The checkpoint's name for messages.
        trusted: Take all but what belongs to the run, with data, hooks, imports and types of others; the text is not
            run for that either.

    Raises:
        CheckpointError: There is none, it is a program, or it asks for more than is allowed.
    """
    text = next((texts[key] for texts, key in _places(content)), None)
    if not text:
        raise CheckpointError(
            f"{source} is a checkpoint that carries no config: name a config, and the checkpoint with it (a training "
            "takes it by --load-from or --pretrained)."
        )
    try:
        return without_its_run(parse(text)) if trusted else take(parse(text), metainfo_in(content))
    except ValueError as error:
        raise CheckpointError(
            f"The config in {source} is refused: {error}; give a config file of your own instead of it."
        ) from error


def defuse(content: Mapping[str, Any], source: object, keys: Collection[str], advice: str = TRUST) -> None:
    """Replace config texts in a checkpoint, which MMEngine may run, by what is taken from them, or by their refusal.

    What code of the user has registered in this process may be in them, too.

    Args:
        content: The checkpoint.
        source: Its name for messages.
        keys: Of the texts that are to be replaced.
        advice: What to do about a refusal.
    """
    for texts, key in _places(content):
        if key not in keys:
            continue
        try:
            taken = take(parse(texts[key]), metainfo_in(content), _types_of_others())
        except ValueError as error:
            reason = str(error).replace(TRUST, advice)
            texts[key] = f"raise RuntimeError({f'The config in {source} is refused: {reason}.'!r})\n"
            continue
        # As MMDetection's own inference expects them.
        dataset = {"type": "CocoDataset", "metainfo": taken.pop("metainfo", None)}
        dataset["pipeline"] = taken.get("test_pipeline", [])
        visualizer = {"type": "DetLocalVisualizer", "name": "visualizer"}
        texts[key] = as_text({**taken, "test_dataloader": {"dataset": dataset}, "visualizer": visualizer})


def without_its_run(values: dict[str, Any]) -> dict[str, Any]:
    """Return a whole config without how its run was started, which says nothing about the model.

    Raises:
        NotPlain: It builds on another one.
    """
    if "_base_" in values:
        raise NotPlain("its _base_ names another config, where a whole one is needed")
    values = {key: value for key, value in values.items() if key not in _OF_THE_RUN}
    return {**values, "model": without_pretrained(values["model"])} if "model" in values else values


def _places(content: Mapping[str, Any]) -> Iterator[tuple[dict, str]]:
    """Yield where MMEngine (two places) and MMDetection 2 (`config`) put the text: the dicts that hold it, its key."""
    meta = content.get("meta")
    hub = content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    for texts, key in ((meta, "cfg"), (info, "cfg"), (meta, "config")):
        if isinstance(texts, dict) and texts.get(key):
            yield texts, key


def own_types() -> frozenset[str]:
    """Return the backbones and heads that this package registers; what holds for `TYPES` holds for them."""
    found = (item for registry in (MODELS, *MODELS.children.values()) for item in registry.module_dict.items())
    return frozenset(name for name, cls in found if cls.__module__.startswith(_OWN))


def _types_of_others() -> frozenset[str]:
    """Return the parts of models and the transforms that neither OpenMMLab's libraries nor this one have registered."""
    roots = (MODELS, TASK_UTILS, TRANSFORMS)
    found = [item for root in roots for one in (root, *root.children.values()) for item in one.module_dict.items()]
    return frozenset(name for name, cls in found if str(cls.__module__).partition(".")[0] not in _PACKAGES)


def take(values: Mapping[str, Any], dataset_meta: object = None, more: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Take from a config of plain values the model, and as far as it has them scope, pipeline, pixels' range, classes.

    Args:
        dataset_meta: What the file says about the dataset of its training; the config's own counts where it is none.
        more: Types that may be in it next to those on the list.

    Returns:
        'model', 'default_scope', 'test_pipeline', 'pixel_range' and 'metainfo'.

    Raises:
        ValueError: The model or the pipeline has a type or a value that is not on the list.
    """
    taken: dict[str, Any] = {}
    if (scope := values.get("default_scope")) is not None:
        taken["default_scope"] = _scope(scope, "default_scope")
    model = values.get("model")
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    if "data_preprocessor" in values:  # of MMSegmentation and MMPretrain, whose runner puts it there
        model = {"data_preprocessor": values["data_preprocessor"], **model}
    taken["model"] = vet(model, "model", more)
    dataset = _test_dataset(values)
    steps = dataset.get("pipeline") or values.get("test_pipeline")
    if steps:
        taken["test_pipeline"] = _vetted(list(steps), _TRANSFORMS | more, "test_pipeline", 0)
    if values.get("pixel_range") is not None:  # how the images were read, without which they look otherwise
        taken["pixel_range"] = _vetted(values["pixel_range"], frozenset(), "pixel_range", 0)
    for meta in (dataset_meta, values.get("metainfo"), dataset.get("metainfo"), {"classes": values.get("classes")}):
        if metainfo := metainfo_of(meta):
            return {**taken, "metainfo": metainfo}
    return taken


def vet(model: Mapping[str, Any], path: str, more: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a copy of a model's or a part's config; ValueError names by `path` what is not on the list or plain."""
    return _vetted(without_pretrained(model), _MODEL | own_types() | more, path, 0)


def without_pretrained(node: Any, depth: int = 0) -> Any:
    """Return a copy of a model's config that starts from no other weights; ValueError where it is nested too deep."""
    _check_depth(depth, "model")
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(item, depth + 1) for item in node if not is_pretrained(item))
    if not isinstance(node, dict):
        return node
    copied = {}
    for key, item in node.items():
        # Some backbones know by themselves that the file of their init_cfg holds weights.
        left = key == "pretrained" or is_pretrained(item) or (key == "init_cfg" and "checkpoint" in (item or ()))
        copied[key] = None if left else without_pretrained(item, depth + 1)
    return copied


def is_pretrained(node: Any) -> bool:
    """Whether a part of a config is an initialization from a file."""
    return isinstance(node, dict) and type_name(node) in ("Pretrained", "PretrainedInit")


def _vetted(value: Any, types: frozenset[str], path: str, depth: int) -> Any:
    """Return a copy of `value`; `path` is the dotted one for messages."""
    _check_depth(depth, path)
    match value:
        case None | bool() | float():
            return value
        case int() if abs(value) < _MAX_INT:
            return value
        case str() if _WORD.fullmatch(value):
            return value
        case list() | tuple():
            return type(value)(_vetted(item, types, f"{path}.{i}", depth + 1) for i, item in enumerate(value))
        case dict():
            return {key: _item(key, item, types, path, depth) for key, item in value.items() if key not in _ELSEWHERE}
    raise ValueError(f"{path}={_short(value)} is no number and no plain word: {TRUST}")


def _item(key: object, item: Any, types: frozenset[str], path: str, depth: int) -> Any:
    if not isinstance(key, str) or not key.isidentifier():
        raise ValueError(f"{path} has the key {_short(key)}, which is no name: {TRUST}")
    here = f"{path}.{key}"
    if key == "type":
        return _type(item, types, here)
    if key == "_scope_":
        return _scope(item, here)
    if isinstance(item, str) and _READS.fullmatch(key):
        raise ValueError(f"{here}={_short(item)} may name a file or an address: {TRUST}")
    return _vetted(item, types, here, depth + 1)


def _type(name: object, types: frozenset[str], path: str) -> str:
    """Return the name of a type on the list, the short form of a long one."""
    if isinstance(name, str):
        parts = name.split(".")
        if parts[-1] in types and (len(parts) == 1 or (len(parts) == 2 and parts[0] in SCOPES)):
            return name
        if parts[-1] in types and parts[0] in _PACKAGES and all(map(str.isidentifier, parts)):
            return parts[-1]
    what = "transforms" if types >= _TRANSFORMS else "networks, heads, losses and their parts"
    raise ValueError(f"{path}={_short(name)} is not on the list of {what} that a file may name: {TRUST}")


def _scope(name: object, path: str) -> str:
    if name not in SCOPES:
        raise ValueError(f"{path}={_short(name)} would import the package of that name: {TRUST}")
    return str(name)


def _test_dataset(values: Mapping[str, Any]) -> dict:
    """Return the dataset of the test, without what is wrapped around it; empty where there is none."""
    loader = values.get("test_dataloader")
    node = loader.get("dataset") if isinstance(loader, dict) else None
    for _ in range(_MAX_DEPTH):
        inner = node.get("dataset", node.get("datasets")) if isinstance(node, dict) else None
        node = inner if inner is not None else node
        if isinstance(node, (list, tuple)) and node:
            node = node[0]
    return node if isinstance(node, dict) else {}


def metainfo_in(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the classes and colors that a checkpoint names, as `metainfo_of` does."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict):
        return {}
    # CLASSES are in files of MMDetection 2.
    return metainfo_of(meta.get("dataset_meta")) or metainfo_of({"classes": meta.get("CLASSES")})


def metainfo_of(meta: object) -> dict[str, Any]:
    """Return names of classes and their colours, by names in lower case; nothing where there are no classes."""
    if not isinstance(meta, dict):
        return {}
    meta = {key.lower(): value for key, value in meta.items() if isinstance(key, str)}
    taken: dict[str, Any] = {}
    for key in ("classes", "thing_classes", "stuff_classes"):
        names = [meta[key]] if isinstance(meta.get(key), str) else meta.get(key)
        if isinstance(names, (list, tuple)) and all(map(_is_class_name, names)):
            taken[key] = tuple(map(str, names))
    colors = meta.get("palette")
    if isinstance(colors, (list, tuple)) and all(map(_is_color, colors)):
        taken["palette"] = list(map(tuple, colors))
    return taken if taken.get("classes") else {}


def _is_class_name(value: object) -> bool:
    return isinstance(value, str) or type(value) is int  # some number them


def _is_color(value: object) -> bool:
    numbers = value if isinstance(value, (list, tuple)) else ()
    return len(numbers) == 3 and all(type(number) is int and 0 <= number < 256 for number in numbers)


def _check_depth(depth: int, path: str) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{path[:60]} is nested more than {_MAX_DEPTH} deep")


def _short(value: object) -> str:
    if isinstance(value, int):
        return "a number of too many digits" if abs(value) >= _MAX_INT else str(value)
    return repr(value)[:60] if isinstance(value, str) else f"a {type(value).__name__}"
