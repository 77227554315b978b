# Ray on a node of the job, until the process or the head is gone: bash clusters/slurm/ray.sh PROCESS OPTION..., the options
# of ray start. Says when Ray is there, and ends when nothing of it is left. Slurm kills what is in the session of the job's
# step: this has one of its own, to be there afterwards, also where ray start was in the midst of it.
setsid ray start "${@:2}" > /dev/null &
session=$!
wait "$session"
trap '' PIPE  # nobody may be there any more to hear it
echo "Ray is there."
exec 2> /dev/null
. clusters/follow-head.sh "$HEAD" "$1" "$session"
