#!/bin/sh
# Installs Cairn, and of what it needs only what this host lacks, without a network. As root, in the folder of the bundle. Whether the bundle is what was
# released is said by its checksum and signature (docs/install.md), before this is run.
set -eu
cd "$(dirname "$0")"
release=$(cat RELEASE)
own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if [ "$own" != "$release" ]; then
    echo "this bundle is for Debian $release, and this host runs ${own:-something else}: take the bundle of its release" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [trusted=yes] file:$(pwd) ./" > "$work/sources.list"
apt() {
    apt-get -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User=root "$@"
}
apt update
apt install --yes --no-install-recommends cairn
