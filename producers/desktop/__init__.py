"""Live capture on X11: pointer, wheel, key classes, window focus.

`keys.py` turns a key into its class, `focus.py` says which application is in
front, `indicator.py` shows that recording is on, `capture.py` joins them to a
recorder.
"""
