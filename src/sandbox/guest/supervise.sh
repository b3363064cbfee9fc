# Runs on the outer machine, one per host, in a session of its own: starts systemd-nspawn and, when the host
# reboots itself, starts it again. $1 is a file with one cgroup per line, $2 the file for our process id, the
# rest is the systemd-nspawn command. We sit in <cgroup>/loop and the host in <cgroup>/host: on cgroup v2 a
# cgroup that hands out controllers must have no process of its own.
cgroups=$1
pid_file=$2
shift 2

enter() {
  while read -r base; do
    echo 0 > "$base/$1/cgroup.procs" || exit 1
  done < "$cgroups"
}

enter loop
echo $$ > "$pid_file"
while :; do
  (enter host && exec "$@")
  status=$?
  # 133: the host asked for a reboot (systemd-nspawn --keep-unit leaves restarting to its manager).
  [ "$status" -eq 133 ] || exit "$status"
done
