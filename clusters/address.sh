# Which of this machine's addresses leads to the head: . address.sh HEAD_IP sets ADDRESS, and GLOO_SOCKET_IFNAME to the
# interface that has it. Left to itself, gloo takes the address of the machine's name, which Debian and Ubuntu make
# 127.0.1.1, and Ray asks for the way to the internet, which need not be the way to the other nodes.
ADDRESS=$(ip -o route get "$1" | sed -n 's/.* src \([^ ]*\).*/\1/p')
GLOO_SOCKET_IFNAME=$(ip -o address show to "$ADDRESS" | awk '{ print $2; exit }')
export GLOO_SOCKET_IFNAME
