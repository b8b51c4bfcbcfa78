# RTMDet-Ins (size l), the recipe that MMDetection has for RTMDet with a Swin: 100 epochs, the last 10 without mosaics,
# norms of groups in neck and head, which batches of any size can train. A config names its backbone without
# `_delete_`, which keeps out_indices.
_base_ = "mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py"

custom_imports = dict(imports=["localvit_det"], allow_failed_imports=False)
runner_type = "ReliableRunner"
sync_bn = "torch"

norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    data_preprocessor=dict(
        _delete_=True,
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(_delete_=True, type="ShuffleTransformer", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)

max_epochs, last_epochs, base_lr = 100, 10, 1e-3
train_cfg = dict(max_epochs=max_epochs, val_interval=10, dynamic_intervals=[(max_epochs - last_epochs, 1)])
optim_wrapper = dict(constructor="BackboneConstructor", optimizer=dict(lr=base_lr))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.05,  # of whatever the rate is scaled to
        begin=max_epochs // 2,
        end=max_epochs,
        T_max=max_epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=128)  # 4 GPUs with 32 images each: what base_lr is meant for
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(
        type="PipelineSwitchHook",
        switch_epoch=max_epochs - last_epochs,
        switch_pipeline={{_base_.train_pipeline_stage2}},
    ),
    dict(type="LoadPolicyHook"),
    dict(type="FusedEvaluationHook"),
    dict(type="ProgressBarHook"),
    dict(type="TrainingReportHook"),
    dict(type="CurvesHook"),
    dict(type="BrokenImagesHook"),
]
