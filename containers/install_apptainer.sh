#!/usr/bin/env bash
# Installs Apptainer and debootstrap on a Debian 12 machine, as root. Debian 12 has no apptainer package, and the one in
# Debian unstable needs a newer C library. So the package is unpacked under /opt/apptainer together with that library;
# the machine's own libraries and packages are not touched. The command is /usr/local/bin/apptainer.
set -euo pipefail
TARGET=/opt/apptainer COMMAND=/usr/local/bin/apptainer

stop() {
    echo "install_apptainer.sh: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || stop "this installs packages, so it must be run as root"
command -v apt-get >/dev/null || stop "this is for Debian 12; elsewhere see https://apptainer.org/docs/admin"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends \
    ca-certificates debian-archive-keyring debootstrap libcap2-bin patchelf squashfs-tools uidmap >/dev/null
apptainer --version 2>/dev/null && exit

# Fetch packages of unstable with separate package lists, so that the machine's apt does not see unstable.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)
[ -n "$mirror" ] || stop "apt knows no mirror of Debian; add one to its sources"
work=$(mktemp -d)
trap 'rm -rf "$work" "$TARGET.new"' EXIT
mkdir -p "$work"/{lists,archives}/partial "$work/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
unstable() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" \
        -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- "$@"
}
unstable update
(cd "$work" && unstable download apptainer libc6 libseccomp2 libsqlite3-0)
for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/root"; done

# Apptainer's two programs look for etc/ and var/ relative to their own paths: one beside bin/, the other in lib/.
rm -rf "$TARGET.new"
mv "$work/root/usr" "$TARGET.new"
cp -a "$work/root/etc" "$work/root/var" "$TARGET.new"
ln -s ../etc ../var "$TARGET.new/lib"
libraries=lib/$(uname -m)-linux-gnu
for program in bin/apptainer "$libraries/apptainer/bin/starter"; do
    loader=$(basename "$(patchelf --print-interpreter "$TARGET.new/$program")")
    patchelf --set-interpreter "$TARGET/$libraries/$loader" --force-rpath --set-rpath "$TARGET/$libraries" \
        "$TARGET.new/$program"
done
rm -rf "$TARGET"
mv "$TARGET.new" "$TARGET"

# For root, Apptainer starts containers with every capability, and fails if root lacks one, as root does in a sandbox:
# so let it drop those that are missing.
all=$(((1 << ($(cat /proc/sys/kernel/cap_last_cap) + 1)) - 1))
held=$((16#$(sed -n 's/^CapPrm:\s*//p' /proc/self/status)))
missing=$(capsh --decode="$(printf %x $((all & ~held)))" | sed 's/.*=//')
cat >"$COMMAND" <<END
#!/bin/sh
export APPTAINER_DROP_CAPS="\${APPTAINER_DROP_CAPS-$missing}"
exec $TARGET/bin/apptainer "\$@"
END
chmod +x "$COMMAND"
apptainer --version
