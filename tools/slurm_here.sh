#!/usr/bin/env bash
# Slurm on this machine alone, for tests:  tools/slurm_here.sh start|stop [FOLDER]
# As root on Debian or Ubuntu. `start` installs what is missing, and does nothing where it already runs.
# Everything is kept in FOLDER (default: /tmp/slurm_here); clients find it by SLURM_CONF=FOLDER/slurm.conf.
# No accounting: sacct does not answer. The node claims eight CPUs, and a GPU that is not there.
set -euo pipefail

folder=$(realpath -m "${2:-/tmp/slurm_here}")
export SLURM_CONF=$folder/slurm.conf

is_up() { [ -e "$SLURM_CONF" ] && timeout 5 sinfo -h >/dev/null 2>&1; } # sinfo waits for its file

start() {
  if ! command -v slurmctld slurmd munged >/dev/null; then
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge >&2
  fi
  if is_up; then return; fi
  mkdir -p "$folder"/{munge,state,spool,log}
  chown munge: "$folder/munge"
  chmod 755 "$folder" "$folder/munge"
  local node memory
  node=$(hostname -s)
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  cat >"$SLURM_CONF" <<CONF
ClusterName=here
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=46817
SlurmdPort=46818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=2
MinJobAge=300
KillWait=5
ReturnToService=2
MailProg=/bin/true
GresTypes=gpu
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=8 RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=1-00:00:00 State=UP
CONF
  echo "NodeName=$node Name=gpu File=/dev/null" >"$folder/gres.conf"
  dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
  chown munge: "$folder/munge/key"
  chmod 400 "$folder/munge/key"
  runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  slurmctld
  slurmd
  for _ in $(seq 100); do
    if [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; then return; fi
    sleep 0.2
  done
  echo "the node did not come up; see $folder/log" >&2
  tail -n 5 "$folder"/log/* >&2
  stop
  exit 1
}

stop() {
  [ -d "$folder" ] || return 0
  if is_up; then
    scancel --quiet --signal=KILL --full --state=RUNNING --user=root || true
    scancel --quiet --user=root || true
    for _ in $(seq 50); do
      [ -n "$(squeue -h -t RUNNING,COMPLETING 2>/dev/null)" ] || break
      sleep 0.2
    done
  fi
  local file pid
  for file in slurmd.pid slurmctld.pid munge/pid; do
    pid=$(cat "$folder/$file" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || continue 2
      sleep 0.1
    done
    kill -KILL "$pid"
  done
  rm -rf "$folder"
}

case "${1:-}" in
  start) start && echo "export SLURM_CONF=$SLURM_CONF" ;;
  stop) stop ;;
  *)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
    ;;
esac
