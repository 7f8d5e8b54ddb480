#!/bin/sh
# Guests with an agent from Debian's cloud image. $1: beginning of their names, $2: how many.
set -eu
prefix=$1
count=$2
url=${CAIRN_GUEST_IMAGE:-https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2}
images=/var/lib/libvirt/images
base=$images/debian-12.qcow2
if [ ! -e "$base" ]; then
    curl --fail --location --silent --show-error --retry 3 --max-time 1800 --output "$base.part" "$url"
    mv "$base.part" "$base"
fi
number=1
while [ "$number" -le "$count" ]; do
    name=$prefix-guest$number
    number=$((number + 1))
    virsh domstate "$name" > /dev/null 2>&1 && continue
    seed=$(mktemp)
    cat > "$seed" <<EOF
#cloud-config
hostname: $name
password: cairn
chpasswd: { expire: false }
package_update: true
packages: [qemu-guest-agent]
runcmd: [[systemctl, start, qemu-guest-agent]]
EOF
    cloud-localds "$images/$name-seed.iso" "$seed"
    rm -f "$seed"
    # A copy, not an overlay: every guest stands by itself, and the store shows what deduplication is worth.
    qemu-img convert -O qcow2 "$base" "$images/$name.qcow2"
    qemu-img resize "$images/$name.qcow2" 8G
    virt-install --name "$name" --memory 768 --vcpus 1 --import --osinfo debian11 --network network=default --graphics none --noautoconsole \
        --disk "path=$images/$name.qcow2,format=qcow2,bus=virtio,discard=unmap" --disk "path=$images/$name-seed.iso,device=cdrom" \
        --channel unix,target.type=virtio,target.name=org.qemu.guest_agent.0
done
virsh list --all
