#!/bin/bash
# oarsub --array 8 -S "./oar.sh my_question.yaml": eight workers. OAR passes arguments on to jobs, but
# no environment: `sweep` has to be on the PATH of a login, and the root folder may be given second.
# Ten minutes before its time is up a worker saves its run and ends; a job that ends with 99 is
# submitted again because it is idempotent.
#OAR -n epsweep
#OAR -l host=1/gpu=1,walltime=24:00:00
#OAR -t idempotent
#OAR --checkpoint 600
#OAR --signal 15
export EPSWEEP_ROOT="${2:-$HOME/sweeps/outputs}"
trap 'kill $!' TERM
sweep work "${1:-my_question.yaml}" --idle 300 &
wait $! || wait $! # the first one ends at the signal, the second with the worker
ended=$?
exit $((ended == 143 ? 99 : ended))
