"""The command `localvit`; the library is `localvit_det`.

It stands next to the library because some things have to be in place before PyTorch starts, which importing anything of
`localvit_det` does.
"""
