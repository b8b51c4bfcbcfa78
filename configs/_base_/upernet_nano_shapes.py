# A UPerNet small enough for a CPU.
_base_ = ["./upernet.py", "./seg_nano_shapes.py"]

channels, num_classes = 64, 4
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=channels, num_classes=num_classes),
    auxiliary_head=dict(in_channels=128, channels=channels, num_classes=num_classes),
)
