#!/usr/bin/env bash
# Sets up everything the tests need in an environment of its own (.venv, made anew) and runs them. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

# A sound server and a microphone, network cameras, a browser, a C++ compiler: the tests drive the real things.
packages=(
  pulseaudio pulseaudio-utils libasound2-plugins libportaudio2 ffmpeg
  g++ libzmq3-dev nlohmann-json3-dev zlib1g-dev chromium
  gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-tools
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

python3 -m venv --clear .venv
.venv/bin/pip install -q -e '.[test]'
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  # Torch-TensorRT that needs no GPU; it asks for an older tensorrt-rtx, which builds no int8 convolutions
  .venv/bin/pip install -q --no-deps torch-tensorrt-rtx==2.13.0 dllist==2.0.0
fi
exec .venv/bin/python -m pytest "$@"
