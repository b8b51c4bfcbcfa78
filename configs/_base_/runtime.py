# What the recipes of our own share: registrations, hooks, logging and checkpoints.
_base_ = ["mmdet::_base_/default_runtime.py", "./plugin.py"]

default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3, save_best="auto"),
)
