#!/usr/bin/env bash
# Builds the image containers/dreamtune-DIGEST.sif, where DIGEST is the first 12 hex digits of the lock's SHA-256.
# `make image` calls it, with these variables:
#   BASE=docker  (default) starts from the pinned Debian image of an image registry
#   BASE=debian  makes that base with debootstrap, as root, from MIRROR (default: the one that apt is configured with)
#   PYTHON       a Python 3.11, the image's version
# Wheels are fetched outside of the image, with this machine's pip configuration (indexes, find-links), so that none of
# that configuration gets into the image.
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-docker} PYTHON=${PYTHON:-python3} LOCK=containers/requirements.lock
image=containers/dreamtune-$(sha256sum "$LOCK" | cut -c1-12).sif

stop() {
    echo "make image: $1" >&2
    exit 1
}

if [ "$image" -nt "$LOCK" ] && [ "$image" -nt containers/dreamtune.def ] && [ "$image" -nt containers/install.sh ]; then
    echo "$image is up to date"
    exit
fi
command -v apptainer >/dev/null ||
    stop "apptainer is not on PATH; see apptainer.org, or on Debian 12, as root: bash containers/install_apptainer.sh"
[ "$("$PYTHON" -c 'import sys; print(*sys.version_info[:2])')" = "3 11" ] ||
    stop "$PYTHON is not Python 3.11, which the lock is made for; call: make image PYTHON=/path/to/python3.11"
case $BASE in
docker) base=() ;;
debian)
    command -v debootstrap >/dev/null || stop "there is no debootstrap on PATH; on Debian: apt-get install debootstrap"
    MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Label: Debian' | head -1)}
    [ -n "$MIRROR" ] || stop "apt knows no mirror of Debian 12; run apt-get update, or give MIRROR=http://…"
    base=(--build-arg BOOTSTRAP=debootstrap --build-arg "MIRROR=$MIRROR")
    ;;
*) stop "BASE=$BASE is neither docker nor debian" ;;
esac

work=$(mktemp -d "$PWD/containers/.build-XXXXXX") # on the image's disk, because /tmp may be too small for the build
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check wheel -qq --wheel-dir "$work/wheels" --requirement "$LOCK"
# zstd's level 3: a twentieth smaller than gzip's, made in a third of the time and read in half; Linux 4.14 reads it.
APPTAINER_TMPDIR=$work apptainer build "${base[@]}" --bind "$work/wheels:/mnt:ro" \
    --mksquashfs-args "-comp zstd -Xcompression-level 3" \
    --build-arg PIP_OPTIONS="--quiet --no-index --find-links /mnt" "$work/image.sif" containers/dreamtune.def ||
    stop "the build from BASE=$BASE failed, see above; without an image registry call: make image BASE=debian"
mv "$work/image.sif" "$image"
echo "$image"
