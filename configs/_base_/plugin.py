# What a config of MMDetection's own needs to run here: our registrations, runner and hooks. One that has custom_imports
# of its own cannot have this file as a second _base_, and repeats these lines: docs/training.md.
custom_imports = dict(imports=["localvit_det"], allow_failed_imports=False)
runner_type = "ReliableRunner"  # nothing is lost by kills, full disks or NaN: docs/training.md
# Plain BatchNorm in the model; MMEngine makes it SyncBatchNorm in distributed runs only.
sync_bn = "torch"
custom_hooks = [
    dict(type="LoadPolicyHook"),  # applies load_policy where MMDetection's own scripts run the config
    dict(type="FusedEvaluationHook"),
    dict(type="ProgressBarHook"),
    dict(type="TrainingReportHook"),
    dict(type="CurvesHook"),
    dict(type="BrokenImagesHook"),  # applies broken_images, max_pixels and pixel_range, likewise
]
