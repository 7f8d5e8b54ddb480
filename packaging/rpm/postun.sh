if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        # Where it runs; jobs go on.
        systemctl try-restart cairn.service || :
    fi
fi
if [ "$1" -eq 0 ]; then
    echo "cairn: keys in /etc/cairn/keys and records in /var/lib/cairn were left"
fi
