#!/bin/sh
# NFS server: /srv/backup holds the store of all hosts, /srv/keys its key file, for this playground alone. $1: the network that may mount them.
set -eu
network=$1
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends nfs-kernel-server
install -d -m 0700 /srv/backup /srv/keys
for folder in /srv/backup /srv/keys; do
    echo "$folder $network(rw,sync,no_subtree_check,no_root_squash)"
done > /etc/exports.d/cairn.exports
exportfs -ra
