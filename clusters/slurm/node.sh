#!/usr/bin/env bash
# What train.sbatch starts on each node: Ray, and on the first node the training, whose exit code is the job's. What Slurm
# tells this shell's process group is for the training, which hears it from this shell, once. Ray has a session of its own
# and does not hear it. Where Slurm has no patience left and kills this shell, the training and Ray end, too.
set -uo pipefail
. clusters/address.sh "$HEAD"
port=6379
node=(--node-ip-address="$ADDRESS" --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
      --object-store-memory=2000000000 --disable-usage-stats)

serve() {
    trap : TERM  # the first node hears it as well, and decides
    for _ in {1..300}; do (: < "/dev/tcp/$HEAD/$port") 2>/dev/null && break || sleep 1; done
    setsid --wait bash clusters/slurm/ray.sh $$ --address="$HEAD:$port" "${node[@]}"
}

train() {
    each=${SLURM_GPUS_ON_NODE:-1}
    name=--name
    [ ! -e "$RUNS/$RUN/config.json" ] || name=--resume
    setsid setpriv --pdeathsig KILL python -m onehour train "$@" "$name=$RUN" --runs="$RUNS" --address="$HEAD:$port" \
        --wait=10m --workers=$((SLURM_NNODES * each)) --cpus-per-worker=$((SLURM_CPUS_ON_NODE / each)) \
        ${SLURM_GPUS_ON_NODE:+--gpu} &
    training=$!
    trap 'kill -TERM "$training"' TERM
    while wait "$training"; code=$?; kill -0 "$training" 2>/dev/null; do :; done  # a signal ends wait, too
    return "$code"
}

if [ "$SLURM_PROCID" -gt 0 ]; then
    serve > /dev/null
    exit 0  # if Ray did not start here, the training waits for this node, and says so
fi
exec 3< <(setsid bash clusters/slurm/ray.sh $$ --head --port="$port" --dashboard-host=127.0.0.1 "${node[@]}")
read -r _ <&3
train "$@"
code=$?
setsid --wait ray stop > /dev/null
cat <&3  # to its end
exit "$code"
