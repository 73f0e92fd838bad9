# rt-avsac on a Jetson, with the system's CUDA and TensorRT (TensorRT 11 does not support JetPack). Not run here.
#
#   JetPack 6.2 (Orin: Python 3.10, CUDA 12.6, TensorRT 10.3):
#     docker build -f docker/jetson.Dockerfile --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 -t rt-avsac .
#   JetPack 7 (Orin and Thor: Python 3.12, CUDA 13, TensorRT 10.16): give its image as BASE.
#   docker run --rm -it --runtime nvidia --network host --device /dev/video0 --device /dev/snd \
#     -v rt-avsac-cache:/cache rt-avsac live --camera 0 --mic default --backend tensorrt
#
# The engine is built on the device at the first start (minutes) and kept in the cache volume.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}

RUN apt-get update && apt-get install -y --no-install-recommends \
        python3-pip python3-venv python3-libnvinfer python3-opencv libportaudio2 libasound2-plugins \
    && rm -rf /var/lib/apt/lists/*

# --system-site-packages: TensorRT's Python module and an OpenCV with GStreamer (CSI cameras) come from JetPack
RUN python3 -m venv --system-site-packages /opt/rt-avsac
ENV PATH=/opt/rt-avsac/bin:$PATH XDG_CACHE_HOME=/cache

COPY . /src
# torch's CPU build is enough: it only writes the graph. The one from PyPI brings CUDA 13, which JetPack 6 cannot run
# and which excludes the cuda-python of its CUDA 12. numpy < 2: the system's OpenCV is built against numpy 1. No OpenCV
# wheel, which would hide the system's.
ARG CUDA_BINDINGS="cuda-bindings>=12.6,<13"
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.11,<2.14" \
    && pip install --no-cache-dir "/src" "${CUDA_BINDINGS}" "numpy>=1.26,<2" \
        "av>=14" "safetensors>=0.5" "sounddevice>=0.5" "torch>=2.11,<2.14" "onnx>=1.17" "onnxscript>=0.5" \
        "tomli>=2; python_version < '3.11'" \
    && rm -rf /src

ENTRYPOINT ["rt-avsac"]
