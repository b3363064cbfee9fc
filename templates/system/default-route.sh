#!/bin/sh
# Managed by provision. A default route that leads nowhere, where there is none: through the interface that has the machine's
# address, so that Kubernetes takes this address for the node's. A real one, should it ever come, is preferred.
set -eu
[ -z "$(ip -4 route show default)" ] || exit 0
device=$(ip -o -4 address show up scope global | sed -n '1s/^[0-9]*: *\([^ ]*\) .*/\1/p')
if [ -z "$device" ]; then
  echo "no network interface has an address yet" >&2
  exit 1
fi
ip -4 route add default dev "$device" metric 65535
