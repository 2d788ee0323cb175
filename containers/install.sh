#!/bin/sh
# Installs the lock into /opt/dreamtune-venv, in a Debian 12 base; both container definitions run it. Nobody must have
# the project in that folder: a work folder is mounted under its own name, over what the image has there.
# Arguments go to pip: where wheels come from.
set -eu

# torch.compile and Triton compile their kernels when a job runs: that takes a compiler and Python's headers.
# A manifest names the commit of the mounted code: that takes git.
export DEBIAN_FRONTEND=noninteractive
apt-get -o APT::Sandbox::User=root update -q
apt-get -o APT::Sandbox::User=root install -q --yes --no-install-recommends \
    ca-certificates g++ git python3-dev python3-venv
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt

# The compiled Python files stay: in an image that is read-only, each job would compile them again.
python3 -m venv /opt/dreamtune-venv
/opt/dreamtune-venv/bin/pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore "$@" \
    --requirement /opt/dreamtune-venv/requirements.lock
