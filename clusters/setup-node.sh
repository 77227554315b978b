#!/usr/bin/env bash
# Makes an Ubuntu machine a node: bash setup-node.sh [PACKAGE ...]
# The packages that onehour imports, and those that are named, go to ~/venv at the versions of the requirements.lock beside
# this file; onehour itself comes with each job. A second call installs nothing. The image's own Python is used, so all
# nodes of a cluster need the same Ubuntu.
set -euo pipefail
cd "$(dirname "$0")"

# An image that was made of a node has ~/venv already. A new machine updates itself while it starts, and holds apt's lock.
if [ ! -x ~/venv/bin/pip ]; then
    cloud-init status --wait >/dev/null || true
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install --yes python3-venv
    python3 -m venv ~/venv
fi
~/venv/bin/pip install --quiet --disable-pip-version-check --constraint requirements.lock \
    torch 'ray[default,train,tune]' filelock fsspec matplotlib numpy optuna plotext pyarrow safetensors scikit-learn \
    gguf jinja2 tensorboardX tokenizers tyro "$@"

# Every shell of this node finds ray, and speaks to the cluster with the token. Ray writes the token readable to all.
chmod 600 ~/.ray/auth_token
line='export PATH="$HOME/venv/bin:$PATH" RAY_AUTH_MODE=token'
grep -qxF "$line" ~/.bashrc || echo "$line" >> ~/.bashrc
