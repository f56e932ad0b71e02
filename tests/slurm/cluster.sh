#!/usr/bin/env bash
# A Slurm cluster of one node with two cards that are none, on 127.0.0.1, under a temporary folder; for tests.
#   apt-get install slurmctld slurmd slurm-client munge      (Debian's packages; as root)
#   tests/slurm/cluster.sh start          prints the line that tells other commands of it:  export SLURM_CONF=...
#   tests/slurm/cluster.sh stop           ends what start began
# There is no accounting, as on many small clusters: what depends on it is harder there.
set -euo pipefail
DIR=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-for-tests}
CONF=$DIR/slurm.conf

start() {
    [ "$(id -u)" = 0 ] || { echo "needs root: slurmd starts jobs for others" >&2; exit 1; }
    [ ! -e "$DIR" ] || { echo "$DIR is there already: $0 stop" >&2; exit 1; }
    mkdir -p "$DIR"/{ctld,d}
    write_conf
    start_munged
    SLURM_CONF=$CONF setsid slurmctld -D -f "$CONF" >"$DIR/slurmctld.out" 2>&1 </dev/null &
    echo $! >"$DIR/slurmctld.pid"
    SLURM_CONF=$CONF setsid slurmd -D -N node -f "$CONF" >"$DIR/slurmd.out" 2>&1 </dev/null &
    echo $! >"$DIR/slurmd.pid"
    wait_until_idle
    echo "export SLURM_CONF=$CONF"
}

write_conf() {
    local memory_mb cores
    memory_mb=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cores=$(nproc)
    cat >"$CONF" <<END
ClusterName=tests
SlurmctldHost=$(hostname)(127.0.0.1)
# without it both daemons listen on every address
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# how long a job that was put back waits, in seconds
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$DIR/ctld
SlurmdSpoolDir=$DIR/d
SlurmctldPidFile=$DIR/ctld.own.pid
SlurmdPidFile=$DIR/d.own.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobRequeue=1
MinJobAge=20
GresTypes=gpu
NodeName=node NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory_mb Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    echo "NodeName=node Name=gpu File=/dev/tty[0-1]" >"$DIR/gres.conf"
}

# a Unix socket only, with a key of its own
start_munged() {
    dd if=/dev/urandom of="$DIR/munge.key" bs=128 count=1 status=none
    chmod 0600 "$DIR/munge.key"
    setsid munged --foreground --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" \
        --pid-file="$DIR/munged.own.pid" --log-file="$DIR/munged.log" --seed-file="$DIR/munged.seed" \
        >"$DIR/munged.out" 2>&1 </dev/null &
    echo $! >"$DIR/munged.pid"
}

wait_until_idle() {
    for _ in $(seq 60); do
        [ "$(SLURM_CONF=$CONF sinfo -h -o %T 2>/dev/null)" != idle ] || return 0
        sleep 1
    done
    echo "the node did not come up; see $DIR/*.out" >&2
    tail -n 5 "$DIR"/*.out >&2
    exit 1
}

stop() {
    [ -e "$CONF" ] || { echo "nothing was started in $DIR" >&2; exit 1; }
    SLURM_CONF=$CONF scancel --state=RUNNING,PENDING --user=root 2>/dev/null || true
    for name in slurmd slurmctld munged; do
        kill "$(cat "$DIR/$name.pid")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$DIR"
}

case ${1-} in
    start | stop) "$1" ;;
    *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
