_base_ = "./_base_/sem_fpn_80k.py"

model = dict(backbone=dict(_delete_=True, type="ShuffleTransformer", arch="tiny"))
