# What every config shares: our registrations, hooks, logging and checkpoints.
_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["localvit_det"], allow_failed_imports=False)
runner_type = "ReliableRunner"  # nothing is lost by kills, full disks or NaN: docs/training.md
# Plain BatchNorm in the model; MMEngine makes it SyncBatchNorm in distributed runs only.
sync_bn = "torch"

default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3, save_best="auto"),
)
custom_hooks = [
    dict(type="LoadPolicyHook"),  # applies load_policy where MMDetection's own scripts run the config
    dict(type="FusedEvaluationHook"),
    dict(type="ProgressBarHook"),
    dict(type="TrainingReportHook"),
    dict(type="CurvesHook"),
]
