#!/bin/busybox sh
# Init of the lab's guest: modules, both disks, the guest agent. The writer waits until it is told to start.
# Every loop has an end; when something is missing the console says what, and the agent does not come up.
/bin/busybox mkdir -p /proc /sys /dev /run /var /tmp /mnt/a /mnt/b
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
ln -s /run /var/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read -r module; do
  insmod "/modules/$module" 2>/dev/null
done < /modules/order

wait_for() { # SECONDS COMMAND...
  left=$(($1 * 10)); shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "lab guest: gave up waiting: $*"; return 1; }
    sleep 0.1
  done
}
# A device node can be there before its queue answers.
for disk in a b; do
  wait_for 30 head -c 512 /dev/vd$disk && mount -t ext4 -o discard /dev/vd$disk /mnt/$disk \
    || echo "lab guest: /dev/vd$disk is not mounted"
done
ip link set lo up

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
# A second port, for a word from the host while the agent is not the real one, or is frozen. It is opened once and stays open:
# libvirt 9.0 cannot handle a port that opens or closes while a backup job runs (docs/lab.md).
word_port=/dev/$(basename "$(dirname "$(grep -l org.cairn.lab.0 /sys/class/virtio-ports/*/name)")")
(exec 3<> "$word_port"
while true; do
  word=
  read -r word <&3
  case "$word" in
    leave) kill -9 "$(cat /run/instead.pid)" && echo gone >&3 ;;
    kill-agent) kill -9 "$(pidof qemu-ga)" && echo gone >&3 ;;
  esac
  sleep 0.3
done) 2>/dev/null &
# As init it reaps; the agent is started again should it end. A suite may put another program in its place
# (see tests/src/imposter.rs).
while true; do
  if [ -f /run/agent.instead ]; then
    sh /run/agent.instead &
    echo $! > /run/instead.pid
    wait $!
    rm -f /run/agent.instead
  else
    qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
  fi
  sleep 0.2
done
