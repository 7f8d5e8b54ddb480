#!/bin/sh
# A KVM host with Cairn, on the common store. $1: address of the NFS server, $2: folder with packages or programs.
set -eu
server=$1
packages=$2
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils nfs-common \
    virtinst cloud-image-utils curl ca-certificates dnsmasq-base

# Options: docs/nfs.md.
mount_from() {
    mkdir -p "$2"
    grep -q " $2 nfs4 " /etc/fstab || echo "$server:$1 $2 nfs4 vers=4.2,hard,proto=tcp,_netdev 0 0" >> /etc/fstab
    mountpoint -q "$2" || mount "$2"
}
mount_from /srv/backup /mnt/backup
mount_from /srv/keys /mnt/keys

if ls "$packages"/*.deb > /dev/null 2>&1; then
    apt-get install -qy "$packages"/*.deb
else
    for program in cairn cairn-hook; do
        [ -x "$packages/$program" ] || { echo "$packages/$program is missing: run vagrant/prepare first, then 'vagrant rsync'" >&2; exit 1; }
    done
    install -m 0755 "$packages/cairn" /usr/local/bin/cairn
    install -D -m 0755 "$packages/cairn-hook" /usr/local/lib/cairn/cairn-hook
fi

virsh net-autostart default
virsh net-info default | grep -q '^Active: *yes' || virsh net-start default

# The first host makes the store. Its recovery key is for paper; here it goes beside the key file.
install -d -m 0700 /etc/cairn /etc/cairn/keys
store=/mnt/backup/store
if [ ! -e "$store" ]; then
    (umask 077 && cairn init "$store" --key-file /mnt/keys/store.key > /mnt/keys/recovery.txt)
fi
install -m 0600 /mnt/keys/store.key /etc/cairn/keys/store.key
cat > /etc/profile.d/cairn.sh <<EOF
export CAIRN_STORE=$store CAIRN_KEY_FILE=/etc/cairn/keys/store.key
EOF
if [ -x /usr/local/lib/cairn/cairn-hook ]; then
    cairn hook install --binary /usr/local/lib/cairn/cairn-hook
else
    cairn hook install
fi
CAIRN_STORE=$store CAIRN_KEY_FILE=/etc/cairn/keys/store.key cairn store info
