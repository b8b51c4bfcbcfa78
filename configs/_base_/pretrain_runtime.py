# What configs of MMPretrain share (`pip install '.[pretrain]'`): our registrations, runner and hooks.
_base_ = ["mmpretrain::_base_/default_runtime.py", "./plugin.py"]

custom_imports = dict(imports=["localvit_det", "localvit_det.pretraining"], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="accuracy/top1"))
custom_hooks = [dict(type="BackboneFileHook"), *_base_.custom_hooks]
