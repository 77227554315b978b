#!/usr/bin/env bash
# The inside of a lab; lab.py is its outside, and starts this. Everything here lives in namespaces of its own: nothing is
# installed, mounted or named on the machine, and when this process ends, the kernel takes all of it away.
#
#   lab.sh build   FOLDER SHARED VENV PACKAGES HOST...   makes the common disk, then goes on with:
#   lab.sh inside  FOLDER SHARED VENV PACKAGES HOST...   makes the network and obeys the lines of its input until they end:
#                                                        on HOST, off HOST, cut HOST
set -euo pipefail
stage=$1 folder=$2 shared=$3 venv=$4 packages=$5
shift 5
hosts=("$@")

address() { local i; for i in "${!hosts[@]}"; do [ "${hosts[i]}" != "$1" ] || echo "10.0.0.$((i + 1))"; done; }

overlay() { mkdir -p "$folder/$1/disk" "$folder/$1/work" "$folder/$1/root"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$folder/$1/disk,workdir=$folder/$1/work" "$folder/$1/root"; }

build() {  # this machine's system, with some packages more: a disk in memory that all hosts have below their own
    mount -t tmpfs lab "$folder"
    overlay base /
    local root=$folder/base/root
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    cp --remove-destination "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"  # packages start no services
    chmod +x "$root/usr/sbin/policy-rc.d"
    install="apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io $packages"
    DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c "$install || { apt-get update && $install; }" < /dev/null >&2
    umount --recursive "$root"
    rm -rf "$folder/base/disk/run"
}

network() {
    ip link set lo up
    ip link add switch type bridge
    ip link set switch up
    for host in "${hosts[@]}"; do
        ip netns add "$host"
        ip link add "$host" type veth peer name eth0 netns "$host"
        ip link set "$host" master switch up
        ip -n "$host" link set lo up
        ip -n "$host" link set eth0 up
        ip -n "$host" addr add "$(address "$host")/24" dev eth0
    done
}

start_host() {  # boots from a disk that is as it was left
    setsid nsenter --net="/run/netns/$1" unshare --mount --pid --uts --ipc --fork --kill-child \
        bash "$0" host "$folder" "$shared" "$venv" "$1" "${hosts[@]}" < /dev/null >&2 &
    while ! [ -e "$folder/$1/up" ]; do sleep 0.05; done
}

host() {  # the first process of a host
    local name=$packages root=$folder/$packages/root
    overlay "$name" "$folder/base/disk:/"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    for place in dev/shm tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$place"; done
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir -p "$root/run/sshd" "$root/shared" "$root$venv"
    mount --bind "$shared" "$root/shared"
    mount --bind -o ro "$venv" "$root$venv"
    [ -e "$root/etc/lab" ] || first_boot "$name" "$root"
    hostname "$name"
    touch "$folder/$name/up"
    exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -c '/usr/sbin/sshd; while :; do sleep 3600; done'
}

first_boot() {
    rm -rf "$2"/root/{.ray,.ssh,.bash_profile,.bash_login,.cache/onehour}
    : > "$2/root/.profile"
    : > "$2/root/.bashrc"
    { echo "127.0.0.1 localhost"; echo "127.0.1.1 $1"  # as the installers of Debian and Ubuntu write it
      for each in "${hosts[@]}"; do echo "$(address "$each") $each"; done; } > "$2/etc/hosts"
    mkdir -m 700 "$2/root/.ssh"
    cp "$folder/key.pub" "$2/root/.ssh/authorized_keys"
    [ "$1" != "${hosts[0]}" ] || cp "$folder/key" "$2/root/.ssh/id_ed25519"  # the first is where people sit
    touch "$2/etc/lab"
}

first_process() { awk '{print $1}' "/proc/$1/task/$1/children"; }

case $stage in
build)
    build
    ssh-keygen -q -t ed25519 -N '' -f "$folder/key"
    exec unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc bash "$0" inside "$folder" "$shared" "$venv" "" "$@" ;;
host)
    host ;;
inside)
    mount -t tmpfs tmpfs /run  # where ip names its namespaces
    network
    declare -A pids
    echo ready
    while read -r verb name; do
        case $verb in
        on) ip link set "$name" up; start_host "$name"; pids[$name]=$!; first_process "${pids[$name]}" ;;
        off) kill -9 "${pids[$name]}"; rm "$folder/$name/up"; echo "off" ;;
        cut) ip link set "$name" down; echo "cut" ;;
        esac
    done ;;
esac
