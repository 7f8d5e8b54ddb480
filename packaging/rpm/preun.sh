if [ "$1" -eq 0 ]; then
    runs=$(find /var/lib/cairn/runs -mindepth 1 -maxdepth 1 -printf '%f ' 2> /dev/null || :)
    if [ -n "$runs" ]; then
        echo "cairn: these domains run from restore points, which this program serves: $runs" >&2
        echo "cairn: make each an ordinary one ('cairn keep NAME') or remove it ('cairn discard NAME'), then remove the package" >&2
        exit 1
    fi
    if [ -e /etc/libvirt/hooks/qemu.d/cairn ]; then
        cairn hook remove --quiet || :
    fi
    systemctl --no-reload disable --now cairn.socket cairn.service || :
fi
