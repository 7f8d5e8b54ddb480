#!/bin/sh
# A KVM host: libvirt, QEMU, its network. Cairn comes next, by the role of ansible/.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils \
    virtinst cloud-image-utils curl ca-certificates dnsmasq-base python3-apt

virsh net-autostart default
virsh net-info default | grep -q '^Active: *yes' || virsh net-start default
