"""Checkpoints in and out: all that is known of them, and the only place that reads one.

In: an address or an `init_cfg` (`loading`) -> the file, of which nothing is run (`read`, `safe_pickle`,
`safe_config`) -> the model it was made for (`networks`) -> our names and shapes (`layouts`) -> into the model, or a
sentence why not (`matching`); `baselines` is for MMDetection's own Swin and PVT.
Out: `publish` trained detectors, convert official files.

`config` builds on this subpackage (a checkpoint holds a config), never the other way round. It has no `__all__`: names
are imported from their modules, so that `localvit weights` and the like load none that they do not need.
"""
