#!/bin/sh
# First thing that runs in a sandbox host: what a real machine's kernel, firmware and DHCP would have done.
set -eu
. /etc/provision-sandbox/network

# Kubernetes mounts volumes inside pods and wants them seen outside: as on a real machine, / must propagate.
mount --make-rshared /

# cgroup v1: the controllers arrive read-only. A plain remount answers "busy", a bind remount works.
for dir in /sys/fs/cgroup/*; do
  if mountpoint -q "$dir"; then
    mount -o remount,bind,rw "$dir" || echo "sandbox: $dir stays read-only" >&2
  fi
done

# A new network namespace copies this from the outer machine, where the sandbox has switched it on.
echo 0 > /proc/sys/net/ipv4/ip_forward

ip link set lo up
ip address replace "$ADDRESS/$PREFIX" dev host0
ip link set host0 up
# A host without a network has no way out.
[ -z "${GATEWAY:-}" ] || ip route replace default via "$GATEWAY" dev host0
