# Ends the Ray node that was started last on this machine, or in the session that is named, when its head is gone, or a
# process of this machine, where one is named: bash follow-head.sh HEAD_IP [PROCESS SESSION]
# Ray itself would take a minute to notice, and then leave its agents behind: they wait for the head to hear their farewell.
raylet=$(pgrep --newest --exact ${3:+--session "$3"} raylet)
session=${3:-$(ps -o sid= -p "$raylet" | tr -d ' ')}
[ "$session" ] || exit
head_has_ended() { [[ $( (: < "/dev/tcp/$1/6379") 2>&1) = *refused* ]]; }  # one that is silent may come back
while kill -0 "$raylet" 2>/dev/null && kill -0 "${2:-$$}" 2>/dev/null && ! head_has_ended "$1"; do sleep 2; done
pkill --session "$session"
for _ in {1..5}; do pgrep --session "$session" > /dev/null || exit; sleep 1; done
pkill -KILL --session "$session"
