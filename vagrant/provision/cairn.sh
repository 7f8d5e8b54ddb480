#!/bin/sh
# Cairn on a KVM host: programs and units, the store of all hosts, libvirt's hook, the daemon. $1: folder with packages or programs, $2: the store, $3: folder
# where its key lies for the other hosts. Again, it changes nothing that is there but programs and units, and starts the daemon anew: jobs go on.
set -eu
packages=$1
store=$2
keys=$3
export DEBIAN_FRONTEND=noninteractive
if ls "$packages"/*.deb > /dev/null 2>&1; then
    apt-get install -qy "$packages"/*.deb
else
    for file in cairn cairn-hook cairn.service cairn.socket; do
        [ -e "$packages/$file" ] || { echo "$packages/$file is missing: run vagrant/prepare first, then 'vagrant rsync'" >&2; exit 1; }
    done
    # Where a package has them: the units name the program there, and 'cairn hook install' looks there.
    install -m 0755 "$packages/cairn" /usr/bin/cairn
    install -D -m 0755 "$packages/cairn-hook" /usr/lib/cairn/cairn-hook
    install -m 0644 "$packages/cairn.service" "$packages/cairn.socket" /etc/systemd/system/
    systemctl daemon-reload
fi

# The first host makes the store. Its recovery key is for paper; here it goes beside the key file.
install -d -m 0700 /etc/cairn /etc/cairn/keys
key=/etc/cairn/keys/store.key
if [ ! -e "$store" ]; then
    (umask 077 && cairn init "$store" --key-file "$keys/store.key" > "$keys/recovery.txt")
fi
install -m 0600 "$keys/store.key" "$key"
cat > /etc/profile.d/cairn.sh <<EOT
export CAIRN_STORE=$store CAIRN_KEY_FILE=$key
EOT
if [ ! -e /etc/cairn/cairn.yaml ]; then
    (umask 077 && cat > /etc/cairn/cairn.yaml) <<EOT
stores:
  main: { url: $store, key_file: $key }
policies:
  guests:
    select: { names: ["*"] }
    on: [shutdown]
    stores: [main]
EOT
fi
cairn daemon --check-config
cairn hook install
systemctl enable cairn.socket cairn.service
systemctl restart cairn.service
cairn --store "$store" --key-file "$key" store info
cairn jobs
