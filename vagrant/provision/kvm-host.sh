#!/bin/sh
# A KVM host: libvirt, QEMU, its network, the folders of the NFS server. $1: its address. Cairn comes next, by cairn.sh.
set -eu
server=$1
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

virsh net-autostart default
virsh net-info default | grep -q '^Active: *yes' || virsh net-start default
