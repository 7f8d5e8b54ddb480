#!/bin/sh
# Installs Cairn's freeze hooks in a guest, beside whatever freeze hooks it has. As root: install.sh [--restart], or install.sh --remove.
#
# cairn-quiesce goes to /usr/local/sbin, hooks to /etc/cairn-quiesce/hooks.d. Where the distribution's agent package has a folder of freeze
# hooks (Debian 12, RHEL and their kin), it gets a link to cairn-quiesce; else cairn-quiesce becomes the agent's hook itself, unless another
# one is there: that one stays, and you are told. Installing twice is as good as once; a hook or a configuration of yours stays.
set -eu
from=$(cd "$(dirname "$0")" && pwd)
program=/usr/local/sbin/cairn-quiesce
config=/etc/cairn-quiesce
# Debian and most others, then RHEL.
agent_folders='/etc/qemu /etc/qemu-ga'

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

# Folder of the agent's hooks, or nothing.
drop_in() {
  for folder in $agent_folders; do
    [ -x "$folder/fsfreeze-hook" ] && [ -d "$folder/fsfreeze-hook.d" ] && echo "$folder/fsfreeze-hook.d" && return
  done
  return 0
}

link_for_agent() {
  folder=$(drop_in)
  if [ -n "$folder" ]; then
    ln -sfn "$program" "$folder/50-cairn-quiesce"
    hook=${folder%.d}
  else
    hook=/etc/qemu/fsfreeze-hook
    [ ! -e "$hook" ] || [ "$(readlink "$hook")" = "$program" ] || fail "$hook is another's; let it call \"$program\" with its argument"
    mkdir -p /etc/qemu
    ln -sfn "$program" "$hook"
  fi
}

# The agent calls a hook only if it is told to: by its arguments (RHEL), else by its configuration.
tell_agent() {
  case $hook in /etc/qemu-ga/*) return ;; esac
  file=/etc/qemu/qemu-ga.conf
  set_to=$(sed -n 's/^ *fsfreeze-hook *= *//p' "$file" 2>/dev/null | tail -n 1)
  if [ -n "$set_to" ]; then
    [ "$set_to" = "$hook" ] || fail "$file names another hook, $set_to: let that call \"$program\" with its argument, or set 'fsfreeze-hook = $hook' there"
  elif grep -qs '^\[general\]' "$file"; then
    sed -i "/^\[general\]/a fsfreeze-hook = $hook" "$file"
  else
    printf '[general]\nfsfreeze-hook = %s\n' "$hook" >>"$file"
  fi
}

install_all() {
  command -v timeout >/dev/null || fail "timeout(1) is missing: install coreutils"
  install -d -m 755 "$config/hooks.d"
  install -m 755 "$from/cairn-quiesce" "$program"
  for path in "$from"/hooks.d/*; do
    target=$config/hooks.d/${path##*/}
    # Switched off by chmod -x, it stays so.
    mode=755
    [ ! -e "$target" ] || [ -x "$target" ] || mode=644
    install -m "$mode" "$path" "$target"
  done
  link_for_agent
  tell_agent
  if [ "${1:-}" = --restart ]; then
    # Not waited for: this may be run through the agent itself.
    systemctl --no-block restart qemu-guest-agent
    echo "installed; the agent starts anew"
  else
    echo "installed; start the agent anew: systemctl restart qemu-guest-agent"
  fi
}

# A hook of the distribution stays switched on: others' hooks may be in its folder.
remove_all() {
  [ ! -x "$program" ] || "$program" thaw
  for folder in $agent_folders; do
    path=$folder/fsfreeze-hook.d/50-cairn-quiesce
    [ "$(readlink "$path" || :)" != "$program" ] || rm -f "$path"
    path=$folder/fsfreeze-hook
    if [ "$(readlink "$path" || :)" = "$program" ]; then
      rm -f "$path"
      # An agent that is told of a hook that is not there freezes nothing any more.
      sed -i "\\|^fsfreeze-hook = $path\$|d" /etc/qemu/qemu-ga.conf
      echo "start the agent anew: systemctl restart qemu-guest-agent"
    fi
  done
  for path in "$from"/hooks.d/*; do
    rm -f "$config/hooks.d/${path##*/}"
  done
  rm -f "$program"
  rm -rf /run/cairn-quiesce
  rmdir "$config/hooks.d" "$config" 2>/dev/null || :
  echo "removed"
}

[ "$(id -u)" = 0 ] || fail "must run as root"
case ${1:-} in
'' | --restart) install_all "${1:-}" ;;
--remove) remove_all ;;
*) fail "unknown argument $1; see the head of this file" ;;
esac
