# RetinaNet on COCO, 12 epochs, one scale, in PVT's recipe: half the learning rate of Mask R-CNN.
_base_ = ["./retinanet.py", "./coco_detection.py", "./schedule_pvt_1x.py", "./runtime.py"]

optim_wrapper = dict(optimizer=dict(lr=1e-4))
