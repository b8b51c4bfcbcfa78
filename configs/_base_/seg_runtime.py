# What configs of MMSegmentation share (`pip install '.[seg]'`): our registrations, runner and hooks.
_base_ = ["mmseg::_base_/default_runtime.py", "./plugin.py"]

custom_imports = dict(imports=["localvit_det", "localvit_det.segmentation"], allow_failed_imports=False)
custom_hooks = [dict(type="BackboneFileHook"), *_base_.custom_hooks]
