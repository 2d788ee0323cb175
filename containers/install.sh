#!/bin/sh
# Installs the lock's packages into /opt/dreamtune-venv of a Debian 12 image; both container definitions run it. The
# folder's name is one that no work folder has, because a job's work folder hides the image's folder of the same name.
# Arguments are passed on to pip, to say where wheels come from.
set -eu

# torch.compile and Triton need a compiler and Python's headers, because they compile kernels when a job runs; git is
# needed to record the commit in manifests.
export DEBIAN_FRONTEND=noninteractive
apt-get -o APT::Sandbox::User=root update -q
apt-get -o APT::Sandbox::User=root install -q --yes --no-install-recommends \
    ca-certificates g++ git python3-dev python3-venv
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt

# Python's compiled files are kept: the image is read-only, so each job would compile them again.
python3 -m venv /opt/dreamtune-venv
/opt/dreamtune-venv/bin/pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore "$@" \
    --requirement /opt/dreamtune-venv/requirements.lock
