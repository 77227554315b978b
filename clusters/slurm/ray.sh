# Ray on a node of the job, until the process or the head is gone: bash clusters/slurm/ray.sh PROCESS OPTION..., the options
# of ray start. Says when Ray is there. Slurm kills what is in the session of the job's step: this is in none of it, to be
# there afterwards, also where ray start was in the midst of it.
setsid --wait ray start "${@:2}" > /dev/null
echo "Ray is there."
exec > /dev/null 2>&1  # the step ends when nobody can speak any more
. clusters/follow-head.sh "$HEAD" "$1"
