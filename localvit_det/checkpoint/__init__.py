"""Checkpoints in and out: all that is known of them, and the only place that reads one.

In: an address of MMEngine's (`entrances`) -> the file, of which nothing is run (`read`, `records`) -> the model it was
made for (`identify`) -> our names and shapes (`layouts`) -> into the model, or a sentence why not (`fit`, `report`;
`load` where MMEngine loads, `baselines` for MMDetection's own Swin and PVT).
Out: `convert` official files, `publish` trained detectors.
"""
