#!/usr/bin/env bash
# Installs Apptainer and debootstrap on a Debian 12 machine, as root: Debian 12 has no apptainer package, and that of
# Debian's unstable needs a newer C library. So its files, with that library, are unpacked under /opt/apptainer, and the
# machine's own library and packages stay as they are. `apptainer` is then on PATH, as /usr/local/bin/apptainer.
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

# The packages of unstable, by a package list of their own: the machine's apt does not learn of them.
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

# Apptainer finds its configuration from where its two programs lie: one level above bin/, and beside its libraries.
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

# Apptainer starts root with every capability and fails where root itself lacks one, as in a container or a sandbox.
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
