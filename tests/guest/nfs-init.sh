#!/bin/busybox sh
# Init of an NFS client: modules, network, the guest agent. Mounting is the suite's affair.
# Every loop has an end; when something is missing the console says what, and the agent does not come up.
/bin/busybox mkdir -p /proc /sys /dev /run /var/lib /tmp /etc /mnt/nfs
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
ln -s /run /var/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read -r module; do
  insmod "/modules/$module" 2>/dev/null
done < /modules/order
hostname "$(sed 's/.*client=\([a-z0-9]*\).*/\1/' /proc/cmdline)"

wait_for() { # SECONDS COMMAND...
  left=$(($1 * 10)); shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "nfs client: gave up waiting: $*"; return 1; }
    sleep 0.1
  done
}
ip link set lo up
wait_for 30 test -e /sys/class/net/eth0
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2 || echo "nfs client: no network"

mkdir -p /dev/virtio-ports
agent_port() {
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
    ln -sf "/dev/${port##*/}" /dev/virtio-ports/org.qemu.guest_agent.0
    return 0
  done
  return 1
}
wait_for 30 agent_port
while true; do
  qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
  sleep 0.2
done
