"""rt-avsac: which pixels are making the sound, live, from a camera and a microphone.

A camera frame and the second of audio that ends at it go through AVSAC, a bidirectional audio-visual
segmentation network; the masks of the sounding objects leave over ZeroMQ. A robot that only listens
imports `rt_avsac.client`, which needs numpy and pyzmq and nothing else.
"""

__version__ = "0.1.0"
