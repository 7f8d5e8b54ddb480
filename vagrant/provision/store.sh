#!/bin/sh
# NFS server: /srv/backup holds the store of all hosts. $1: the network that may mount it.
set -eu
network=$1
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends nfs-kernel-server
install -d -m 0700 /srv/backup
echo "/srv/backup $network(rw,sync,no_subtree_check,no_root_squash)" > /etc/exports.d/cairn.exports
exportfs -ra
