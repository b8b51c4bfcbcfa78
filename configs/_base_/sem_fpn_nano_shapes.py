# A Semantic FPN small enough for a CPU.
_base_ = ["./sem_fpn.py", "./seg_nano_shapes.py"]

channels, num_classes = 64, 4
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels),
    decode_head=dict(in_channels=[channels] * 4, channels=32, num_classes=num_classes),
)
