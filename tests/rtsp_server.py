"""Run by the system's Python (it has GStreamer's bindings): an RTSP camera that plays a file, or a test picture, live.

`python3 rtsp_server.py PORT [FILE]` prints "ready" once it listens at rtsp://127.0.0.1:PORT/live.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

TEST_PICTURE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
FILE = (
    "( filesrc location={path} ! qtdemux name=d "
    "d.video_0 ! queue ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 "
    "d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )"
)


def main(port: str, path: str = "") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
    factory = GstRtspServer.RTSPMediaFactory(launch=FILE.format(path=path) if path else TEST_PICTURE)
    factory.set_shared(True)
    server.get_mount_points().add_factory("/live", factory)
    assert server.attach(None), "the port is taken"
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
