if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ]; then
    # As the distribution and the admin have it (systemd.preset).
    systemctl --no-reload preset cairn.socket cairn.service || :
    echo "cairn: 'systemctl enable --now cairn.service' starts the daemon, 'cairn hook install' lets libvirt tell it what happens to domains"
elif [ -e /etc/libvirt/hooks/qemu.d/cairn ]; then
    cairn hook install --quiet || echo "cairn: libvirt's hook is of an older version; see 'cairn hook status'" >&2
fi
