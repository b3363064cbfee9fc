#!/bin/sh
# Runs once per cached root filesystem, called by mmdebstrap with the new root as $1.
set -eu
root=$1
here=$(dirname "$0")

cp -R --no-preserve=ownership "$here/overlay/." "$root/"
chmod 0755 "$root/usr/local/lib/provision-sandbox/boot"
chmod 0440 "$root/etc/sudoers.d/ops"

# ops may become root without a password; plain may not become root at all.
for user in ops plain; do
  chroot "$root" useradd --create-home --shell /bin/bash "$user"
done

# mmdebstrap keeps the sources it was given under a name of its own; a real machine has them here.
mv "$root/etc/apt/sources.list.d/0000sources.list" "$root/etc/apt/sources.list"

# Every host gets its own host key and machine id; the cached ones must not be shared.
rm -f "$root"/etc/ssh/ssh_host_*
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

# The kernel is shared with the outer machine: no replay of its device events, no kernel-wide sysctls at boot.
# The apt timers would take the dpkg lock at a random moment.
for unit in systemd-udev-trigger.service apt-daily.timer apt-daily-upgrade.timer; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
for file in "$root"/usr/lib/sysctl.d/*.conf; do
  if grep -qE '^[[:space:]]*(kernel|fs|vm)\.' "$file"; then
    ln -sf /dev/null "$root/etc/sysctl.d/$(basename "$file")"
  fi
done

mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -sf ../provision-sandbox-boot.service "$root/etc/systemd/system/sysinit.target.wants/"
chroot "$root" update-ca-certificates
