#!/bin/sh
# Compile the lock files from pyproject.toml. Each is a superset of the one
# before it, and none names an index: they install from whichever one pip is
# set up to use.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --native-tls --generate-hashes --no-header \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@"
}
compile pyproject.toml -o requirements/base.txt
compile pyproject.toml -c requirements/base.txt --extra streams --extra store --extra embedded --extra build \
    -o requirements/demo.txt
compile pyproject.toml -c requirements/demo.txt --extra streams --extra store --extra embedded --extra build \
    --extra dev -o requirements/dev.txt
# pynput asks for evdev, which has no wheel and needs a compiler and kernel
# headers; only its uinput backend uses it, and we use the X11 one. So these
# few are locked without it and installed with --no-deps.
compile requirements/desktop.in --no-emit-package evdev -o requirements/desktop.txt
